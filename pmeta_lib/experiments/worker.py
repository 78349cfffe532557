"""One worker of a sweep: it claims packs of runs in the sweep's folder, one after the other, and trains them. Workers
talk to nobody, the run folders (`state.py`) are all they share. An attempt that ends without a word (its machine was
taken away, its memory ran out) counts against the run only if it left no newer checkpoint than the one before."""

import errno
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import IntEnum
from pathlib import Path

from pmeta_lib import signals
from pmeta_lib.experiments.state import State, ended, locked, progress, read_json, settled
from pmeta_lib.files import HICCUPS, patiently, remove_halves, write_json

# Errors of the folder, not of the run: no other run would fare better.
FOLDERS_FAULT = (*HICCUPS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


class End(IntEnum):
    """How a worker ended; also the exit code of one that is a process of its own."""

    NOTHING_LEFT = 0  # all its packs are settled, or in other hands
    LOST = 1  # killed, or an error outside of any run
    UNWRITABLE = 3  # the sweep's folder is out of order
    LEFT = 4  # it was asked to, and saved first


def work_through(job: dict, **heeded) -> tuple[End, str]:
    """Train what nobody else has or does, until asked to leave; returns how it ended, and why if something is left.
    `job`: `out` (folder), `packs` (lists of specs as JSON with their `key`), `device`, `threads`, `attempts` (how many
    in a row may come to nothing), `session` (the driver's own name), `checkpoint_seconds`. `heeded`: see there."""
    import torch

    torch.set_num_threads(job["threads"])
    left, stuck = job["packs"], 0
    try:
        with signals.heeded(**heeded):
            while left and stuck < 2:  # all in the hands of the living: the driver starts another should they die
                time.sleep(0.3 * stuck)
                busy = [pack for pack in left if not attempt(job, pack)]
                left, stuck = busy, stuck + 1 if len(busy) == len(left) else 0
    except OSError as error:
        return End.UNWRITABLE, f"cannot write to {job['out']}: {error.strerror or error}"
    except signals.Left as left_by:
        return End.LEFT, f"a worker on {socket.gethostname()} was asked to leave ({left_by})"
    return End.NOTHING_LEFT, ""


def attempt(job: dict, pack: list[dict]) -> bool:
    """Train one pack, unless it is settled already. False if it is in other hands; `OSError` if its folder fails."""
    signals.answer()  # between two packs all is saved
    folders = [Path(job["out"]) / entry["key"] for entry in pack]
    if settled(folders):
        return True
    with locked(folders) as mine:
        if mine and not settled(folders):  # it may have been until we had the lock
            _train(job, pack, folders)
        return mine


def _train(job: dict, pack: list[dict], folders: list[Path]) -> None:
    path, keys = folders[0] / "claim.json", [entry["key"] for entry in pack]
    claim = read_json(path)
    if claim.get("pack") != keys:  # checkpoints of other seeds are of no use to these
        claim = {"pack": keys, "apart": False}
        shutil.rmtree(folders[0] / "checkpoints", ignore_errors=True)
    # Each driver counts for itself: who starts the sweep again gives its runs new attempts.
    reached = progress(folders)
    counts = claim.get("attempts", {}) if reached == claim.get("reached") else {}
    vain = counts.get(job["session"], 0)
    if vain >= job["attempts"]:
        reason = f"its worker died {vain} times in a row before it got any further (killed, or out of memory)"
        for folder in folders:
            if ended(folder) is not State.DONE:
                write_json(folder / "failure.json", {"reason": reason, "log": str(folders[0] / "log.txt")})
        return
    claim |= {"reached": reached, "attempts": counts | {job["session"]: vain + 1}}
    write_json(path, claim)
    if len(pack) > 1 and not claim["apart"] and _run(job, pack, folders):
        shutil.rmtree(folders[0] / "checkpoints", ignore_errors=True)
        claim["apart"] = True  # one that diverges must not take the others down: each on its own now
        write_json(path, claim)
    if len(pack) == 1 or claim["apart"]:
        for entry, folder in zip(pack, folders, strict=True):
            if not ended(folder) and (failure := _run(job, [entry], [folder])):
                write_json(folder / "failure.json", failure)
    done = [folder for folder in folders if ended(folder) is State.DONE]
    for folder in done:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        patiently((folder / "failure.json").unlink, missing_ok=True)
    if done == folders:  # else the claim stays, for --retry-failed to go on from the checkpoints
        patiently(path.unlink, missing_ok=True)


def _run(job: dict, pack: list[dict], folders: list[Path]) -> dict:
    """{} if the runs are done, else what `failure.json` shall say; the whole story is in the first folder's log."""
    from pmeta_lib.experiments.run import run_packed
    from pmeta_lib.experiments.spec import RunSpec
    from pmeta_lib.sac.training import Stopped

    log = folders[0] / "log.txt"
    with captured(log):
        print(f"-- {time.strftime('%Y-%m-%d %H:%M:%S')} on {socket.gethostname()}, process {os.getpid()}", flush=True)
        try:
            specs = [RunSpec.from_json(entry["spec"]) for entry in pack]
            run_packed(specs, folders, **{name: job[name] for name in ("device", "threads", "checkpoint_seconds")})
        except Exception as error:  # whatever a run raises is its own failure; the sweep goes on
            traceback.print_exc()
            if all(ended(folder) is State.DONE for folder in folders):
                return {}  # locks that lock nobody out: another worker did it, and took the checkpoints from under us
            cause: BaseException | None = error  # a `UserError` carries the folder's as its cause
            while cause and not (isinstance(cause, OSError) and cause.errno in FOLDERS_FAULT):
                cause = cause.__cause__ or cause.__context__
            if cause:
                raise OSError(*cause.args) from error
            reason = f"{type(error).__name__}: {''.join(str(error).splitlines()[:1])[:300]}"
            return {"reason": reason, "log": str(log), "diverged": isinstance(error, Stopped)}
        finally:
            for folder in (*folders, folders[0] / "checkpoints"):
                remove_halves(folder)
    return {}


@contextmanager
def captured(path: Path) -> Iterator[None]:
    """Everything that this process prints, libraries in C included, appended to the file `path`."""
    with patiently(open, path, "ab") as log, ExitStack() as after:
        sys.stdout.flush(), sys.stderr.flush()
        for number in (1, 2):
            kept = os.dup(number)
            after.callback(os.close, kept)
            after.callback(os.dup2, kept, number)  # first, for what was put on the stack last comes off first
            os.dup2(log.fileno(), number)
        yield
        sys.stdout.flush(), sys.stderr.flush()


def _leave_with(driver: int) -> None:
    """Leave when the driver does: its end of the pipe closes, whatever ended it. The checkpoint has half a minute."""
    while os.read(driver, 4096):
        continue
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)
    os._exit(End.LOST)


if __name__ == "__main__":  # … worker FD: the job is JSON in the open file FD; stdin is the driver's life
    threading.Thread(target=_leave_with, args=(0,), daemon=True).start()
    with open(int(sys.argv[1]), "rb") as file:
        job = json.load(file)
    end, reason = work_through(job)
    print(reason)
    sys.exit(end)
