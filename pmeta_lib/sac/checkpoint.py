"""Checkpoints that a killed run continues from, bit for bit: safetensors + JSON, atomic, with checksums.

A checkpoint is a pair `step-000012000.safetensors` (every tensor) and `step-000012000.json` (counters, rows so
far, the run's identity, the sha256 of the other file). The JSON is renamed into place last: without it the pair
does not exist. The newest two pairs are kept, so that a damaged one has a predecessor.
"""

import hashlib
import json
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pmeta_lib.files import UserError, json_text, patiently, remove_halves, sha256, strict, write_atomically
from pmeta_lib.sac.state import Run

SCHEMA = 1
KEEP = 2
NAME = re.compile(r"step-([0-9]{9,})\.(json|safetensors)")  # whatever is called otherwise is somebody else's


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    """Write `tensors` to a safetensors file, atomically; returns its sha256.

    The format is written here (a length, a JSON header, the bytes), because the library's own `save_file` hides the
    number of a disk's error in a text, leaves temporary files of random names, and shuffles the header, so that equal
    tensors get unequal digests. It reads what is written here.
    """
    order = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))  # wide types first: aligned
    arrays = {name: x.detach().cpu() for name, x in order}
    header: dict = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, x in arrays.items():
        letters = str(x.dtype).removeprefix("torch.").replace("uint", "u").replace("int", "i").replace("float", "f")
        header[name] = {"dtype": letters.upper(), "shape": list(x.shape), "data_offsets": [end, end := end + x.nbytes]}
    head = json_text(header).encode()
    head += b" " * (-len(head) % 8)
    parts: list[bytes | memoryview] = [len(head).to_bytes(8, "little"), head]
    parts += [block for x in arrays.values() for block in _blocks(x)]
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
    stem = f"step-{step:09d}"
    try:
        patiently(folder.mkdir, parents=True, exist_ok=True)
        digest = save_tensors(folder / f"{stem}.safetensors", tensors)
        body = strict({"schema": SCHEMA, "step": step, "sha256": digest, **record})
        manifest = {"sha256": _digest(body), "body": body}
        write_atomically(folder / f"{stem}.json", json_text(manifest).encode())
    except OSError as error:
        older = steps(folder)
        left = f"the checkpoint of step {older[0]} is kept" if older else "no earlier checkpoint exists"
        raise UserError(f"cannot write the checkpoint of step {step} to {folder}: {error}; {left}") from error
    kept = {f"step-{s:09d}" for s in steps(folder)[:KEEP]}
    remove_halves(folder)  # that a kill left
    for path in folder.glob("step-*"):
        if NAME.fullmatch(path.name) and path.stem not in kept and path.is_file():
            path.unlink(missing_ok=True)


def load(folder: Path, identity: str, say=print) -> tuple[dict[str, Tensor], dict] | None:
    """The newest sound checkpoint, `(tensors, record)`, or None if there is none at all.

    A truncated or altered one is named and passed over. `UserError` if the folder's checkpoints belong to another
    run (`identity` differs), or if every one is damaged.
    """
    found = steps(folder)
    for step in found:
        manifest = folder / f"step-{step:09d}.json"
        data = manifest.with_suffix(".safetensors")
        try:
            manifest = json.loads(patiently(manifest.read_bytes))
            record = manifest["body"]
            if manifest["sha256"] != _digest(record) or patiently(sha256, data) != record["sha256"]:
                raise ValueError("its checksum does not match: truncated or altered")
            if record["schema"] != SCHEMA:
                raise ValueError(f"it has schema {record['schema']}, this version reads {SCHEMA}")
            tensors = patiently(load_file, data)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            say(f"checkpoint of step {step} in {folder} is not usable: {error}; trying the one before")
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


def generator_tensors(generators: dict[str, list[torch.Generator]]) -> dict[str, Tensor]:
    """The states of torch generators, as uint8 tensors."""
    return {f"generator.{s}.{k}": g.get_state() for s, gs in generators.items() for k, g in enumerate(gs)}


def restore_generators(generators: dict[str, list[torch.Generator]], tensors: dict[str, Tensor]) -> None:
    """Put back what `generator_tensors` took."""
    for stream, gs in generators.items():
        for k, g in enumerate(gs):
            g.set_state(tensors[f"generator.{stream}.{k}"])


def last_good(folder: Path | None) -> str:
    """Which checkpoint of `folder` a run that cannot go on leaves, in words."""
    there = steps(Path(folder)) if folder is not None else []
    return f"the last good checkpoint is that of step {there[0]} in {folder}" if there else "there is no checkpoint"


def state_tensors(run: Run) -> dict[str, Tensor]:
    """Every tensor that the continuation of a run depends on, by name."""
    agent = run.agent
    tensors = {n: getattr(agent, n) for n in ("actor", "critic", "target", "log_alpha")}
    tensors |= {f"extra.{name}": x for name, x in agent.extra.items()}
    for name, optimizer in agent.optimizers.items():
        tensors |= {f"adam.{name}.{key}": getattr(optimizer, key) for key in ("first", "second", "steps")}
    tensors["replay"] = run.replay.rows[:, :, : len(run.replay)]
    tensors["observation"] = run.observation
    tensors |= {f"last.{name}": x for name, x in run.last.items()}
    tensors |= {f"env.{name}": torch.from_numpy(x) for name, x in run.env.state_dict().items()}
    return tensors | generator_tensors(agent.generators)


def save_run(run: Run, folder: Path, identity: str) -> None:
    """Checkpoint the run; refuses (`FloatingPointError`) to store parameters that are not finite."""
    tensors = state_tensors(run)
    for name in ("actor", "critic", "log_alpha"):
        if not torch.isfinite(tensors[name]).all():
            raise FloatingPointError(f"the {name} parameters are not finite")
    save(folder, run.step, tensors, {
        "identity": identity, "updates": run.agent.updates, "added": run.replay.added, "seconds": run.seconds,
        "rows": run.rows, "metrics": run.metrics})  # fmt: skip


def restore_run(run: Run, tensors: dict[str, Tensor], record: dict) -> None:
    """Put a fresh run into the state that `save_run` stored."""
    agent = run.agent
    for name in ("actor", "critic", "target", "log_alpha"):
        getattr(agent, name).copy_(tensors[name])
    for key, x in tensors.items():
        if key.startswith("extra."):  # in place, or anew where the learner makes it at its first update
            agent.extra.setdefault(key.removeprefix("extra."), x.to(agent.actor.device)).copy_(x)
    for name, optimizer in agent.optimizers.items():
        for key in ("first", "second", "steps"):
            getattr(optimizer, key).copy_(tensors[f"adam.{name}.{key}"])
    restore_generators(agent.generators, tensors)
    run.replay.restore(tensors["replay"], record["added"])
    run.observation = tensors["observation"].to(run.observation.device)
    run.env.load_state_dict({k.removeprefix("env."): x.numpy() for k, x in tensors.items() if k.startswith("env.")})
    run.last = {k.removeprefix("last."): x for k, x in tensors.items() if k.startswith("last.")}
    run.step, agent.updates, run.seconds = record["step"], record["updates"], record["seconds"]
    run.rows, run.metrics = rows(record["rows"]), rows(record["metrics"])
