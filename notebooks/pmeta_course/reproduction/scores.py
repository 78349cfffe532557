"""The stored deep runs, family by family, fit to be compared: what exists, on which scale, and what must not be mixed.

Training curves come from the sweeps' tables (`pmeta sweep results`), `gym*.parquet` and `mujoco*.parquet`, a table for
each machine or set of versions; families that these lack come from `deep/`. What learners do on meta-test tasks comes
from `adaptation*.parquet` (the tables of `pmeta adapt`, one below the other). The 0 of the scale is in
`random_policy.parquet`, the 1 is independent SAC.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pmeta_lib.envs.families import FAMILIES, family
from pmeta_lib.experiments.results import CURVE, DECISIVE, row
from pmeta_lib.files import UserError, unknown

SEEDS_NEEDED = 5
BUDGET = ("steps", "hidden", "batch_size", "updates_per_step", "evaluations")  # equal for all learners of a family


@dataclass(frozen=True)
class Scores:
    """One family's returns on meta-train tasks (`split` "train") or, adapted to them, on meta-test tasks ("test")."""

    name: str
    split: str
    source: str  # the file
    preset: str
    curves: dict[str, pd.DataFrame]  # learner -> (seeds, steps): mean return over the family's tasks
    random: float | None  # mean return of uniformly random actions on the same tasks; None: not measured
    seconds: dict[str, float]  # learner -> mean wall time of a run

    @property
    def suite(self) -> str:
        return family(self.name, self.preset).suite

    def final(self, learner: str) -> np.ndarray:
        """(seeds,): a run's result. Train: the mean over the last quarter of its evaluations; never the maximum.
        Test: the return after the longest adaptation."""
        curve = self.curves[learner]
        late = (
            curve.columns > 0.75 * curve.columns.max() if self.split == "train" else curve.columns == curve.columns[-1]
        )
        return curve.loc[:, late].mean(axis=1).to_numpy()

    def lack(self, learners: tuple[str, ...], scaled: bool) -> str:
        """Why the family cannot be judged for these learners ("" if it can); `scaled`: a normalised score is needed."""
        short = [f"no {n}" for n in learners if n not in self.curves]
        for n in (n for n in learners if n in self.curves):
            if len(self.curves[n]) < SEEDS_NEEDED:
                short.append(f"{n}: {len(self.curves[n])} of {SEEDS_NEEDED} seeds")
        if scaled and not short and self.random is None:
            short.append("no random policy")
        elif scaled and not short:
            one = self.final("independent")
            if one.mean() - 2 * one.std(ddof=1) / np.sqrt(one.size) <= self.random:
                short.append("independent SAC is not clearly above random (two standard errors), so there is no scale")
        return ", ".join(short)


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """The stored tables of runs by file, with every run's spec and provenance on its rows; nothing is checked yet."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; run from the top of the repository, or name it with --data")
    paths = [path for name in ("gym*", "mujoco*", "adaptation*") for path in sorted(folder.glob(f"{name}.parquet"))]
    found, newer = {path.name: _stored(path) for path in paths}, {}
    for name, table in found.items():
        for place in sorted(set(table["family"])):
            key = (place, split_of(name))
            if key in newer:
                raise UserError(f"{place} is in {newer[key]} and in {name}; keep one, runs of two tables do not mix")
            newer[key] = name
    for path in sorted((folder / "deep").glob("*.parquet")):
        table = _with_origin(path)
        if not {place for place, split in newer if split == "train"} & set(table["family"]):
            found[f"deep/{path.name}"] = table
    return found


def split_of(source: str) -> str:
    """Whether a table's returns are on meta-train or on meta-test tasks, by its file's name."""
    return "test" if source.startswith("adaptation") else "train"


def load(folder: Path) -> list[Scores]:
    """All that is stored under `folder` (`data/results`), in the order of the families; train before test.

    Raises `UserError` for a table that mixes presets, versions, devices or budgets, repeats or lacks evaluations, or
    disagrees with the random policy's versions: the text lists what.
    """
    folder = Path(folder)
    stored, random, found = tables(folder), _stored(folder / "random_policy.parquet"), []
    for source, table in stored.items():
        for name in set(table["family"]) - set(FAMILIES):
            raise unknown("family", name, FAMILIES, where=source)
        split = split_of(source)
        table = _adapted(table) if split == "test" else table
        check(table, source)
        for name, rows in table[table["policy"] == "deployed"].groupby("family", observed=True):
            curves = {
                str(learner): part.pivot_table(index="seed", columns="step", values="return", aggfunc="mean")
                for learner, part in rows.groupby("learner", observed=True)
            }
            seconds = rows.drop_duplicates("run").groupby("learner", observed=True)["seconds"].mean().to_dict()
            zero = _zero(random, rows, split, source)
            found.append(Scores(str(name), split, source, str(rows["preset"].iloc[0]), curves, zero, seconds))
    return sorted(found, key=lambda s: (s.split == "test", FAMILIES.index(s.name)))


def check(table: pd.DataFrame, source: str) -> None:
    """Refuse to average what does not belong together; see `load`."""
    faults = []
    for column in ("preset", *DECISIVE):
        if table[column].nunique() > 1:
            counts = table.drop_duplicates("run")[column].value_counts()
            faults.append(f"{column}: " + ", ".join(f"{value} in {n} runs" for value, n in counts.items()))
    runs = table.drop_duplicates("run")
    cells = runs.groupby(["family", "learner", "seed"], observed=True)["run"].agg(["size", lambda r: ", ".join(r)])
    faults += [
        f"{' '.join(map(str, key))}: the same seed {n} times, runs {r}" for key, n, r in cells.itertuples() if n > 1
    ]
    budgets = [json.dumps({k: json.loads(s).get(k) for k in BUDGET}) for s in runs["settings"]]
    for name, part in runs.assign(budget=budgets).groupby("family", observed=True):
        for column in ("budget", "train_tasks"):
            if part[column].nunique(dropna=False) > 1:
                faults.append(f"{name}: {column} differs: {', '.join(map(str, part[column].unique()))}")
    keys = ["family", "learner", "seed", "policy", "task", "step"]
    repeated = table.duplicated([*keys, "run"])
    if repeated.any() or not np.isfinite(table["return"]).all():
        faults.append(
            f"{int(repeated.sum())} rows are repeated, {int((~np.isfinite(table['return'])).sum())} not finite"
        )
    sizes = table.groupby(["family", "learner", "policy", "run"], observed=True).size()
    for key, n in sizes.groupby(level=["family", "learner", "policy"], observed=True):
        if n.nunique() > 1:
            faults.append(f"{' '.join(key)}: {n.min()} to {n.max()} evaluations a run; some are incomplete")
    if faults:
        raise UserError(f"{source} mixes what must not be averaged:" + "".join(f"\n  {f}" for f in faults))


def _stored(path: Path) -> pd.DataFrame | None:
    try:
        return pd.read_parquet(path) if path.exists() else None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it or make it again") from error


def _adapted(table: pd.DataFrame) -> pd.DataFrame:
    """Tables of `pmeta adapt`: the learners' own ways, and once SAC from a fresh network as the learner "scratch"."""
    once = ["family", "seed", "step", "task", "return"]  # the same in the table of every learner
    scratch = table[table["way"] == "scratch"].drop_duplicates(once)
    names = {"learner": "scratch", "run": "scratch " + scratch["family"] + " " + scratch["seed"].astype(str)}
    own = table[~table["way"].isin(("scratch", "random"))]
    return pd.concat([own, scratch.assign(**names)], ignore_index=True).assign(policy="deployed")


def _with_origin(path: Path) -> pd.DataFrame:
    """A table of `deep/` with the columns of a sweep's table, from the JSON beside it."""
    try:
        runs = json.loads(path.with_suffix(".json").read_text())["runs"]
        head = pd.DataFrame([row(r["spec"], r) for r in runs])
        return _stored(path)[["run", *(c for c in CURVE)]].merge(head, on="run", validate="many_to_one")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} or its JSON is damaged ({error}); make both again with regenerate.py") from error


def _zero(random: pd.DataFrame | None, rows: pd.DataFrame, split: str, source: str) -> float | None:
    """The mean return of the random policy on the tasks of `rows`, or None where it was not measured."""
    first = rows.iloc[0]
    if random is None:
        return None
    same = (random["family"] == first["family"]) & (random["preset"] == first["preset"]) & (random["split"] == split)
    mine = random[same & random["task"].isin(rows["task"].unique())]
    for package in ("gymnasium", "mujoco") if len(mine) else ():
        if set(mine[package]) != {first[package]}:
            raise UserError(f"{source} has {package} {first[package]}, random_policy.parquet {mine[package].iloc[0]}; "
                            "measure it again: python data/results/random_policy.py")  # fmt: skip
    return float(mine["return"].mean()) if set(rows["task"]) <= set(mine["task"]) else None
