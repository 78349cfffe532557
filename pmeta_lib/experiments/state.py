"""The state of a run, as its folder alone tells it: `result.json` means done, `failure.json` failed, a `lock` in a
living process's hands running. The lock is the kernel's, by filelock: it goes with its process, however that dies, and
knows no clock. `claim.json` in a pack's first folder says which seeds are stacked, and counts vain attempts."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from enum import StrEnum
from pathlib import Path

from filelock import FileLock, Timeout

from pmeta_lib.files import locking, patiently


class State(StrEnum):
    """What can be said of a run; a result counts more than a failure, that than a lock."""

    DONE = "done"
    FAILED = "failed"
    RUNNING = "running"
    WAITING = "waiting"


def ended(folder: Path) -> State | None:
    """Done, failed, or None: there is something to do yet."""
    for name, found in (("result.json", State.DONE), ("failure.json", State.FAILED)):
        if patiently((folder / name).exists):
            return found
    return None


def state(folder: Path) -> State:
    """The state of the run in `folder`. Where locks cannot be asked, a run that was begun counts as running."""
    try:
        return ended(folder) or (State.RUNNING if locked_by_another(folder) else State.WAITING)
    except OSError:
        return State.RUNNING if (folder / "claim.json").exists() else State.WAITING


def settled(folders: list[Path]) -> bool:
    """Whether nothing is to be done for a pack: all its runs are done and tidied away, or have failed."""
    found = [ended(folder) for folder in folders]
    claimed = any(patiently((folder / "claim.json").exists) for folder in folders)
    return None not in found and (State.FAILED in found or not claimed)


def progress(folders: list[Path]) -> list[str]:
    """The runs' ends, or their newest checkpoints' names: what changes with every attempt that was worth something."""

    def newest(folder: Path) -> str:
        with suppress(FileNotFoundError):  # swept away while we looked: the run has just ended
            return max((p.name for p in (folder / "checkpoints").glob("step-*.json")), default="")
        return ""

    return [ended(folder) or patiently(newest, folder) for folder in folders]


def read_json(path: Path) -> dict:
    """A JSON object; {} if the file is missing or was cut short by a kill."""
    with suppress(FileNotFoundError, ValueError):
        if isinstance(found := json.loads(patiently(path.read_bytes)), dict):
            return found
    return {}


# A file system without locks is an error (ENOSYS): filelock's marker files would outlive a worker that is killed.
AT_ONCE: dict = {"timeout": 0, "fallback_to_soft": False}


@contextmanager
def locked(folders: list[Path]) -> Iterator[bool]:
    """Hold the locks of all `folders` (True), or of none: another has one (False). `OSError` where there are none."""
    with ExitStack() as stack:
        for folder in sorted(folders):  # one order for all, though nobody waits
            patiently(folder.mkdir, parents=True, exist_ok=True)
            try:
                stack.enter_context(locking(folder / "lock", **AT_ONCE))
            except Timeout:
                stack.close()
                yield False
                return
        yield True


def locked_by_another(folder: Path) -> bool:
    """Whether a living process works on `folder`. Raises `OSError` where the lock cannot be asked."""
    if not (folder / "lock").exists():
        return False
    lock = FileLock(folder / "lock", **AT_ONCE)
    try:
        lock.acquire()  # not patiently: who asks has other runs to ask of
    except Timeout:
        return True
    patiently(lock.release)
    return False
