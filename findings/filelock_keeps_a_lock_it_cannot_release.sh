#!/usr/bin/env bash
# A file server without locks for a moment, just when filelock's lock is given back.
# Guess, as our code had relied on it (nobody had written it down): leaving `with FileLock(...)` closes the file, and
# closing it gives the lock back, whatever the unlocking call itself answers; at worst there is an error to ignore.
# Found (filelock 4.2.12, Linux): the error is raised, and the lock stays held for as long as the object lives; who ignores
# the error locks everybody else out. It has to be released again (release() may be repeated).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check filelock==4.2.12 || { echo "cannot install"; exit 2; }
"$folder/venv/bin/python" - "$folder/lock" <<'PY'
import errno
import fcntl
import sys

from filelock import FileLock, Timeout

real, out_of_order = fcntl.flock, [True]


def flock(descriptor, how):
    if how == fcntl.LOCK_UN and out_of_order:
        raise OSError(out_of_order.pop() and errno.ENOLCK, "no locks for now")
    return real(descriptor, how)


def free() -> bool:
    try:
        with FileLock(sys.argv[1], timeout=0, is_singleton=False):
            return True
    except (Timeout, RuntimeError):
        return False


fcntl.flock = flock
lock, raised = FileLock(sys.argv[1], timeout=0), False
try:
    with lock:
        pass
except OSError:
    raised = True
seen = raised, lock.is_locked, free()
lock.release()
seen += (free(),)
print(f"raised, still held, free to others; free after a second release: {seen}")
sys.exit(0 if seen == (True, True, False, True) else 1)
PY
