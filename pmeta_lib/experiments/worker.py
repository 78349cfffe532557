"""One worker of a sweep: it claims packs of runs in the sweep's folder, one after the other, and trains them.

Every engine starts this and nothing else; workers talk to nobody, the run folders are all they share. A run is
*done* once `result.json` is there, *failed* once `failure.json` is, *running* while a process holds its `lock`.
The lock is the kernel's (flock): it goes with its process, however that dies, and knows no clock. `claim.json` in a
pack's first folder remembers which seeds are stacked, so that a killed pack continues from its checkpoints.
"""

import errno
import fcntl
import json
import os
import shutil
import socket
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

CANNOT_GO_ON = 3  # exit code: the folder cannot be written, so no other run would fare better
_FULL = tuple(os.strerror(n) for n in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES))


class Unwritable(RuntimeError):
    """The sweep's folder takes no more data."""


def read_json(path: Path) -> dict:
    """A JSON object; {} if the file is missing or was cut short by a kill."""
    try:
        found = json.loads(path.read_bytes())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def write_json(path: Path, data: dict) -> None:
    """Atomically, but without waiting for the disk: for notes whose loss costs nothing.

    The temporary half lies beside the run folders, where no worker tidies up while another driver writes."""
    temporary = path.parent.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        temporary.write_text(json.dumps(data, indent=1))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def complete(folders: list[Path]) -> bool:
    """Whether a pack is done and tidied away."""
    return all((f / "result.json").exists() for f in folders) and not any((f / "claim.json").exists() for f in folders)


def over(folders: list[Path]) -> bool:
    """Whether a pack has come to its end with a failure: every run is done or failed, and not all are done."""
    ends = [(f / "result.json").exists() or ((f / "failure.json").exists() and None) for f in folders]
    return False not in ends and None in ends


@contextmanager
def locked(folders: list[Path]) -> Iterator[bool]:
    """Hold the locks of all `folders` (True), or of none, because a living process has one of them (False)."""
    with ExitStack() as stack:
        for folder in sorted(folders):  # one order for all, though nobody waits
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(folder / "lock", "a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stack.close()
                yield False
                return
        yield True


def held(folder: Path) -> bool:
    """Whether a living process works on `folder`."""
    try:
        with open(folder / "lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True


@contextmanager
def captured(path: Path) -> Iterator[None]:
    """Everything that this process prints, libraries in C included, appended to the file `path`."""
    kept = [os.dup(1), os.dup(2)]
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        sys.stdout.flush(), sys.stderr.flush()
        os.dup2(log, 1), os.dup2(log, 2)
        yield
        sys.stdout.flush(), sys.stderr.flush()
    finally:
        for number, descriptor in enumerate(kept, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(log)


def work_through(job: dict) -> str:
    """Train what nobody else has or does; returns "" when all that is left is in other hands, else why it stopped.

    `job`: `out` (folder), `packs` (a list of packs, each a list of specs as JSON with their `key`), `device`,
    `threads`, `attempts` (how often a pack may take its worker down), `session` (the driver's name for itself),
    `checkpoint_seconds`.
    """
    import torch

    torch.set_num_threads(job["threads"])
    left, waited = job["packs"], False
    while left:
        try:
            busy = [pack for pack in left if not attempt(job, pack)]
        except Unwritable as error:
            return str(error)
        if len(busy) == len(left):
            if waited:  # all of it in the hands of the living: the driver starts another worker should they die
                return ""
            time.sleep(0.3)
        left, waited = busy, len(busy) == len(left)
    return ""


def attempt(job: dict, pack: list[dict]) -> bool:
    """Train one pack, unless it is done or failed already. False if it is in other hands."""
    folders = [Path(job["out"]) / entry["key"] for entry in pack]
    if complete(folders):
        return True
    try:
        with locked(folders) as mine:
            return mine and _train(job, pack, folders)
    except OSError as error:
        raise Unwritable(f"cannot write to {job['out']}: {error.strerror or error}") from error


def _train(job: dict, pack: list[dict], folders: list[Path]) -> bool:
    if over(folders):
        return True
    claim, keys = read_json(folders[0] / "claim.json"), [entry["key"] for entry in pack]
    if claim.get("pack") != keys:  # checkpoints of other seeds are of no use to these
        claim = {"pack": keys, "apart": False, "attempts": {}}
        shutil.rmtree(folders[0] / "checkpoints", ignore_errors=True)
    tries = claim["attempts"].get(job["session"], 0) + 1
    if tries > job["attempts"]:
        _fail(folders, folders[0], f"its worker died {tries - 1} times without a word (killed, or out of memory)")
        return True
    claim["attempts"][job["session"]] = tries
    write_json(folders[0] / "claim.json", claim)
    reason = "" if claim["apart"] else _run(job, pack, folders)
    if reason and len(pack) > 1:  # one seed that diverges must not take its neighbours down: each on its own now
        shutil.rmtree(folders[0] / "checkpoints", ignore_errors=True)
        claim["apart"], reason = True, ""
        write_json(folders[0] / "claim.json", claim)
    if claim["apart"]:
        for entry, folder in zip(pack, folders, strict=True):
            ended = (folder / "result.json").exists() or (folder / "failure.json").exists()
            if not ended and (reason := _run(job, [entry], [folder])):
                _fail([folder], folder, reason)
    elif reason:
        _fail(folders, folders[0], reason)
    for folder in folders:
        if (folder / "result.json").exists():
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folders[0] / "claim.json").unlink(missing_ok=True)
    return True


def _run(job: dict, pack: list[dict], folders: list[Path]) -> str:
    """ "" if the runs are done, else why they failed, in a line; the whole story is in the first folder's log."""
    from pmeta_lib.experiments.run import run_packed
    from pmeta_lib.experiments.spec import RunSpec

    with captured(folders[0] / "log.txt"):
        print(f"-- {time.strftime('%Y-%m-%d %H:%M:%S')} on {socket.gethostname()}, process {os.getpid()}", flush=True)
        try:
            specs = [RunSpec.from_json(entry["spec"]) for entry in pack]
            run_packed(specs, folders, device=job["device"], threads=job["threads"],
                       checkpoint_seconds=job["checkpoint_seconds"])  # fmt: skip
            return ""
        except Exception as error:  # whatever a run raises is its own failure; the sweep goes on
            traceback.print_exc()
            if _is_unwritable(error):
                raise Unwritable(f"cannot write to {folders[0]}: {_first_line(error)}") from error
            return f"{type(error).__name__}: {_first_line(error)}"
        finally:
            for folder in folders:  # what a killed writer left: the temporary halves of atomic writes
                for path in (*folder.glob(".*.tmp"), *folder.glob("checkpoints/.*.tmp")):
                    path.unlink(missing_ok=True)


def _fail(folders: list[Path], logged: Path, reason: str) -> None:
    for folder in folders:
        if not (folder / "result.json").exists():
            write_json(folder / "failure.json", {"reason": reason, "log": str(logged / "log.txt")})


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")[:300]


def _is_unwritable(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and any(text in str(error) for text in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def _leave_with(driver: int) -> None:
    """Die when the driver does: its end of the pipe closes, in whatever way it went."""
    while os.read(driver, 4096):
        continue
    os._exit(1)


def main(argv: list[str]) -> int:
    """`python -m pmeta_lib.experiments.worker FD`: the job is JSON in the open file FD; stdin is the driver's life."""
    threading.Thread(target=_leave_with, args=(0,), daemon=True).start()
    with open(int(argv[1]), "rb") as file:
        job = json.load(file)
    reason = work_through(job)
    if reason:
        print(reason, flush=True)
    return CANNOT_GO_ON if reason else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
