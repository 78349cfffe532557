"""The results of any number of finished runs as one tidy table, kept as Parquet: one row a run, evaluated step, policy
and task, with everything needed to judge it on the row. `run` is its identity, `cell` that of all seeds of it."""

import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from pmeta_lib.experiments.spec import OldRun, RunSpec, digest, stored_spec
from pmeta_lib.files import UserError, json_text, read_table, write_table, writing

THEN = " then "  # in a run that went on under other versions, on another machine or device, see `run`
VOLATILE = ("seconds", "machine", "commit", "checkpoint_sha256")  # equal sweeps agree in all other columns, row by row
DECISIVE = ("pmeta_lib", "torch", "numpy", "gymnasium", "mujoco", "device")  # may not be mixed in one table
SPEC = ("family", "preset", "learner", "seed", "train_tasks", "options", "settings")
CURVE = ("step", "policy", "task", "return", "return_std", "episodes")


def runs(folders: str | Path | Iterable[str | Path]) -> pd.DataFrame:
    """One row a finished run, sorted; `folder` says where it lies. `folders`: of sweeps or of single runs. Raises
    `UserError` for one without any finished run, a run whose files contradict each other, and a run found twice."""
    rows, old = [], []
    for root in map(Path, [folders] if isinstance(folders, str | Path) else folders):
        found = sorted(p.parent for p in (*root.glob("result.json"), *root.glob("*/result.json")))
        if not found:
            raise UserError(f"{root} holds no finished run (a folder with result.json); run the sweep first")
        for folder in found:
            try:
                rows.append(stored_run(folder)[1] | {"folder": str(folder)})
            except OldRun:
                old.append(folder)
    if old:
        names = ", ".join(map(str, old[:9])) + ", …" * (len(old) > 9)
        raise UserError(f"{len(old)} runs are of an older version: {names}; move them away and run the sweep again")
    table = pd.DataFrame(rows)
    twice = table[table["run"].duplicated(keep=False)].sort_values("run")
    if len(twice):
        listing = "".join(f"\n  {r.run}: {r.folder}" for r in twice.itertuples())
        raise UserError(f"{twice['run'].nunique()} runs are there more than once; name each folder once{listing}")
    return table.sort_values([c for c in SPEC if c != "seed"] + ["seed"], na_position="first", ignore_index=True)


def stored_run(folder: Path) -> tuple[RunSpec, dict]:
    """The spec and the row of the finished run in `folder`; what is missing or wrong is one `UserError`."""
    try:
        spec = stored_spec(folder)
        found = row(spec.to_json(), json.loads((folder / "result.json").read_bytes()))
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no finished run (no {Path(error.filename).name}); train it first") from error
    except (OSError, UnicodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is damaged ({type(error).__name__}: {error}); delete it and run it again") from error
    if found["run"] != spec.key:
        raise UserError(f"{folder}: result.json is of run {found['run']}, of other options; delete it and run again")
    return spec, found


def row(spec: dict, result: dict) -> dict:
    """What every row of a run carries, from the contents of its spec.json and result.json; `KeyError` if one lacks."""
    text = {name: json_text(spec[name], sort_keys=True) for name in ("options", "settings")}
    return {
        "run": result["run"], "cell": digest({k: v for k, v in spec.items() if k != "seed"}),
        **{name: spec[name] for name in SPEC}, **text,
        **{name: result[name] for name in ("updates", "packed", "device", "held_out")},
        **result["versions"], **{f"env_{k}": result["family_versions"][k] for k in ("env", "base")},
        **{name: result[name] for name in VOLATILE},
    }  # fmt: skip


def spec_of(row: dict) -> RunSpec:
    """The spec of a row of the table, as a dict: what makes the run again. The inverse of `row`."""
    made: dict = {"seed": int, "train_tasks": int, "options": json.loads, "settings": json.loads}
    return RunSpec(**{name: made.get(name, str)(row[name]) for name in SPEC})


def read(folders: str | Path | Iterable[str | Path], allow_mixed: bool = False) -> pd.DataFrame:
    """The tidy table of all finished runs under `folders`, in an order that only the specs decide. Raises `UserError`
    as `runs` does, and if versions or devices, so physics or kernels, are mixed without `allow_mixed`."""
    head = runs(folders)
    mixed = [n for n in DECISIVE if head[n].nunique() > 1 or head[n].astype(str).str.contains(THEN).any()]
    if mixed and not allow_mixed:
        listing = "".join(f"\n  {name} {value}: {len(among)} runs, e.g. {among['folder'].iloc[0]}"
                          for name in mixed for value, among in head.groupby(name))  # fmt: skip
        raise UserError(f"the runs differ in {', '.join(mixed)}; read them apart or allow it (--allow-mixed){listing}")
    parts = []
    for run, folder in zip(head["run"], head["folder"]):
        path = Path(folder, "curve.parquet")
        parts.append(read_table(path, ["run", *CURVE]).sort_values(["policy", "step", "task"]))
        if set(parts[-1]["run"]) != {run}:
            raise UserError(f"{path} does not belong to run {run}; delete its folder and run it again")
    table = pd.concat(parts).merge(head.drop(columns="folder"), on="run", validate="many_to_one")
    first = ["run", "cell", *SPEC, *CURVE]
    return table[first + [c for c in table if c not in first]]


def compact(table: pd.DataFrame, path: Path) -> None:
    """Write the table as one Parquet file, atomically. `UserError` if that cannot be done."""
    with writing(path, "choose another --out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(path, table)
