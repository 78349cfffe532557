"""One watched kernel: local sockets, a log file, limits, and an end that leaves no process behind.

The watch looks at the *process*, five times a second, so a kernel that was killed, stopped, ran out of memory, or never
ends is seen at once and named as what it was; the channels alone would only fall silent.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import psutil

from pmeta_course.regression import machine
from pmeta_course.regression.compare import RECORD_FILE

TOKEN = "PMETA_KERNEL"  # an environment variable that marks a kernel and everything it starts
GIB = 2**30


@dataclass
class Limits:
    """What one notebook may use: seconds, bytes of memory, bytes of printed text and of all output."""

    seconds: float
    memory: float
    text: int = 2_000_000
    output: int = 30_000_000


def sweep(token: str) -> None:
    """Kill every process that carries this token: kernels, and whatever they started, even detached."""
    for _ in range(5):  # one that forks while we look is caught in the next round
        found = False
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(TOKEN, "").startswith(token) and process.pid != os.getpid():
                    process.kill()
                    found = True
        if not found:
            return


class Kernel:
    """A kernel process of this interpreter, its log file, and a thread that watches it (context manager)."""

    def __init__(self, job, token: str, stop: threading.Event):
        self.job, self.stop = job, stop
        self.token = f"{token}.{uuid.uuid4().hex[:8]}"
        self.log = job.executed.with_suffix(".log")
        self.records = job.executed.with_suffix(".values.jsonl")
        self.notebook = self.current = None  # what is executed in it, and the last cell that was started
        self.verdict: tuple[str, str] | None = None
        self.bytes = self.text = self.seconds = self.peak = 0.0
        self.done = threading.Event()
        self.outlived = False  # whether its process was alive when the run had ended, one way or the other

    def __enter__(self):
        from jupyter_client.kernelspec import KernelSpecManager
        from jupyter_client.manager import AsyncKernelManager, run_sync

        # Socket paths are limited to about 100 characters, which a long TMPDIR can exceed.
        short = "/tmp" if os.name == "posix" and os.access("/tmp", os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="pm", dir=short))
        # without folders to look in, python3 is this interpreter, whatever kernels the user has installed
        self.manager = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]), kernel_name="python3")
        self.manager.connection_file = str(self.folder / "k.json")
        if os.name == "posix":
            self.manager.transport, self.manager.ip = "ipc", str(self.folder / "k")
        self.started = time.monotonic()
        self.kills_before = machine.out_of_memory_kills()
        self.records.unlink(missing_ok=True)
        with open(self.log, "wb") as log:
            run_sync(self.manager.start_kernel)(
                extra_arguments=["--HistoryManager.hist_file=:memory:"], env=self._environment(),
                cwd=str(self.job.source.parent), stdout=log, stderr=log,
            )  # fmt: skip
        self.process: subprocess.Popen = self.manager.provisioner.process
        with contextlib.suppress(OSError):  # if memory runs out, the kernel goes and the runner stays
            Path(f"/proc/{self.process.pid}/oom_score_adj").write_text("900")
        self.watch = threading.Thread(target=self._watch, daemon=True)
        self.watch.start()
        return self

    def _environment(self) -> dict:
        own = {TOKEN: self.token, RECORD_FILE: str(self.records), "IPYTHONDIR": str(self.folder)}
        own |= {"PYTHONIOENCODING": "utf-8", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        libraries = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "VECLIB_MAXIMUM")
        own |= {f"{library}_NUM_THREADS": str(self.job.threads) for library in libraries}
        return {k: v for k, v in os.environ.items() if k != "MPLBACKEND"} | self.job.environment | own

    def _watch(self) -> None:
        limits, ticks, family = self.job.limits, 0, 0
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process.pid)
            while not self.done.wait(0.2) and self.process.poll() is None:
                if ticks % 10 == 0:  # the children are looked for less often: that reads the whole process table
                    family = 0
                    for child in process.children(recursive=True):
                        with contextlib.suppress(psutil.Error):
                            family += child.memory_info().rss
                ticks += 1
                self.peak = max(self.peak, process.memory_info().rss + family)
                if self.stop.is_set():
                    return self.end("stopped", "the run was stopped")
                if self.peak > limits.memory:
                    text = f"used {self.peak / GIB:.2f} GiB of at most {limits.memory / GIB:.2f} GiB"
                    return self.end("out of memory", text)
                if time.monotonic() - self.started > limits.seconds:
                    return self.end("time limit", f"still running at its limit of {limits.seconds:.0f} s", gently=True)
                if self.log.stat().st_size > limits.output:
                    return self.end("output limit", f"its process wrote more than {limits.output / 1e6:.0f} MB")
                if process.status() == psutil.STATUS_STOPPED:
                    return self.end("killed", "the kernel was stopped by a signal (SIGSTOP)")

    def end(self, reason: str, message: str, gently: bool = False) -> None:
        """Note why, and kill the kernel; gently: interrupt it first, and the traceback says where it was."""
        self.verdict = self.verdict or (reason, message)
        if gently:
            self.process.send_signal(signal.SIGINT)
            if self.done.wait(2):
                return
        self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(OSError):
            if os.name == "posix":
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()

    def count(self, text: float = 0, output: float = 0) -> None:
        """Add to the characters that stand in the notebook and to its output; beyond a limit the notebook ends."""
        self.text, self.bytes = self.text + text, self.bytes + output
        limits = self.job.limits
        for what, size, limit in (("text", self.text, limits.text), ("output", self.bytes, limits.output)):
            if size > limit and not self.verdict:
                self.verdict = ("output limit", f"more than {limit / 1e6:.0f} MB of {what}")
                threading.Thread(target=self.end, args=(*self.verdict, True), daemon=True).start()

    def cause_of_death(self) -> tuple[str, str]:
        """Why the kernel's process ended, from its exit status (call when it is dead or about to be)."""
        if self.verdict:
            return self.verdict
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2)
        code = self.process.returncode or 0
        if code >= 0:
            return "exited", f"the kernel ended by itself with exit code {code}"
        name = signal.Signals(-code).name
        kills = machine.out_of_memory_kills() - self.kills_before
        if code == -signal.SIGKILL and (kills > 0 or self.peak > 0.9 * machine.memory()):
            return "out of memory", f"the system killed the kernel, which used {self.peak / GIB:.2f} GiB"
        return "killed", f"the kernel was killed by {name}"

    def __exit__(self, *exception):
        from jupyter_client.manager import run_sync

        self.outlived = self.process.poll() is None
        with contextlib.suppress(RuntimeError, OSError):  # and its sockets and files, gently if it still serves
            run_sync(self.manager.shutdown_kernel)(now=not self.outlived or self.verdict is not None)
        self.done.set()
        self._kill()
        sweep(self.token)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.watch.join()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.seconds = time.monotonic() - self.started
        if self.log.stat().st_size == 0:
            self.log.unlink()
