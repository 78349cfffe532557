"""The stored deep runs, family by family, fit to be compared: what exists, on which scale, and what must not be mixed.

Training curves come from the sweeps' tables (`pmeta sweep results`), `gym*.parquet`, `mujoco*.parquet` and (on-policy
learners) `policy_gradient*.parquet`, a table for each machine or set of versions. What learners do on meta-test tasks
comes from `adaptation*.parquet` (the tables of `pmeta adapt`, one below the other). A table with `field` in its name is
of the field scale, any other of the desk scale; the two never mix. The 0 of a score is the best of three policies that
learned nothing (`placebos.parquet`), the 1 is independent SAC.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from pmeta_course.reproduction import statistics
from pmeta_course.reproduction.statistics import Interval, last_quarter
from pmeta_lib.envs.families import FAMILIES, family
from pmeta_lib.experiments.results import DECISIVE
from pmeta_lib.files import UserError, json_text, read_table, unknown

SEEDS_NEEDED = 5
FEW = range(1, 21)  # the episodes on a new task that the few-shot endpoint is the mean of
FULL_CONFLICT = ("pendulum-flip", "half-cheetah-dir", "ant-dir")  # one policy for all tasks cannot do well here
PLACEBOS = ("family", "preset", "split", "placebo", "seed", "task", "return", "gymnasium", "mujoco")  # its columns
BUDGET = ("steps", "hidden", "batch_size", "updates_per_step", "evaluations")  # equal for all learners of a family


@dataclass(frozen=True)
class Scores:
    """One family's returns on meta-train tasks (`split` "train") or, adapted to them, on meta-test tasks ("test")."""

    name: str
    split: str
    source: str  # the file, or files
    preset: str
    curves: dict[str, pd.DataFrame]  # learner -> (seeds, steps): mean return over the family's tasks
    placebos: dict[str, np.ndarray]  # "untrained", ... -> (seeds,): mean return on the same tasks; empty: not measured
    seconds: dict[str, float]  # learner -> mean wall time of a run
    few: dict[str, np.ndarray] = field(default_factory=dict)  # test: learner -> (seeds,), mean over episodes 1 to 20

    @property
    def suite(self) -> str:
        return family(self.name, self.preset).suite

    @property
    def scale(self) -> str:
        return kind_of(self.source)[1]

    def final(self, name: str) -> np.ndarray:
        """(seeds,): a run's result, of a learner or a placebo. Train: the mean over the last quarter of its
        evaluations; never the maximum. Test: the return after the longest adaptation (see `few` for the endpoint)."""
        if name in self.placebos:
            return self.placebos[name]
        curve = self.curves[name]
        late = last_quarter(curve.columns) if self.split == "train" else curve.columns == curve.columns[-1]
        return curve.loc[:, late].mean(axis=1).to_numpy()

    def result(self, name: str) -> np.ndarray:
        """(seeds,): what claims compare: `final` in training, the few-shot endpoint on test tasks."""
        return self.final(name) if self.split == "train" or name in self.placebos else self.few[name]

    @property
    def zero(self) -> str | None:
        """Which placebo is the 0 of the scale: the one with the highest mean."""
        return max(self.placebos, key=lambda n: self.placebos[n].mean(), default=None)

    def score(self, name: str) -> Interval:
        """Normalised score of a learner or placebo, with its interval; see `lack` for whether there is a scale."""
        return statistics.score_interval(self.final(name), self.final("independent"), self.placebos[self.zero])

    def unscaled(self) -> str:
        """Why there is no scale ("" if there is one, or nothing to tell from): learning alone is not above 0."""
        if self.lack(("independent",)):
            return ""
        gain = statistics.difference_interval(self.final("independent"), self.placebos[self.zero])
        return "" if gain[1] > 0 else f"no scale: learning alone is not above {self.zero}"

    def rising(self) -> bool:
        """Whether independent SAC still gains more than a tenth of its total gain in the last quarter (a line fitted
        to the mean over seeds there, against the gain from the first evaluation to the last quarter's mean)."""
        if self.split != "train" or "independent" not in self.curves:
            return False
        mean = self.curves["independent"].mean()
        late = mean[last_quarter(mean.index)]
        if len(late) < 2:
            return False
        quarter = 0.25 * float(mean.index.max()) * np.polyfit(late.index.to_numpy(float), late.to_numpy(), 1)[0]
        return bool(quarter > 0.1 * (late.mean() - mean.iloc[0]))

    def lack(self, learners: tuple[str, ...]) -> str:
        """Why the family cannot be judged for these learners ("" if it can)."""
        there = self.curves if self.split == "train" else self.few
        what = "no " if self.split == "train" else f"no episodes {FEW[0]}-{FEW[-1]} of "
        absent = [n for n in learners if n not in there and n not in self.placebos]
        short = [f"{n}: {len(x)} of {SEEDS_NEEDED} seeds" for n, x in there.items()
                 if n in learners and len(x) < SEEDS_NEEDED]  # fmt: skip
        return "; ".join(([what + ", ".join(absent)] if absent else []) + short + ["no placebos"] * (not self.placebos))


def kind_of(source: str) -> tuple[str, str]:
    """("train" or "test", "desk" or "field"): the tasks and the scale of a table, by its file's name."""
    return "test" if source.startswith("adaptation") else "train", "field" if "field" in source else "desk"


@contextmanager
def reading(name: str) -> Iterator[None]:
    """A file that lacks a column, has text for numbers or broken JSON is one `UserError` that names it."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise UserError(f"{name} is not as it was made ({what}); restore it, or make it: data/README.md") from error


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """The stored tables of runs by file, with every run's spec and provenance on its rows; nothing is checked yet."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; run from the top of the repository, or name it with --data")
    names = ("gym*", "mujoco*", "policy_gradient*", "adaptation*")
    found, owners = {p.name: read_table(p) for name in names for p in sorted(folder.glob(f"{name}.parquet"))}, {}
    for name, table in found.items():
        with reading(name):
            pairs = sorted(set(zip(table["family"], table["learner"])))
        for tasks, learner in pairs:
            other = owners.setdefault((tasks, learner, kind_of(name)), name)
            if other != name:
                raise UserError(f"{tasks} is in {other} and in {name}; keep one, runs of two tables do not mix")
    return found


def rows(found: dict[str, pd.DataFrame], s: Scores) -> pd.DataFrame:
    """The rows of `tables` that one family's scores were computed from."""
    mine = pd.concat([found[name] for name in s.source.split(", ")], ignore_index=True)
    return mine[mine["family"] == s.name]


def on_a_cpu(rows: pd.DataFrame) -> bool:
    """Whether a CPU made the runs of these `rows`, in a precision that this one multiplies fast, too."""
    from pmeta_lib.sac.networks import hidden_type  # PyTorch, which reading tables need not wait for

    wanted = {json.loads(text).get("precision", "float32") for text in rows["settings"].unique()}
    return set(rows["device"]) == {"cpu"} and wanted <= {"float32", str(hidden_type("auto", "cpu"))[6:]}


def load(folder: Path) -> list[Scores]:
    """All that is stored under `folder` (`data/results`), in the order of the families; train before test.

    Raises `UserError` for a table that mixes presets, versions, devices, budgets or a learner's options, repeats or
    lacks evaluations, or disagrees with the placebos' versions: the text lists what.
    """
    placebos, found, tasks = Path(folder) / "placebos.parquet", {}, {}
    stored, idle = tables(folder), read_table(placebos) if placebos.exists() else None
    with reading(placebos.name):
        idle = None if idle is None else idle[list(PLACEBOS)]
    for source, table in stored.items():
        with reading(source):
            split, scale = kind_of(source)
            table = _adapted(table) if split == "test" else table
            check(table, source)
            for name, every in table.groupby("family"):
                rows = every[every["policy"] == "deployed"]
                curves = {n: part.pivot_table(index="seed", columns="step", values="return", aggfunc="mean")
                          for n, part in rows.groupby("learner")}  # fmt: skip
                few = {n: x for n, part in every.groupby("learner") if n in curves and (x := _few(part)) is not None}
                seconds = rows.drop_duplicates("run").groupby("learner")["seconds"].mean().to_dict()
                new = Scores(str(name), split, source, rows["preset"].iloc[0], curves,
                             _placebos(idle, rows, split, source), seconds, few)  # fmt: skip
                key, asked = (new.name, split, scale), frozenset(rows["task"])
                if tasks.setdefault(key, asked) != asked:
                    continue  # on-policy learners on other tasks (their own scale) are no rivals of these
                found[key] = _joined(found[key], new) if key in found else new
    return sorted(found.values(), key=lambda s: (s.split == "test", FAMILIES.index(s.name), s.scale != "field"))


def _joined(a: Scores, b: Scores) -> Scores:
    """One family's learners from two tables, such as those of the off-policy and of the on-policy learners."""
    if a.preset != b.preset:
        raise UserError(f"{a.name} has preset {a.preset} in {a.source} and {b.preset} in {b.source}; keep one")
    return Scores(a.name, a.split, f"{a.source}, {b.source}", a.preset, a.curves | b.curves, a.placebos or b.placebos,
                  a.seconds | b.seconds, a.few | b.few)  # fmt: skip


def _few(rows: pd.DataFrame) -> np.ndarray | None:
    """(seeds,): mean over tasks and episodes 1 to 20 of an adaptation's rows; None where a run lacks some of them."""
    if "episode" not in rows:
        return None
    first = rows[(rows["policy"] == "acting") & rows["episode"].isin(FEW)]
    runs = first.groupby("seed")["episode"].nunique()
    complete = len(runs) == rows["seed"].nunique() and (runs == len(FEW)).all()
    return first.groupby("seed")["return"].mean().to_numpy() if complete else None


def check(table: pd.DataFrame, source: str) -> None:
    """Refuse to average what does not belong together; see `load`."""
    for name in set(table["family"]) - set(FAMILIES):
        raise unknown("family", name, FAMILIES, where=source)
    runs = table.drop_duplicates("run")
    several = {c: runs[c].value_counts() for c in ("preset", *DECISIVE) if table[c].nunique() > 1}
    faults = [
        f"{c}: " + ", ".join(f"{value} in {n} runs" for value, n in counts.items()) for c, counts in several.items()
    ]
    for key, same in runs.groupby(["family", "learner", "seed"])["run"]:
        if len(same) > 1:
            faults.append(f"{' '.join(map(str, key))}: the same seed {len(same)} times, runs {', '.join(same)}")
    runs = runs.assign(budget=[json_text({k: json.loads(s).get(k) for k in BUDGET}) for s in runs["settings"]])
    for pair, part in runs[runs["learner"] != "scratch"].groupby(["family", "learner"]):
        for column in ("options", "settings"):
            if column in part and (apart := differing(part[column])):
                faults.append(f"{' '.join(pair)}: {column} differ, {apart}")
    for name, part in runs.groupby("family"):
        for column in ("budget", "train_tasks"):
            if part[column].nunique(dropna=False) > 1:
                faults.append(f"{name}: {column} differs: {', '.join(map(str, part[column].unique()))}")
    odd = (~np.isfinite(table["return"])).sum()
    repeated = table.duplicated(["family", "learner", "seed", "policy", "task", "step", "run"]).sum()
    if repeated or odd:
        faults.append(f"{repeated} rows are repeated, {odd} not finite")
    sizes = table.groupby(["family", "learner", "policy", "run"]).size().groupby(level=[0, 1, 2]).agg(["min", "max"])
    for key, least, most in sizes.itertuples():
        if least < most:
            faults.append(f"{' '.join(key)}: {least} to {most} evaluations a run; some are incomplete")
    if faults:
        raise UserError(f"{source} mixes what must not be averaged:" + "".join(f"\n  {f}" for f in faults))


def differing(texts: pd.Series) -> str:
    """What differs between JSON objects, for people: "lam: 0.1 in 3 runs, 1.0 in 2 runs; ..."; "" if nothing does."""
    rows = pd.DataFrame([{k: json_text(v) for k, v in json.loads(text).items()} for text in texts]).fillna("none")
    counts = {name: rows[name].value_counts() for name in rows if rows[name].nunique() > 1}
    return "; ".join(f"{k}: " + ", ".join(f"{v} in {n} runs" for v, n in c.items()) for k, c in counts.items())


def _adapted(table: pd.DataFrame) -> pd.DataFrame:
    """Tables of `pmeta adapt`: the learners' own ways, and once SAC from a fresh network as the learner "scratch".
    Version 0.1 knew what is deployed after so many steps alone, and no episode as it was lived."""
    table = table.assign(policy=table["policy"].fillna("deployed") if "policy" in table else "deployed")
    once = ["family", "seed", "policy", "step", "task", "return"]  # the same in the table of every learner
    scratch = table[table["way"] == "scratch"].drop_duplicates(once)
    names = {"learner": "scratch", "run": "scratch " + scratch["family"] + " " + scratch["seed"].astype(str)}
    own = table[~table["way"].isin(("scratch", "random"))]
    return pd.concat([own, scratch.assign(**names)], ignore_index=True)


def _placebos(idle: pd.DataFrame | None, rows: pd.DataFrame, split: str, source: str) -> dict[str, np.ndarray]:
    """Placebo -> (seeds,): its mean return on the tasks of `rows`; nothing where they were not measured."""
    if idle is None:
        return {}
    first, tasks = rows.iloc[0], rows["task"].unique()
    same = (idle["family"] == first["family"]) & (idle["preset"] == first["preset"]) & (idle["split"] == split)
    mine = idle[same & idle["task"].isin(tasks)]
    for package in ("gymnasium", "mujoco") if len(mine) else ():
        if set(mine[package]) != {first[package]}:
            raise UserError(f"{source} has {package} {first[package]}, placebos.parquet {mine[package].iloc[0]}; "
                            "measure them again: python data/results/placebos.py")  # fmt: skip
    complete = mine["task"].nunique() == len(tasks)
    return {n: x.groupby("seed")["return"].mean().to_numpy() for n, x in mine.groupby("placebo")} if complete else {}
