"""Claim -> criterion fixed before the runs -> verdict, computed from `data/results` and nothing else.

A criterion has parts, each judged by itself: met, not met, or open (None), because something was not run or has too few
seeds. *Reproduced* needs every part. *Partly* needs one of the groups of parts that the criterion names. Without either
the verdict is *not* if the runs rule even "partly" out, else *not testable* (yet): what lacks is listed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pmeta_course.reproduction import ablations
from pmeta_course.reproduction.scores import SEEDS_NEEDED, Scores, load
from pmeta_lib import statistics
from pmeta_lib.envs.families import FAMILIES, family
from pmeta_lib.files import UserError

# What a suite is judged on, planned before the runs; families beyond these enter its aggregates where they were run.
CORE = {
    "gym": ("point-robot", "pendulum-params", "pendulum-flip"),
    "mujoco": ("half-cheetah-dir", "half-cheetah-vel", "ant-dir", "hopper-params"),
}
RIVALS = ("joint", "maml", "reptile", "pearl")
RESAMPLES = 10_000
CLAIMS = {  # id: claim, reproduced if, partly if, commands
    "C1": (
        "conflicting tasks hurt one policy for all (joint) and one initialisation for all (MAML)",
        "conflict rate, and the normalised deficit to independent learning of joint and of MAML, rise with "
        "heterogeneity (Spearman above 0.8, interval above 0), tabular and deep",
        "for one of the learners, or in one of the two settings",
        "pmeta tabular --only conflict",
    ),
    "C2": (
        "the tabular algorithm converges",
        "with warm start, R = 1 and full participation every run obeys T3-T5 (Phi falls in each round) and the log-log "
        "slope of the best squared gradient norm is at most -1; task sampling obeys T6",
        "the bounds hold only in part of the settings",
        "pmeta tabular --only theory,convergence",
    ),
    "C3": (
        "the version on soft actor-critic learns continuous control",
        "pMeta's normalised score has an interval above 0.8 on Gym and on MuJoCo",
        "on one of them",
        "pmeta sweep data/sweeps/gym.toml and mujoco.toml",
    ),
    "C4": (
        "it beats earlier meta-reinforcement learning",
        "probability of improvement over joint, maml, reptile and pearl above 0.5 with the interval excluding 0.5, on "
        "meta-train tasks and after adaptation on meta-test tasks, on both suites",
        "on some learners or suites",
        "pmeta sweep data/sweeps/gym.toml, mujoco.toml and adaptation.toml; pmeta adapt",
    ),
}


@dataclass(frozen=True)
class Part:
    """One part of a criterion. `met` is None while it is open; `groups`: the parts it makes "partly" with."""

    name: str
    met: bool | None
    groups: tuple[str, ...]
    statistic: tuple[float, float | None, float | None] | None = None  # value, low, high
    threshold: float | None = None
    n: str = ""
    lacks: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


def verdict(parts: list[Part]) -> str:
    """reproduced, partly, not, or not testable."""
    groups: dict[str, list[bool | None]] = {}
    for part in parts:
        for name in part.groups:
            groups.setdefault(name, []).append(part.met)
    if all(part.met for part in parts):
        return "reproduced"
    if any(all(group) for group in groups.values()):
        return "partly"
    return "not" if all(False in group for group in groups.values()) else "not testable"


def conflict_parts(table: pd.DataFrame | None, setting: str, file: str) -> list[Part]:
    """C1 from rows (h, seed, learner, deployed, conflict); `deployed` is normalised, `conflict` the rate at joint."""
    if table is not None and table.duplicated(["learner", "h", "seed"]).any():
        raise UserError(f"{file} has more than one row for a learner, h and seed; keep one run of each")
    parts = []
    for learner in (None, "joint", "maml"):
        name = f"{setting}: " + (f"deficit of {learner}" if learner else "conflict rate") + " rises with heterogeneity"
        groups = (f"{setting} {learner}",) if learner else (f"{setting} joint", f"{setting} maml")
        if table is None or (lacks := {"joint", learner or "joint", "independent"} - set(table["learner"])):
            reason = "not run" if table is None else f"no {', '.join(sorted(lacks))}"
            parts.append(Part(name, None, groups, lacks=(reason,)))
            continue
        wide = table.pivot(index="seed", columns=["learner", "h"], values=["deployed", "conflict"]).dropna(how="all")
        y = wide["deployed"]["independent"] - wide["deployed"][learner] if learner else wide["conflict"]["joint"]
        y = y.dropna()  # a seed counts where it has every h
        if len(y) < SEEDS_NEEDED:
            parts.append(Part(name, None, groups, lacks=(f"{len(y)} of {SEEDS_NEEDED} seeds",)))
            continue
        found = statistics.spearman_interval(
            y.columns.to_numpy(float), y.to_numpy(float), _generator(), 0.95, RESAMPLES
        )
        met = bool(found[0] > 0.8 and found[1] > 0)
        parts.append(Part(name, met, groups, found, 0.8, f"{y.shape[1]} settings x {len(y)} seeds", files=(file,)))
    return parts


def theory_parts(theory: pd.DataFrame | None, convergence: pd.DataFrame | None) -> list[Part]:
    """C2 from random small runs held against each statement, and from longer runs."""
    parts, files = [], ("tabular/theory.parquet",)
    for label, starts in (("T3-T5", ("T3", "T4", "T5")), ("T6 (task sampling)", ("T6",))):
        name = f"{label}: no violation where the conditions are met"
        if theory is None:
            parts.append(Part(name, None, (label,), lacks=("not run",)))
            continue
        rows = theory[theory["statement"].str.startswith(starts)]
        idle = tuple(f"{s}: conditions never met" for s, p in rows.groupby("statement") if not p["met"].any())
        wrong = int(rows["holds"].eq(False).sum())
        met = False if wrong else None if idle or rows.empty else True
        n = f"{int(rows['met'].sum())} checks in {rows['run'].nunique()} runs, {wrong} violations"
        parts.append(Part(name, met, (label,), n=n, lacks=idle, files=files))
    names = ("Phi falls in each round (largest rise)", "log-log slope at most -1 (flattest)")
    if convergence is None:
        return parts + [Part(name, None, ("T3-T5",), lacks=("not run",)) for name in names]
    last = convergence.groupby(["family", "tau", "variant", "seed"], as_index=False).last()
    warm = last[last["variant"] == "warm, R = 1"]
    n, files = f"{len(warm)} runs in {len(warm.groupby(['family', 'tau']))} settings", ("tabular/convergence.parquet",)
    for name, column, bound, groups in zip(
        names, ("largest_rise", "slope"), (1e-9, -1.0), (("T3-T5",), ()), strict=True
    ):
        worst = float(warm[column].max())  # Phi is of size 1 to 10: a rise of 1e-9 is rounding
        parts.append(Part(name, worst <= bound, groups, (worst, None, None), bound, n, files=files))
    return parts


def select(
    found: list[Scores], suite: str, split: str, learners: tuple[str, ...], scaled: bool = False
) -> tuple[list[Scores], tuple[str, ...]]:
    """The suite's families that can be judged for these learners, and what the core families lack. On test tasks only
    families count whose test tasks are held out."""
    there = {s.name: s for s in found if s.suite == suite and s.split == split}
    core = CORE[suite]
    if split == "test":
        there, core = {n: s for n, s in there.items() if family(n).held_out}, [n for n in core if family(n).held_out]
    usable = [s for s in there.values() if not s.lack(learners, scaled)]
    reasons = {n: there[n].lack(learners, scaled) if n in there else "not run" for n in core}
    return usable, tuple(f"{n}: {reason}" for n, reason in reasons.items() if reason)


def score_parts(found: list[Scores]) -> list[Part]:
    """C3: the interquartile mean of pMeta's normalised score over families x seeds, on each suite."""
    parts = []
    for suite in CORE:
        usable, lacks = select(found, suite, "train", ("pmeta", "independent"), scaled=True)
        statistic = aggregate(usable, "pmeta") if usable else None
        met = None if lacks else bool(statistic[1] > 0.8)
        parts.append(
            Part(f"{suite}: normalised score above 0.8", met, (suite,), statistic, 0.8, *_basis(usable, lacks, "pmeta"))
        )
    return parts


def improvement_parts(found: list[Scores]) -> list[Part]:
    """C4: the probability of improvement over each rival, on each suite, on training and on adapted test tasks."""
    parts = []
    for split, words in (("train", "meta-train"), ("test", "meta-test, adapted")):
        for suite in CORE:
            for rival in RIVALS:
                usable, lacks = select(found, suite, split, ("pmeta", rival))
                statistic = improvement(usable, "pmeta", rival) if usable else None
                met = None if lacks else bool(statistic[1] > 0.5)
                name = f"{suite}, {words}: improvement over {rival}"
                parts.append(Part(name, met, (name,), statistic, 0.5, *_basis(usable, lacks, "pmeta", rival)))
    return parts


def aggregate(families: list[Scores], learner: str) -> tuple[float, float, float]:
    """Interquartile mean of the normalised score over families x seeds, with its interval."""
    strata = [s.final(learner) for s in families] + [s.final("independent") for s in families]
    zeros = [s.random for s in families]
    return _floats(strata, lambda x: statistics.iqm(statistics.normalised(x, zeros)))


def improvement(families: list[Scores], ours: str, theirs: str) -> tuple[float, float, float]:
    """Probability of improvement of `ours` over `theirs`, families weighing alike, with its interval."""
    return _floats([s.final(n) for n in (ours, theirs) for s in families], statistics.improvement)


def ledger(folder: Path) -> dict:
    """Everything that is reported, as plain JSON: `claims` with their parts, `scores` of every family and learner, the
    families of which nothing is stored (`not_run`), and what each switch of pMeta changes (`ablations`)."""
    folder, found = Path(folder), load(folder)
    table = {n: pd.read_parquet(p) if (p := folder / f"{n}.parquet").exists() else None
             for n in ("tabular/conflict", "tabular/theory", "tabular/convergence", "conflict")}  # fmt: skip
    parts = {
        "C1": conflict_parts(table["tabular/conflict"], "tabular", "tabular/conflict.parquet")
        + conflict_parts(table["conflict"], "deep", "conflict.parquet"),
        "C2": theory_parts(table["tabular/theory"], table["tabular/convergence"]),
        "C3": score_parts(found),
        "C4": improvement_parts(found),
    }
    absent = [n for n in FAMILIES if n not in {s.name for s in found}]
    rows = [r for s in found for r in _rows(s)]
    return {"claims": [_claim(key, parts[key]) for key in CLAIMS], "scores": rows, "not_run": absent,
            "ablations": _computed(folder / "ablations.parquet", ablations.differences)}  # fmt: skip


def _claim(key: str, parts: list[Part]) -> dict:
    claim, reproduced, partly, command = CLAIMS[key]
    return {
        "id": key, "claim": claim, "paper": "abstract of arXiv 2209.10072 (our reading; all else is ours)",
        "criterion": {"reproduced": reproduced, "partly": partly}, "verdict": verdict(parts),
        "parts": [
            {"part": p.name, "judgement": {True: "met", False: "not met", None: "open"}[p.met],
             **dict(zip(("value", "low", "high"), map(_digits, p.statistic or (None,) * 3))),
             "threshold": p.threshold, "n": p.n, "lacks": list(p.lacks)}
            for p in parts
        ],
        "command": f"{command}; then make report", "files": sorted({f for p in parts for f in p.files}),
    }  # fmt: skip


def _rows(s: Scores) -> list[dict]:
    """One row a learner, and the random policy: every table shows the two ends of the scale."""
    scaled = s.split == "train" and not s.lack(("independent",), True)
    rows = [{"family": s.name, "tasks": s.split, "learner": "random", "mean": _digits(s.random), "file": s.source}]
    for learner, curve in s.curves.items():
        final = s.final(learner)
        interval = (
            statistics.bootstrap_interval(final, _generator(), 0.95, RESAMPLES) if final.size > 1 else (final[0],)
        )
        score = aggregate([s], learner) if scaled else (None,)
        rows.append({
            "family": s.name, "tasks": s.split, "learner": learner, "seeds": len(curve),
            **dict(zip(("mean", "low", "high"), map(_digits, interval))),
            **dict(zip(("score", "score_low", "score_high"), map(_digits, score))),
            "steps": int(curve.columns.max()), "seconds": _digits(s.seconds[learner]), "file": s.source,
        })  # fmt: skip
    return rows


def _computed(path: Path, compute: Callable[[pd.DataFrame], list[dict]]) -> list[dict]:
    """The rows of a table, nothing where it has not been made."""
    rows = compute(pd.read_parquet(path)) if path.exists() else []
    return [{k: _digits(v) if isinstance(v, float) else v for k, v in row.items()} for row in rows]


def _basis(usable: list[Scores], lacks: tuple[str, ...], *learners: str):
    """n, what lacks, and the files, of a statistic over families."""
    seeds = sorted({len(s.curves[n]) for s in usable for n in learners})
    n = f"{len(usable)} families x {'-'.join(map(str, seeds))} seeds" if usable else ""
    return n, lacks, tuple(sorted({s.source for s in usable}))


def _generator() -> np.random.Generator:
    return np.random.default_rng(0)  # every interval from the same seed: each can be computed by itself


def _floats(strata, statistic) -> tuple[float, float, float]:
    found = statistics.stratified_bootstrap(strata, statistic, _generator(), 0.95, RESAMPLES)
    return tuple(float(x) for x in found)


def _digits(x: float | None) -> float | None:
    """Six significant digits: what another processor's rounding leaves alone."""
    return None if x is None else float(f"{x:.6g}")
