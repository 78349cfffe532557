"""What this machine has: cores, memory, a way to render off-screen."""

import ctypes.util
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import psutil


def cores() -> int:
    """Cores this process may use: affinity and the container's quota are respected."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup("cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        count = min(count, max(1, int(quota[0]) // int(quota[1])))
    return count


def memory() -> int:
    """Bytes of memory this process may use: the container's limit, else what the machine has."""
    limits = [_cgroup("memory.max"), _cgroup("memory/memory.limit_in_bytes")]
    return min([psutil.virtual_memory().total, *(int(x) for x in limits if x.isdigit())])


def out_of_memory_kills() -> int:
    """How often the kernel of the operating system has killed a process of this container for memory."""
    events = dict(line.split() for line in _cgroup("memory.events").splitlines())
    return int(events.get("oom_kill", 0))


def _cgroup(name: str) -> str:
    try:
        return (Path("/sys/fs/cgroup") / name).read_text().strip()
    except OSError:
        return ""


_RENDER = (
    "import mujoco; world = '<worldbody><geom size=\".1\"/></worldbody>';"
    "m = mujoco.MjModel.from_xml_string(f'<mujoco>{world}</mujoco>'); d = mujoco.MjData(m);"
    "mujoco.mj_forward(m, d); r = mujoco.Renderer(m, 32, 32); r.update_scene(d); r.render(); r.close()"
)


@cache
def off_screen() -> str | None:
    """The value of MUJOCO_GL that renders off-screen here, tried in another process; None if none does."""
    chosen = os.environ.get("MUJOCO_GL")
    for gl, library in [(chosen, None)] if chosen else [("egl", "EGL"), ("osmesa", "OSMesa")]:
        if library and not ctypes.util.find_library(library):
            continue
        command, env = [sys.executable, "-c", _RENDER], os.environ | {"MUJOCO_GL": gl}
        try:
            if subprocess.run(command, env=env, capture_output=True, timeout=30).returncode == 0:
                return gl
        except subprocess.TimeoutExpired:
            continue
    return None
