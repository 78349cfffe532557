"""Files and facts that every floor needs: the user's error, atomic writes, checksums, provenance."""

import difflib
import errno
import hashlib
import json
import math
import os
import platform
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

PACKAGES = ("pmeta_lib", "torch", "numpy", "gymnasium", "mujoco")
HICCUPS = (errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ENOLCK, errno.ENOTCONN)  # of a file server; they pass
PAUSES = tuple(0.1 * 2**k for k in range(10))  # seconds, 102 in all: servers that fail over take a minute or more
HOST = platform.node().replace(".", "-")


class UserError(ValueError):
    """A mistake in the input. The command line prints its text as one line and exits with code 2."""


def unknown(kind: str, name: object, choices: Iterable[str], where: str = "") -> UserError:
    """The error for a `name` that is not among `choices`; names the nearest one, then all of them."""
    choices, within = [str(c) for c in choices], f" in {where}" * bool(where)
    hint = "".join(f" Did you mean {near!r}?" for near in difflib.get_close_matches(str(name), choices, n=1))
    return UserError(f"unknown {kind} {str(name)!r}{within}.{hint} Choose from: {', '.join(choices)}.")


def known(kind: str, name: str, choices: Collection[str], where: str = "") -> str:
    """`name`, if it is among `choices`; raises the error `unknown` otherwise."""
    if name not in choices:
        raise unknown(kind, name, choices, where)
    return name


def writable(folder: Path, option: str) -> None:
    """Make sure that a folder exists and can be written; `option` is what the user gave it with. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"{option} {folder}: this folder cannot be written ({why}); give another {option}") from None


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def patiently(action: Callable, *args, **kwargs) -> Any:
    """What `action(*args, **kwargs)` returns; it is called again, after growing pauses, while a file server is out of
    order (`HICCUPS`). Raises the last `OSError` if the server stays so, and any other at once."""
    for pause in (*PAUSES, None):
        try:
            return action(*args, **kwargs)
        except OSError as error:
            if pause is None or error.errno not in HICCUPS:
                raise
            time.sleep(pause)


@contextmanager
def locking(path: Path, **how) -> Iterator[None]:
    """Hold the lock on the file `path`; a file server's hiccup is waited out when it is taken and when it is given
    back: filelock keeps a lock whose release fails. `how`: `timeout`, … of `filelock.FileLock`."""
    from filelock import FileLock

    lock = FileLock(path, **how)
    patiently(lock.acquire)
    try:
        yield
    finally:
        patiently(lock.release)


def write_atomically(path: Path, *parts: bytes | memoryview) -> None:
    """Write beside `path`, flush to the disk, rename: readers see the old file or the new one, never a part. What is
    there and is no regular file (a folder, a device) is an `OSError`."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    patiently(_write, path, parts)  # all of it: after a failed fsync the kernel forgets what it did not write


def _write(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    temporary = path.with_name(f".{path.name}.{HOST}.{os.getpid()}.{threading.get_native_id()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_halves(folder: Path) -> None:
    """Delete the temporary files of atomic writes in `folder` whose writer, a process of this machine, is gone."""
    import psutil

    for path in folder.glob(f".*.{HOST}.*.tmp"):
        pid = path.name.split(".")[-3]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            path.unlink(missing_ok=True)


def strict(value: Any) -> Any:
    """JSON data in which "inf", "-inf" and "nan" stand for such numbers, which strict JSON does not have."""
    if isinstance(value, dict):
        return {k: strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [strict(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def json_text(data: Any, **how) -> str:
    """`data` as strict JSON (see `strict`), which every reader of other languages takes; `how`: as in `json.dumps`."""
    return json.dumps(strict(data), allow_nan=False, **how)  # noqa: TID251


@contextmanager
def writing(target: object, remedy: str) -> Iterator[None]:
    """Turn an `OSError` of the block into one `UserError`: what cannot be written, why, and the `remedy`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}; {remedy}") from error


def write_json(path: Path, data: Any) -> None:
    """`data` as indented JSON, atomically."""
    write_atomically(path, json_text(data, indent=1).encode())


def write_report(target: Path | None, data: object) -> None:
    """`data` as JSON into the file that the user named with `--json`, if there is one."""
    if target:
        with writing(target, "give another --json"):
            target.write_text(json_text(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_table(path: Path, frame: "pd.DataFrame") -> None:
    """`frame` as Parquet, atomically, in columns of four kinds whatever pandas calls them: whole numbers are int64,
    other numbers float64, truth values bool, all else text. So pandas 2 and 3 write the same schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pandas.api.types import infer_dtype

    kinds, sink = {"integer": pa.int64(), "floating": pa.float64(), "boolean": pa.bool_()}, pa.BufferOutputStream()
    schema = pa.schema([(name, kinds.get(infer_dtype(values), pa.string())) for name, values in frame.items()])
    table = pa.Table.from_pandas(frame, schema, preserve_index=False).replace_schema_metadata()
    pq.write_table(table, sink, compression="zstd")
    write_atomically(path, sink.getvalue().to_pybytes())


def read_table(path: Path, columns: list[str] | None = None) -> "pd.DataFrame":
    """A Parquet file (its `columns`). Text is text however the file has it (pandas 2, pandas 3, categories), so that
    any such frames can be concatenated by name. Raises `UserError` for a file that cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read(columns=columns).replace_schema_metadata()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it, or delete it and make it again") from error
    words = [pa.types.is_dictionary(f.type) or pa.types.is_large_string(f.type) for f in table.schema]
    plain = [f.with_type(pa.string()) if word else f for f, word in zip(table.schema, words)]
    return table.cast(pa.schema(plain)).to_pandas()


def provenance() -> dict:
    """Where and with what a result was made: versions, machine (no name, no user), commit."""
    about = Path("/proc/cpuinfo")  # on Linux
    cpu = re.search(r"^model name[^:]*:([^:\n]*)", about.read_text() if about.exists() else "", re.MULTILINE)
    machine = platform.system(), platform.machine(), cpu[1].strip() if cpu else platform.processor()
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    here = commit(Path(__file__).resolve().parents[1])
    return {"versions": versions, "machine": " ".join(machine).strip(), "commit": here}


def commit(root: Path) -> str:
    """The commit checked out at `root`, with "-dirty" where files differ from it; "unknown" if `root` is not itself the
    top of a repository (an installed package, perhaps inside somebody else's repository) or has no commit yet."""
    if not (shutil.which("git") and (root / ".git").exists()):
        return "unknown"
    ask = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    answer = subprocess.run(ask, capture_output=True, text=True)
    return answer.stdout.strip() if answer.returncode == 0 else "unknown"
