"""Run notebooks headlessly with papermill, each in a watched kernel that never outlives its notebook.

papermill injects the parameters and executes the cells. Around it stands what it lacks: an early end that is no
success, and every fault named as what it was.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import nbformat

from pmeta_course.regression import literals
from pmeta_course.regression.compare import Row, read_records
from pmeta_course.regression.kernels import TOKEN, Kernel, Limits
from pmeta_course.regression.structure import code_cells, load, texts

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
TAIL_LINES, TAIL_WIDTH = 12, 300


@dataclass
class Job:
    """One notebook to run: where it is, what is injected, where its results go."""

    name: str
    source: Path
    executed: Path
    parameters: dict
    limits: Limits
    threads: int = 1
    expected_seconds: float | None = None
    environment: dict = field(default_factory=dict)


@dataclass
class Result:
    """What became of one notebook. `reason` says in one or two words why it failed, `message` in one line."""

    name: str
    status: str = "passed"  # passed | failed | not run
    reason: str = ""
    message: str = ""
    cell: int | None = None  # position in the source notebook, the first cell is 1
    cell_id: str | None = None
    execution_count: int | None = None
    cell_source: str = ""
    tail: str = ""
    seconds: float = 0.0
    kernel_seconds: float = 0.0
    expected_seconds: float | None = None
    executed: str = ""
    parameters: dict = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    values: dict = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    figures: list = field(default_factory=list)

    def plain_parameters(self) -> dict:
        """The parameters as strict JSON."""
        return {name: literals.to_json(value) for name, value in self.parameters.items()}

    def fail(self, reason: str, message: str) -> None:
        """Mark as failed; the first reason stays the reason, later ones are added to the problems."""
        if self.status == "failed":
            self.problems.append(message)
        else:
            self.status, self.reason, self.message = "failed", reason, message


def run_notebook(job: Job, token: str, stop: threading.Event) -> Result:
    """Execute one notebook; whatever happens becomes a Result, and the executed notebook is written."""
    from pmeta_course.regression import engine

    result = Result(job.name, executed=str(job.executed), expected_seconds=job.expected_seconds)
    begin = time.monotonic()
    source, kernel = load(job.source), Kernel(job, token, stop)
    parameters = {name: literals.source(value) for name, value in job.parameters.items()}
    died = False
    try:
        with kernel:
            engine.execute(load(job.source), parameters, kernel)
    except Exception as error:  # noqa: BLE001 - a kernel may die in many ways; all of them are reported
        died = True
        result.message = f"{type(error).__name__}: {error}"
    if kernel.notebook is not None:
        nbformat.write(kernel.notebook, job.executed)
    result.kernel_seconds = kernel.seconds
    result.values, twice = read_records(kernel.records)
    kernel.records.unlink(missing_ok=True)
    _classify(result, kernel, source, died)
    for name in twice:
        result.fail("values", f"the value {name!r} is recorded twice: give each its own name")
    result.seconds = time.monotonic() - begin
    return result


def _classify(result: Result, kernel: Kernel, source, died: bool) -> None:
    """Say what went wrong, if anything did, and in which cell."""
    position = {cell.id: i for i, cell in enumerate(source.cells, 1)}
    cells = [cell for _, cell in code_cells(kernel.notebook)] if kernel.notebook else []
    ours = [c for c in cells if "skip-execution" not in c.metadata.get("tags", [])]
    failing = next((c for c in ours if _error(c)), None)
    late = next((c for c in ours if c.execution_count is None), None)
    current = failing or (kernel.current if died or kernel.verdict else late)
    if current is not None:
        result.cell, result.cell_id = position.get(current.get("id")), current.get("id")
        result.execution_count, result.cell_source = current.get("execution_count"), current.source
        result.tail = _tail(current)
    where = f" in cell {result.cell}" if result.cell else ""
    where += f" (In [{result.execution_count}])" if result.cell and result.execution_count else ""
    if kernel.verdict or died:
        reason, message = kernel.cause_of_death()
        if kernel.outlived and not kernel.verdict:  # it was alive when the run broke off: the fault is elsewhere
            reason, message = "no answer", f"the notebook could not be run on ({result.message})"
        if not result.tail and kernel.log.exists():
            result.tail = kernel.log.read_text(errors="replace")[-2000:]
        result.fail(reason, f"{message}{where or ' while it started'}")
    elif failing is not None:
        error = _error(failing)
        text = ANSI.sub("", f"{error.ename}: {error.evalue}")[:300]
        if error.ename == "SystemExit" and error.evalue in ("", "0", "None"):
            result.fail("ended early", f"the notebook ends early by sys.exit(){where}: the later cells did not run")
        else:
            full = error.ename.endswith("MemoryError") or "can't allocate memory" in error.evalue
            result.fail("out of memory" if full else "exception", f"{text}{where}")
    elif late is not None:
        result.fail("ended early", f"the notebook ended before cell {result.cell}, which was not executed")


def _error(cell):
    """The error output of a cell, unless the cell is tagged as raising one on purpose."""
    if "raises-exception" in cell.metadata.get("tags", []):
        return None
    error = next((o for o in cell.get("outputs", []) if o.output_type == "error"), None)
    if error is None and cell.metadata.get("papermill", {}).get("exception"):
        return nbformat.v4.new_output("error", ename="error", evalue="its message could not be sent", traceback=[])
    return error


def _tail(cell) -> str:
    """The last lines of a cell's printed output and traceback."""
    printed = [texts(o).removesuffix("\n") for o in cell.get("outputs", []) if o.output_type in ("stream", "error")]
    lines = ANSI.sub("", "\n".join(printed)[-8000:]).rstrip().splitlines()[-TAIL_LINES:]
    return "\n".join(line if len(line) <= TAIL_WIDTH else line[:TAIL_WIDTH] + " …" for line in lines)


def run_all(jobs: list[Job], workers: int, finish, tick) -> None:
    """Run the jobs, longest first, `workers` at a time: `finish(job, result)` as each ends, `tick(names of those that
    run)` now and then. Every kernel is gone when this returns or raises; if this process is killed outright, a small
    helper that waits for its end kills them. Raises KeyboardInterrupt(results so far) on Ctrl-C and SIGTERM."""
    token, stop = f"{os.environ.get(TOKEN, 'run')}/{uuid.uuid4().hex}", threading.Event()
    code = "import sys; sys.stdin.read(); from pmeta_course.regression.kernels import sweep; sweep(sys.argv[1])"
    helper = subprocess.Popen(
        [sys.executable, "-c", code, token],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip

    def start(job: Job) -> Result:
        if stop.is_set():
            return Result(job.name, "not run", "stopped", "the run was stopped before this notebook started")
        try:
            return run_notebook(job, token, stop)
        except Exception as error:  # noqa: BLE001 - one broken notebook must not stop the others
            return Result(job.name, "failed", "runner", f"{type(error).__name__}: {error}", executed=str(job.executed))

    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler) if in_main else None
    order = sorted(jobs, key=lambda j: -(j.expected_seconds or 0)) if workers > 1 else jobs
    pool = ThreadPoolExecutor(workers)
    futures = {pool.submit(start, job): job for job in order}
    try:
        pending = set(futures)
        while pending:
            done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                finish(futures[future], future.result())
            tick([job.name for future, job in futures.items() if future.running()])
    except KeyboardInterrupt:
        stop.set()
        raise KeyboardInterrupt([future.result() for future in futures]) from None
    finally:
        stop.set()
        pool.shutdown()
        helper.kill()
        helper.communicate()
        if in_main:
            signal.signal(signal.SIGTERM, before)
