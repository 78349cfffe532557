"""papermill's engine, client and translator with what they lack: a watched kernel, an output limit, all literals."""

import contextlib
import logging
import re
from queue import Empty

import papermill
from nbclient.exceptions import DeadKernelError
from nbclient.util import ensure_async
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.translators import PythonTranslator, papermill_translators

from pmeta_course.regression.kernels import Kernel

POLL_SECONDS = 1.0  # how long a reply of the kernel may lie there unseen


class Translator(PythonTranslator):
    """Parameters come as source code: papermill itself knows no tuple, set or bytes."""

    translate = PythonTranslator.translate_raw_str


class Client(PapermillNotebookClient):
    kernel: Kernel

    def start_new_kernel_client(self, **kwargs):
        client = super().start_new_kernel_client(**kwargs)
        client.shell_channel.get_msg = patient(client.shell_channel.get_msg)
        return client

    def execute_cell(self, cell, cell_index, **kwargs):
        if self.kernel.verdict:  # a cell may survive the interrupt that was to end the notebook
            raise DeadKernelError(self.kernel.verdict[1])
        self.kernel.current = cell
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
        """One output for all of stdout and one for stderr. nbclient's coalesce_streams moves other outputs, which
        breaks later updates of a display, and takes time with the square of a line's length."""
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
        log.disabled = True
        client = Client(nb_man, km=kernel.manager, timeout=None, startup_timeout=120, iopub_timeout=30, log=log)
        client.kernel, kernel.notebook = kernel, nb_man.nb
        try:
            client.execute()
        finally:
            if client.kc is not None:
                client.kc.stop_channels()


papermill_engines.register("pmeta", Engine)
papermill_translators.register("source code", Translator)


def execute(nb, parameters: dict[str, str], kernel: Kernel) -> None:
    """Run a notebook in a started kernel, with parameters given as source code. The outcome is `kernel.notebook`; a
    cell's exception is among its outputs, anything else is raised as it comes."""
    how = {"engine_name": "pmeta", "kernel_name": "python3", "language": "source code", "progress_bar": False}
    with contextlib.suppress(papermill.PapermillExecutionError):
        papermill.execute_notebook(nb, None, parameters, kernel=kernel, **how)


def patient(get_msg):
    """`get_msg` of a channel that asks again and again instead of once for ever: a message that is sent to the kernel
    from within a callback (an Output widget's) can use up the signal that a reply has come, which then lies there
    unseen (nbclient 0.11, pyzmq 27)."""

    async def ask(timeout: float | None = None):
        while timeout is None:
            with contextlib.suppress(Empty):
                return await ensure_async(get_msg(timeout=POLL_SECONDS))
        return await ensure_async(get_msg(timeout=timeout))

    return ask


def redrawn(text: str) -> str:
    """The text as a terminal would show it: what stands before a carriage return in a line is overwritten."""
    return re.sub(r"(?m)^.*\r(?=[^\r\n])", "", text)
