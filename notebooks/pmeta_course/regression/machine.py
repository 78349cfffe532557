"""What this machine has: cores, memory, a way to render off-screen."""

import contextlib
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
    for quota, period in (text.split() for text in _cgroups("cpu.max")):
        if quota.isdigit():
            count = min(count, max(1, int(quota) // int(period)))
    return count


def memory() -> int:
    """Bytes of memory this process may use: the container's limit, else what the machine has."""
    limits = _cgroups("memory.max") + _cgroups("memory/memory.limit_in_bytes")
    return min([psutil.virtual_memory().total, *(int(x) for x in limits if x.isdigit())])


def out_of_memory_kills() -> int:
    """How often the kernel of the operating system has killed a process to get memory back, in any container."""
    try:
        return int(dict(line.split() for line in open("/proc/vmstat")).get("oom_kill", 0))
    except OSError:
        return 0


def _cgroups(name: str) -> list[str]:
    """A file of this process's control group and of all groups above it ("memory/…": in version 1 of the groups)."""
    own = []
    with contextlib.suppress(OSError):
        own = [line.strip().split(":", 2) for line in open("/proc/self/cgroup")]
    tree, _, file = name.rpartition("/")
    paths = [Path("/sys/fs/cgroup", tree, path.lstrip("/")) for _, kind, path in own if kind == tree]
    folders = dict.fromkeys(folder for path in paths for folder in (path, *path.parents))
    return [(folder / file).read_text().strip() for folder in folders if (folder / file).is_file()]


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
        with contextlib.suppress(subprocess.TimeoutExpired):
            if subprocess.run(command, env=env, capture_output=True, timeout=30).returncode == 0:
                return gl
    return None
