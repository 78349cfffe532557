"""Run notebooks headlessly with papermill, each in a watched kernel that never outlives its notebook.

papermill injects the parameters and executes the cells. Around it stands what it lacks: a kernel of this very
interpreter that is watched, an early end that is no success, and every fault named as what it was.
"""

import itertools
import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
import warnings
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty

import nbformat

from pmeta_course.regression import literals
from pmeta_course.regression.compare import Row, read_records
from pmeta_course.regression.kernels import TOKEN, Kernel, Limits
from pmeta_lib.files import json_text

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
TAIL_LINES, TAIL_WIDTH = 12, 300
POLL_SECONDS = 1.0  # how long a reply of the kernel may lie there unseen


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


def _engine():
    """papermill's engine and client with our kernel and an output limit."""
    from nbclient.exceptions import DeadKernelError
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine

    class Client(PapermillNotebookClient):
        kernel: Kernel
        current = None

        def start_new_kernel_client(self, **kwargs):
            client = super().start_new_kernel_client(**kwargs)
            client.shell_channel.get_msg = patient(client.shell_channel.get_msg)
            return client

        def execute_cell(self, cell, cell_index, **kwargs):
            if self.kernel.verdict:  # a cell may survive the interrupt that was to end the notebook
                raise DeadKernelError(self.kernel.verdict[1])
            self.current = cell
            return super().execute_cell(cell, cell_index, **kwargs)

        def process_message(self, msg, cell, cell_index):
            if msg["msg_type"] in ("stream", "display_data", "execute_result"):
                if self.kernel.verdict:
                    return None
                # text that is overwritten costs time only; many tiny outputs cost more than their bytes
                content = msg["content"]
                data = 20_000 + sum(len(str(v)) for v in content.get("data", {}).values())
                self.kernel.count(output=len(content["text"]) / 10 if msg["msg_type"] == "stream" else data)
            return super().process_message(msg, cell, cell_index)

        def output(self, outs, msg, display_id, cell_index):
            """One output for all of stdout and one for stderr. nbclient's coalesce_streams moves other outputs,
            which breaks later updates of a display, and takes time with the square of a line's length."""
            out = super().output(outs, msg, display_id, cell_index)
            if out is not None and out.output_type == "stream":
                first = next(o for o in outs if o.output_type == "stream" and o.name == out.name)
                if first is not out:
                    outs.pop()
                before = "" if first is out else first.text
                head, newline, line = before.rpartition("\n")
                text = head + newline + redrawn(line + out.text)
                first.text = text[: self.kernel.job.limits.text]
                self.kernel.count(text=len(text) - len(before))
            return out

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, kernel=None, **kwargs):
            log = logging.getLogger("pmeta.kernels")  # what it would say is in the result
            log.propagate, log.handlers = False, [logging.NullHandler()]
            client = Client(nb_man, km=kernel.manager, timeout=None, startup_timeout=120, iopub_timeout=30, log=log)
            client.kernel, kernel.notebook = kernel, nb_man.nb
            try:
                client.execute()
            finally:
                kernel.current = client.current
                if client.kc is not None:
                    client.kc.stop_channels()

    return Engine


def _translator():
    """papermill's translator to Python with our literals."""
    from papermill.translators import PythonTranslator

    class Translator(PythonTranslator):
        @classmethod
        def translate(cls, val):
            return str(val) if isinstance(val, Source) else super().translate(val)

    return Translator


def patient(get_msg):
    """`get_msg` of a channel that asks again and again instead of once for ever.

    A message that is sent to the kernel from within a callback (an Output widget's) can use up the signal that a reply
    has come, which then lies there unseen (nbclient 0.11, pyzmq 27).
    """
    from jupyter_core.utils import ensure_async

    async def ask(timeout: float | None = None):
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return await ensure_async(get_msg(timeout=max(0.0, min(POLL_SECONDS, deadline - time.monotonic()))))
            except Empty:
                if time.monotonic() >= deadline:
                    raise

    return ask


class Source(str):
    """Source code of a parameter's value, on its way through papermill, which knows no tuple, set or bytes."""


def redrawn(text: str) -> str:
    """The text as a terminal would show it: what stands before a carriage return in a line is overwritten."""
    lines = []
    for line in text.split("\n"):
        kept = line.rstrip("\r")
        lines.append(kept[kept.rfind("\r") + 1 :] + line[len(kept) :])
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------- one notebook


def load(path: Path):
    """The notebook at `path` in the newest format, every cell with an id of its own. Raises ValueError if it is none.

    A cell without an id (files older than nbformat 4.5) gets one by its position, so does the second of two cells with
    the same id: reading a file twice gives the same ids, by which outputs and messages find their cell. nbformat
    itself would draw new ones at each reading.
    """
    raw = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    if not isinstance(raw, dict) or not isinstance(raw.get("cells", raw.get("worksheets")), list):
        raise ValueError("it has no list of cells")
    with warnings.catch_warnings():  # of missing and double ids, which are put right here
        warnings.simplefilter("ignore")
        nb = nbformat.from_dict(
            nbformat.v4.upgrade(nbformat.reads(json_text(raw), as_version=4))
        )  # format 3 is a class of its own
    nb.nbformat_minor = max(5, nb.nbformat_minor)
    own = [c.get("id") if raw.get("nbformat_minor", 0) >= 5 else None for c in raw.get("cells", [])]
    own += [None] * (len(nb.cells) - len(own))
    taken = set()
    for i, (cell, name) in enumerate(zip(nb.cells, own)):
        if not isinstance(name, str) or name in taken:
            name = next(n for k in itertools.count() if (n := f"cell-{i}" + f"-{k}" * bool(k)) not in {*own, *taken})
        if not isinstance(cell.get("source"), str):  # nbformat only warns of it
            raise ValueError(f"cell {i + 1} has no source")
        cell.id = name
        taken.add(name)
    return nb


def run_notebook(job: Job, token: str, stop: threading.Event) -> Result:
    """Execute one notebook; whatever happens becomes a Result, and the executed notebook is written."""
    import papermill
    from papermill.engines import papermill_engines
    from papermill.exceptions import PapermillExecutionError
    from papermill.translators import papermill_translators

    result = Result(job.name, executed=str(job.executed), expected_seconds=job.expected_seconds)
    begin = time.monotonic()
    source, kernel = load(job.source), Kernel(job, token, stop)
    papermill_engines.register("pmeta", _engine())
    papermill_translators.register("python", _translator())
    parameters = {name: Source(literals.source(value)) for name, value in job.parameters.items()}
    died = False
    try:
        with kernel:
            papermill.execute_notebook(
                load(job.source), str(job.executed).replace("{", "{{").replace("}", "}}"), parameters,
                engine_name="pmeta", kernel_name="python3", language="python", progress_bar=False, kernel=kernel,
                request_save_on_cell_execute=False,  # twice a cell: seconds, for a long notebook with figures
            )  # fmt: skip
    except PapermillExecutionError:
        pass  # the error is in the cell's outputs
    except Exception as error:  # noqa: BLE001 - a kernel may die in many ways; all of them are reported
        died = True
        result.message = f"{type(error).__name__}: {error}"
    nb = kernel.notebook
    if died and nb is not None:
        nbformat.write(nb, job.executed)
    result.kernel_seconds = kernel.seconds
    result.values, twice = read_records(kernel.records)
    kernel.records.unlink(missing_ok=True)
    _classify(result, kernel, nb, source, died)
    for name in twice:
        result.fail("values", f"the value {name!r} is recorded twice: give each its own name")
    result.seconds = time.monotonic() - begin
    return result


def _classify(result: Result, kernel: Kernel, nb, source, died: bool) -> None:
    """Say what went wrong, if anything did, and in which cell."""
    position = {cell.id: i + 1 for i, cell in enumerate(source.cells)}
    cells = [c for c in (nb.cells if nb is not None else []) if c.cell_type == "code" and c.source.strip()]
    ours = [c for c in cells if "skip-execution" not in c.metadata.get("tags", [])]
    failing = next((c for c in ours if _error(c)), None)
    current = failing or kernel.current
    if current is not None and (died or kernel.verdict or failing):
        result.cell, result.cell_id = position.get(current.get("id")), current.get("id")
        result.execution_count, result.cell_source = current.get("execution_count"), current.source
        result.tail = _tail(current)
    place = f" in cell {result.cell}" if result.cell else ""
    place += f" (In [{result.execution_count}])" if result.cell and result.execution_count else ""
    if kernel.verdict or died:
        reason, message = kernel.cause_of_death()
        if kernel.outlived and not kernel.verdict:  # it was alive when the run broke off: the fault is elsewhere
            reason, message = "no answer", f"the notebook could not be run on ({result.message})"
        if not result.tail and kernel.log.exists():
            result.tail = kernel.log.read_text(errors="replace")[-2000:]
        result.fail(reason, f"{message}{place or ' while it started'}")
    elif failing is not None:
        error = _error(failing)
        text = ANSI.sub("", f"{error.ename}: {error.evalue}")[:300]
        if error.ename == "SystemExit" and error.evalue in ("", "0", "None"):
            result.fail("ended early", f"the notebook ends early by sys.exit(){place}: the later cells did not run")
        elif error.ename.endswith("MemoryError") or "can't allocate memory" in error.evalue:
            result.fail("out of memory", f"{text}{place}")
        else:
            result.fail("exception", f"{text}{place}")
    else:
        late = [c for c in ours if c.execution_count is None]
        if late:
            result.cell, result.cell_id = position.get(late[0].get("id")), late[0].get("id")
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
    text = ""
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            text += output.text
        elif output.output_type == "error":
            text += "\n".join(output.traceback) + "\n"
    lines = ANSI.sub("", text[-8000:]).rstrip().splitlines()[-TAIL_LINES:]
    return "\n".join(line if len(line) <= TAIL_WIDTH else line[:TAIL_WIDTH] + " …" for line in lines)


# --------------------------------------------------------------------------------------- many notebooks


class Stopped(KeyboardInterrupt):
    """The run was interrupted; carries the results so far."""

    def __init__(self, results: list[Result]):
        super().__init__()
        self.results = results


def run_all(jobs: list[Job], workers: int, finish, tick=lambda running: None) -> list[Result]:
    """Run the jobs, longest first, `workers` at a time; `finish(job, result)` is called as each ends.

    Every kernel is gone when this returns or raises. If this process is killed outright, a small helper that
    waits for its end kills the kernels. Raises Stopped (a KeyboardInterrupt) on Ctrl-C and SIGTERM.
    """
    token, stop = f"{os.environ.get(TOKEN, 'run')}/{uuid.uuid4().hex}", threading.Event()
    results, running = {}, {}
    code = "import sys; sys.stdin.read(); from pmeta_course.regression.kernels import sweep; sweep(sys.argv[1])"
    helper = subprocess.Popen(
        [sys.executable, "-c", code, token],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip

    def start(job: Job) -> Result:
        if stop.is_set():
            return Result(job.name, "not run", "stopped", "the run was stopped before this notebook started")
        running[job.name] = time.monotonic()
        try:
            return run_notebook(job, token, stop)
        except Exception as error:  # noqa: BLE001 - one broken notebook must not stop the others
            result = Result(job.name, executed=str(job.executed))
            result.fail("runner", f"{type(error).__name__}: {error}")
            return result
        finally:
            running.pop(job.name, None)

    def interrupt(*_):
        raise KeyboardInterrupt

    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, interrupt) if in_main else None
    order = sorted(jobs, key=lambda j: -(j.expected_seconds or 0)) if workers > 1 else jobs
    pool = ThreadPoolExecutor(workers)
    futures = {pool.submit(start, job): job for job in order}
    try:
        pending = set(futures)
        while pending:
            done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                results[futures[future].name] = future.result()
                finish(futures[future], future.result())
            tick(dict(running))
    except KeyboardInterrupt:
        stop.set()
        for future in futures:
            results.setdefault(futures[future].name, future.result())
        raise Stopped([results[job.name] for job in jobs]) from None
    finally:
        stop.set()
        pool.shutdown()
        helper.kill()
        helper.communicate()
        if in_main:
            signal.signal(signal.SIGTERM, before)
    return [results[job.name] for job in jobs]
