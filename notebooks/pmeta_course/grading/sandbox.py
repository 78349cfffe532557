"""A throw-away process for code that nobody trusts: limits everywhere, bubblewrap where it works.

With bubblewrap the code sees the system and the library read-only (without the exercises' right answers), its
own copy of the student's folder, and nothing else: no network, no home, no other process, a user of its own.
Without it there are the limits and the copy only, and `protection` says so.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import psutil

import pmeta_lib
from pmeta_course.grading import sandboxed
from pmeta_course.regression.kernels import GIB, TOKEN, sweep
from pmeta_lib.files import UserError

START_SECONDS = 120  # for our own imports, on a busy machine
COURSE = Path(__file__).parents[1]  # this package; the library that students may use is another
LIBRARY = Path(pmeta_lib.__file__).parent
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives", "/etc/fonts")


@dataclass
class Limits:
    """What one notebook may use: seconds (wall clock, and CPU of each process), bytes, processes with threads."""

    seconds: float = 120
    memory: int = 4 * GIB
    processes: int = 64
    file: int = 100_000_000
    disk: int = 500_000_000


class Ended(BaseException):
    """The process is gone; the text says why. No Exception: a checker reports those as the student's own."""


def _walls(root: bool, disk: int) -> list[str]:
    """The bubblewrap command up to the program: an empty system in which only what is listed exists."""
    command = ["bwrap", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    command += ["--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if root else ["--unshare-user"]
    for path in SYSTEM:
        command += ["--symlink", os.readlink(path), path] if os.path.islink(path) else ["--ro-bind-try", path, path]
    command += ["--proc", "/proc", "--dev", "/dev"]
    for path in ("/tmp", "/dev/shm", "/box"):
        command += ["--size", str(disk), "--perms", "1777", "--tmpfs", path]
    bound = set(map(Path, ("/", "/tmp", *SYSTEM)))
    for folder in map(Path, dict.fromkeys((sys.base_prefix, sys.prefix, str(COURSE), str(LIBRARY)))):
        if folder.is_relative_to("/usr"):
            continue
        for parent in [p for p in reversed(folder.parents) if p not in bound]:
            command += ["--perms", "0755", "--dir", str(parent)]  # or only root could look into them
            bound.add(parent)
        command += ["--ro-bind", str(folder), str(folder)]
        bound.add(folder)
    return [*command, "--tmpfs", str(COURSE / "exercises")]


@cache
def bubblewrap() -> str | None:
    """None if bubblewrap can be used here, else why not."""
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed"
    trial = [*_walls(os.geteuid() == 0, 1 << 20), "--remount-ro", "/", sys.executable, "-c", "pass"]
    done = subprocess.run(trial, capture_output=True, text=True, check=False)
    return f"bubblewrap does not work here: {done.stderr.strip()[-200:]}" if done.returncode else None


def protection(wish: str) -> tuple[bool, str]:
    """(with bubblewrap?, in words). wish: auto, bubblewrap or limits. Raises UserError if it cannot be had."""
    if os.name != "posix":
        raise UserError("pmeta check: running untrusted code needs Linux or macOS; on Windows use WSL")
    why = "asked for" if wish == "limits" else bubblewrap()
    if why is None:
        return True, "bubblewrap: no network, no other files, own processes; limits on time, memory, processes, files"
    if wish == "bubblewrap":
        raise UserError(f"--protection bubblewrap: {why}; install it (Debian: apt-get install bubblewrap)")
    unlimited = ", but not on the number of processes of root" if os.geteuid() == 0 else ""
    return False, (
        f"limits only ({why}): limits on time, memory, processes, files{unlimited}, in a throw-away copy; "
        "the code could read and change whatever you can, and use the network"
    )


class Sandbox:
    """One process behind walls (context manager). `ask` it; when it is gone, `ask` raises Ended."""

    def __init__(self, notebook: Path, material: Path | None, data: Path | None, limits: Limits, walled: bool):
        """notebook: copied, with the other files of the folder material; data: the course's, to be read."""
        self.notebook, self.material, self.data = notebook, material, data and data.absolute()
        self.limits, self.walled = limits, walled
        self.token, self.done = f"sandbox/{uuid.uuid4().hex}", threading.Event()
        self.verdict: str | None = None
        self.started = False

    def __enter__(self):
        self.box = Path(tempfile.mkdtemp(prefix="pmeta-check-"))
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        copy = self.box / "box" / "notebooks"
        if self.material:
            _copy(self.material, copy, self.limits.disk // 2)
        copy.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.notebook, copy / self.notebook.name)
        root = self.walled and os.geteuid() == 0
        folder, command = (Path("/box/notebooks"), _walls(root, self.limits.disk)) if self.walled else (copy, [])
        if self.walled:
            command += ["--ro-bind", str(copy), "/submission"]
            command += ["--ro-bind", str(self.data), "/box/data"] if self.data else []
            command += ["--remount-ro", "/", "--remount-ro", "/dev"]
        elif self.data:
            shutil.copytree(self.data, self.box / "box" / "data")
        ours, theirs = socket.socketpair()
        self.channel, self.deadline = sandboxed.Channel(ours), time.monotonic() + START_SECONDS
        with open(self.box / "log", "wb") as log:
            self.process = subprocess.Popen(
                [*command, sys.executable, sandboxed.__file__, str(theirs.fileno())], pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, cwd="/", start_new_session=True,
                env=self._environment("/tmp" if self.walled else str(self.box)),
            )  # fmt: skip
        theirs.close()
        self.watch = threading.Thread(target=self._watch, daemon=True)
        self.watch.start()
        limits = asdict(self.limits) | {"seconds": int(self.limits.seconds) + 10}
        self.ask(
            limits=limits, folder=str(folder), copy="/submission" if self.walled else None,
            library=[str(LIBRARY.parent), str(COURSE.parent)], user=2**30 + os.getpid() if root else None,
        )  # fmt: skip
        self.started, self.deadline = True, time.monotonic() + self.limits.seconds  # the student's time begins now

    def _environment(self, home: str) -> dict:
        """Nothing of the teacher's environment, which may hold secrets, but what programs need."""
        own = {"PATH": "/usr/local/bin:/usr/bin:/bin", "USER": "student", "LANG": "C.UTF-8", TOKEN: self.token}
        own |= dict.fromkeys(("HOME", "TMPDIR", "MPLCONFIGDIR", "IPYTHONDIR"), home)
        own |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")}
        own |= {"PYTHONDONTWRITEBYTECODE": "1", "CUDA_VISIBLE_DEVICES": "", "MUJOCO_GL": "disabled"}
        return own | {"MPLBACKEND": "agg"}

    def _watch(self) -> None:
        """Time, memory of all processes together, and their number, which the system does not limit for root."""
        limits, family = self.limits, psutil.Process(self.process.pid)
        while not self.done.wait(0.1):
            with contextlib.suppress(psutil.Error):
                members, used = [family, *family.children(recursive=True)], 0
                for member in members:
                    with contextlib.suppress(psutil.Error):
                        used += member.memory_info().rss
                if len(members) > limits.processes:
                    return self.end(f"too many processes: more than {limits.processes}")
                if used > limits.memory:
                    return self.end(f"out of memory: more than {limits.memory / GIB:.2g} GiB")
            if time.monotonic() > self.deadline:
                return self.end(f"time limit: still running after {limits.seconds:g} s")

    def end(self, why: str) -> None:
        """Kill the process; the channel is shut, too, since a process that escaped may hold its other end."""
        self.verdict = self.verdict or why
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            self.channel.link.shutdown(socket.SHUT_RDWR)

    def ask(self, **message) -> dict:
        """Send a message, return the reply. Raises Ended if none comes in time."""
        try:
            self.channel.send(**message)
            return self.channel.receive()
        except (OSError, EOFError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self.process.wait(2)
                log = (self.box / "log").read_text(errors="replace").split("\n")
                last = "" if self.started else f" ({''.join(log[-2:])[:200]})"  # later the student's prints are there
                self.verdict = self.verdict or f"its process ended by itself, with exit code {code}{last}"
            self.end("its process closed the channel")
        except (ValueError, RecursionError) as error:
            self.end(f"its process sent {error}")
        raise Ended(self.verdict)

    def __exit__(self, *exception):
        self.done.set()
        if hasattr(self, "process"):
            self.end("graded")
            self.process.wait()
            sweep(self.token)
            self.watch.join()
            self.channel.link.close()
        shutil.rmtree(self.box, ignore_errors=True)


def _copy(folder: Path, target: Path, most: int) -> None:
    """Copy what a student handed in: no links (they may point anywhere), no other notebooks, readable by all."""
    total = 0
    for path in sorted(folder.rglob("*")):
        copy = target / path.relative_to(folder)
        if path.is_symlink() or not path.is_file() or path.suffix == ".ipynb" or "/." in f"/{path.relative_to(folder)}":
            continue
        total += path.stat().st_size
        if total > most:
            raise Ended(f"{folder.name} holds more than {most / 1e6:.0f} MB")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
