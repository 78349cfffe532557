"""SIGTERM and SIGUSR2 ask a training to save: clusters send them some time before they take a machine away. A handler
may run between any two instructions, where a run is in no state to be saved. So it only takes note; the training loop
looks after each step, saves, and calls `answer`."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread

LEAVE = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR2") if hasattr(signal, name))
_unanswered: list[tuple[int, bool]] = []


class Left(BaseException):
    """The process was asked to end, and its training has written a checkpoint; its text names the signal that asked."""


@contextmanager
def heeded(leave: tuple[int, ...] = LEAVE, save: tuple[int, ...] = ()) -> Iterator[None]:
    """Inside, the signals `leave` end no process at once: they ask for a checkpoint, then `Left` is raised; `save` ask
    for a checkpoint only; a second Ctrl-C waits for none. Outside of the main thread Python allows no handler."""

    def note(number: int, frame) -> None:
        if number == signal.SIGINT and asked():
            raise KeyboardInterrupt
        _unanswered.append((number, number in leave))

    before = {n: signal.signal(n, note) for n in (*leave, *save) if current_thread() is main_thread()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _unanswered.clear()


def asked() -> bool:
    """Whether a signal waits for its checkpoint."""
    return bool(_unanswered)


def answer() -> None:
    """All that is worth keeping is saved: raise `Left` if a signal asked this process to end, else return."""
    while _unanswered:
        number, leave = _unanswered.pop()
        if leave:
            raise Left(signal.Signals(number).name)
