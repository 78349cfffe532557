"""One spec -> one folder of results: spec.json, curve.parquet, losses.parquet, checkpoint.safetensors and, last of all,
result.json: a folder without it is unfinished."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import torch

from pmeta_lib.experiments.learners import trainer
from pmeta_lib.experiments.results import THEN
from pmeta_lib.experiments.spec import RunSpec, stored_spec
from pmeta_lib.files import UserError, json_text, patiently, provenance, read_table, write_json, write_table, writing
from pmeta_lib.policy_gradient.learner import OnPolicy
from pmeta_lib.sac.checkpoint import save_tensors, steps
from pmeta_lib.sac.networks import hidden_type
from pmeta_lib.sac.training import Run


def finished(folder: Path) -> bool:
    """Whether `folder` holds a complete run."""
    return (Path(folder) / "result.json").is_file()


def run(spec: RunSpec, folder: Path, **how) -> Path:
    """Train `spec` into `folder` (see `run_packed`); at once if it is there already. Returns the folder."""
    return run_packed([spec], [Path(folder)], **how)[0]


def run_packed(specs: list[RunSpec], folders: list[Path], *, device: str = "cpu", **how) -> list[Path]:
    """Train specs that differ only in their seed, stacked, each into its own folder; resumable after a kill, from the
    first folder's `checkpoints/`. `how`: `threads`, `progress`, `checkpoint_seconds`, `callback` of `sac.training`.
    Raises `UserError` for specs that cannot be packed or a folder with another run, `Stopped` if training diverges."""
    if len({replace(s, seed=0).key for s in specs}) != 1 or len(specs) != len(folders):
        raise UserError("only runs that differ in nothing but their seed can be packed together")
    if missing := not all(map(finished, folders)):
        possible(specs, device)
    for spec, folder in zip(specs, folders):
        with writing(f"to {folder}", "choose a folder you can write to"):
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / "spec.json").is_file():
                if (there := stored_spec(folder)).key != spec.key:
                    apart = dict(sorted(asdict(there.settings).items() - asdict(spec.settings).items()))
                    raise UserError(f"{folder} holds another run, choose another folder: {there.label} {apart or ''}")
            elif any((folder / name).exists() for name in ("checkpoints", "result.json")):
                raise UserError(f"{folder} holds something else (there is no spec.json); choose another folder")
            else:
                write_json(folder / "spec.json", spec.to_json())
    scratch = folders[0] / "checkpoints"
    if missing:
        made = _origins(scratch, device)
        family, learner, seeds = specs[0].make_family(), specs[0].make_learner(), [spec.seed for spec in specs]
        result = trainer(learner)(family, learner, specs[0].settings, seeds, folder=scratch, device=device, **how)
        for spec, folder in zip(specs, folders):
            _write(spec, folder, result, made)
    shutil.rmtree(scratch, ignore_errors=True)  # a kill may have left it, too
    return folders


def possible(specs: list[RunSpec], device: str) -> None:
    """`UserError` for a precision in which `device` is slow, and for fewer steps than an on-policy iteration has."""
    for spec in specs:
        if isinstance(learner := spec.make_learner(), OnPolicy):
            learner.iterations(spec.make_family(), spec.settings)
        else:
            hidden_type(spec.settings.precision, device)


def _origins(scratch: Path, device: str) -> dict:
    """Device, versions, machine and commit of the training to come, noted beside the checkpoints; where it goes on from
    some that were made with others, all of them: "2.11.0 then 2.13.0"."""
    path, here = scratch / "origins.json", {"device": device, **provenance()}
    before = json.loads(patiently(path.read_bytes)) if path.is_file() and steps(scratch) else []
    origins = before if here in before[-1:] else [*before, here]
    with writing(scratch, "choose a folder you can write to"):
        patiently(scratch.mkdir, parents=True, exist_ok=True)
        write_json(path, origins)

    def joined(parts: list[dict]) -> dict:
        return {name: THEN.join(dict.fromkeys(part.get(name, "none") for part in parts)) for name in parts[-1]}

    versions = joined([origin.pop("versions") for origin in origins])
    return joined(origins) | {"versions": versions}


def _write(spec: RunSpec, folder: Path, result: Run, made: dict) -> None:
    """The finished run of one seed. `result.json` last, since it says that the others are complete."""
    family, packed = result.family, len(result.seeds)
    identity = {"run": spec.key, "family": family.name, "preset": family.preset, "learner": spec.learner}
    with writing(f"the results to {folder}", "the training's checkpoints are kept"):
        for name, table in (("curve", result.curve), ("losses", result.losses)):
            rows = table[table["seed"] == spec.seed].reset_index(drop=True)
            write_table(folder / f"{name}.parquet", rows.assign(**identity))
        tensors, widths = result.final(result.seeds.index(spec.seed))
        tensors["tasks"] = torch.from_numpy(family.train_tasks)
        shapes = {name: json_text(sizes) for name, sizes in widths.items()}
        digest = save_tensors(folder / "checkpoint.safetensors", tensors, shapes)
        record = {
            "run": spec.key, "step": result.step, "updates": result.updates, "packed": packed,
            "seconds": round(result.seconds / packed, 3), "held_out": family.held_out,
            **({"products": str(result.agent.product_type).removeprefix("torch.")} if hasattr(result, "agent") else {}),
            "evaluation": f"mean of {result.settings.evaluation_episodes} episodes per task, deterministic policy",
            "preset_evaluation": family.evaluation, "checkpoint_sha256": digest, "family_versions": family.versions,
        }  # fmt: skip
        write_json(folder / "result.json", record | made)


def read_curve(folder: Path) -> pd.DataFrame:
    """The curve of a finished run; `UserError` if it is not finished."""
    if not finished(folder):
        raise UserError(f"{folder} holds no finished run (no result.json)")
    return read_table(Path(folder) / "curve.parquet")
