"""Checkpoints that a killed run continues from, bit for bit: safetensors + JSON, atomic, with checksums.

A checkpoint is a pair `step-000012000.safetensors` (every tensor) and `step-000012000.json` (counters, rows so far, the
run's identity, the sha256 of the other file). The JSON is renamed into place last: without it the pair does not exist.
The newest two pairs are kept, so that a damaged one has a predecessor."""

import hashlib
import json
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pmeta_lib.files import UserError, json_text, patiently, remove_halves, sha256, write_atomically, writing

SCHEMA = 1
KEEP = 2
NAME = re.compile(r"step-([0-9]{9,})\.(json|safetensors)")  # whatever is called otherwise is somebody else's


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    """Write `tensors` to a safetensors file, atomically; returns its sha256. By hand (a length, a JSON header, the
    bytes): the library's `save_file` hides the number of a disk's error in a text, leaves temporary files of random
    names, and shuffles the header, so that equal tensors get unequal digests."""
    header: dict = {"__metadata__": metadata} if metadata else {}
    blocks, end = [], 0
    for name, x in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):  # wide first: aligned
        letters = str(x.dtype).removeprefix("torch.").replace("uint", "u").replace("int", "i").replace("float", "f")
        header[name] = {"dtype": letters.upper(), "shape": list(x.shape), "data_offsets": [end, end := end + x.nbytes]}
        blocks += _blocks(x.detach().cpu())
    head = json_text(header).encode()
    head += b" " * (-len(head) % 8)
    parts: list[bytes | memoryview] = [len(head).to_bytes(8, "little"), head, *blocks]
    write_atomically(path, *parts)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _blocks(x: Tensor) -> list[memoryview]:
    """The bytes of a tensor, in order and in place: a copy of a half-filled replay would double a run's memory."""
    if not x.is_contiguous():
        return [block for row in x for block in _blocks(row)]
    return [x.reshape(-1).view(torch.uint8).numpy().data]


def save(folder: Path, step: int, tensors: dict[str, Tensor], record: dict) -> None:
    """Add the checkpoint of `step`, then drop all but the newest `KEEP`. `UserError` if the disk refuses."""
    stem, older = f"step-{step:09d}", steps(folder)
    left = f"the checkpoint of step {older[0]} is kept" if older else "no earlier checkpoint exists"
    with writing(f"the checkpoint of step {step} to {folder}", left):
        patiently(folder.mkdir, parents=True, exist_ok=True)
        digest = save_tensors(folder / f"{stem}.safetensors", tensors)
        body = {"schema": SCHEMA, "step": step, "sha256": digest, **record}
        write_atomically(folder / f"{stem}.json", json_text({"sha256": _digest(body), "body": body}).encode())
    kept = {f"step-{s:09d}" for s in steps(folder)[:KEEP]}
    remove_halves(folder)  # that a kill left
    for path in folder.glob("step-*"):
        if NAME.fullmatch(path.name) and path.stem not in kept and path.is_file():
            path.unlink(missing_ok=True)


def load(folder: Path, identity: str) -> tuple[dict[str, Tensor], dict] | None:
    """The newest sound checkpoint, `(tensors, record)`, or None if there is none; a damaged one is named and passed
    over. `UserError` if all are damaged, or if they belong to another run (`identity` differs)."""
    for step in (found := steps(folder)):
        path = folder / f"step-{step:09d}.json"
        try:
            manifest = json.loads(patiently(path.read_bytes))
            record, data = manifest["body"], path.with_suffix(".safetensors")
            if manifest["sha256"] != _digest(record) or patiently(sha256, data) != record["sha256"]:
                raise ValueError("its checksum does not match: truncated or altered")
            if record["schema"] != SCHEMA:
                raise ValueError(f"it has schema {record['schema']}, this version reads {SCHEMA}")
            tensors = patiently(load_file, data)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            print(f"checkpoint of step {step} in {folder} is not usable: {error}; trying the one before")
            why = error
            continue
        if record["identity"] != identity:
            raise UserError(f"{folder} holds checkpoints of another run; choose an empty folder or delete it")
        return tensors, record
    if found:
        raise UserError(f"no checkpoint in {folder} is usable; delete the folder to start the run again") from why
    return None


def steps(folder: Path) -> list[int]:
    """The steps of the folder's checkpoints, newest first."""
    names = (NAME.fullmatch(p.name) for p in patiently(lambda: list(Path(folder).glob("step-*.json"))))
    return sorted((int(name[1]) for name in names if name), reverse=True)


def rows(stored: list[list]) -> list[tuple]:
    """Rows of a record as they were before strict JSON."""
    numbers = {text: float(text) for text in ("inf", "-inf", "nan")}
    return [tuple(numbers.get(x, x) for x in row) for row in stored]


def _digest(body: dict) -> str:
    return hashlib.sha256(json_text(body, sort_keys=True).encode()).hexdigest()


def part(tensors: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `kind`, without it."""
    return {name.removeprefix(kind): x for name, x in tensors.items() if name.startswith(kind)}


def state_tensors(run) -> dict[str, Tensor]:
    """Every tensor that the continuation of a run depends on, by name."""
    tensors = run.kept()[0] | {f"last.{name}": x for name, x in run.last.items()}
    tensors |= {f"generator.{s}.{k}": g.get_state() for s, gs in run.generators.items() for k, g in enumerate(gs)}
    return tensors | {f"env.{name}": torch.from_numpy(x) for name, x in run.env.state_dict().items()}


def save_run(run, folder: Path, identity: str) -> None:
    """Checkpoint the run; refuses (`FloatingPointError`) to store parameters that are not finite."""
    tensors = state_tensors(run)
    for name in {"actor", "critic", "log_alpha"} & tensors.keys():
        if not torch.isfinite(tensors[name]).all():
            raise FloatingPointError(f"the {name} parameters are not finite")
    record = {"identity": identity, "seconds": run.seconds, "rows": run.rows, "metrics": run.metrics}
    save(folder, run.step, tensors, record | run.kept()[1])


def restore_run(run, tensors: dict[str, Tensor], record: dict) -> None:
    """Put a fresh run into the state that `save_run` stored."""
    run.put_back(tensors, record)
    for stream, gs in run.generators.items():
        for k, g in enumerate(gs):
            g.set_state(tensors[f"generator.{stream}.{k}"])
    run.env.load_state_dict({name: x.numpy() for name, x in part(tensors, "env.").items()})
    run.step, run.seconds, run.last = record["step"], record["seconds"], part(tensors, "last.")
    run.rows, run.metrics = rows(record["rows"]), rows(record["metrics"])
