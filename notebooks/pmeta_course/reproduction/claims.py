"""Claim -> criterion fixed before the runs -> verdict, computed from `data/results` and nothing else. Version 2.

A criterion has parts. Each is judged by one rule, the 95 % interval's lower end above the threshold, and the same
statistic is computed for what must *not* pass: a control that learns nothing across tasks (independent SAC; on new
tasks, from scratch), and placebos that learn nothing at all (uniform random, zero action, an untrained network) or
cannot learn this (joint SAC in full conflict). A part is

- *met*: pMeta passes and no placebo does, and it beats the control;
- *met by learning alone too*: pMeta passes, but so does the control, and pMeta does not beat it;
- *uninformative*: a placebo passes as well, or the family has no scale;
- *not met*, or *open*: not run, or too few seeds.

Version 1, its verdicts, and why it was replaced: `data/claims_v1.json`, docs/results.md.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from pmeta_course.reproduction import ablations
from pmeta_course.reproduction.scores import FULL_CONFLICT, SEEDS_NEEDED, Scores, load
from pmeta_lib import statistics
from pmeta_lib.envs.families import FAMILIES, family
from pmeta_lib.files import UserError
from pmeta_lib.statistics import Interval

WORDS = MET, ALONE, IDLE, NOT, OPEN = "met", "met by learning alone too", "uninformative", "not met", "open"
# What a suite is judged on, planned before the runs; families beyond these enter C4 where they were run.
_GYM = ("point-robot", "pendulum-params", "pendulum-flip")
CORE = {
    "desk": {"gym": _GYM, "mujoco": ("half-cheetah-dir", "half-cheetah-vel", "ant-dir", "hopper-params")},
    "field": {"gym": _GYM, "mujoco": ("half-cheetah-dir", "half-cheetah-vel", "hopper-params", "walker2d-params")},
}
RIVALS = ("joint", "maml", "pg-maml", "promp", "rl2", "reptile", "pearl")
ALPHA = 0.025  # one-sided, as the lower end of a 95 % interval
SLOPE, ROUNDING, SHRUNK = -1.0, 1e-9, 10.0  # C2: steepest allowed, what counts as a rise of Phi, how a bound is shrunk
CLAIMS = {  # id: claim, criterion, commands
    "C1": (
        "conflicting tasks hurt one policy for all (joint) and one initialisation for all (MAML)",
        "tabular and deep, for joint, for MAML as its authors define it (policy gradients) and for MAML on SAC: the "
        "deficit to learning alone at full heterogeneity minus that at none, normalised, exceeds 0.1; so does "
        "cancellation, 1 - norm of the mean gradient / mean norm of the gradients",
        "pmeta tabular --only conflict; python data/results/conflict.py",
    ),
    "C2": (
        "the tabular algorithm converges",
        "T3-T6 hold wherever their conditions are met, in settings with exact constants where a bound shrunk tenfold "
        "is violated; Phi falls in each round; the log-log slope of the true gradient's best squared norm is at most "
        "-1 with warm start and R = 1, and cold start and R > 1 fail that test",
        "pmeta tabular --only theory,convergence",
    ),
    "C3": (
        "the version on soft actor-critic learns continuous control",
        "on each core family the normalised score exceeds 0.8 (0: the best of three placebos, 1: independent SAC)",
        "pmeta sweep data/sweeps/gym.toml and mujoco.toml",
    ),
    "C4": (
        "it beats earlier meta-reinforcement learning",
        "probability of improvement over joint, MAML (SAC), MAML (policy gradients), ProMP, RL2, Reptile and PEARL "
        "above one half, in meta-training and in the mean return of the first twenty episodes on unseen tasks, on "
        "each suite; Holm's correction over all parts of a scale; and learning alone beats the rival less",
        "pmeta sweep data/sweeps/gym.toml, mujoco.toml and adaptation.toml; pmeta adapt",
    ),
    "C5": (
        "personalization helps between learning alone and sharing all (ours)",
        "over heterogeneity x data per task it beats both independent and joint learning (probability of improvement "
        "above one half) in more cells than chance alone would decide (95 %)",
        "see data/README.md, map.parquet",
    ),
}


@dataclass(frozen=True)
class Part:
    """One part of a criterion. `scale`: "desk", "field", or "any" for what both rest on."""

    name: str
    scale: str
    verdict: str
    statistic: Interval | None = None
    threshold: float | None = None
    controls: dict[str, Interval] = field(
        default_factory=dict
    )  # the same statistic of what learns nothing across tasks
    placebos: dict[str, Interval] = field(default_factory=dict)  # and of what learns nothing
    p: float | None = None  # C4: one-sided, by Holm
    n: str = ""
    lacks: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


def judge(passes: bool, placebo_passes: bool, alone: bool) -> str:
    """One part's verdict; `alone`: the control passes too and is not beaten."""
    return NOT if not passes else IDLE if placebo_passes else ALONE if alone else MET


def above(found: Interval, threshold: float) -> bool:
    """The one rule."""
    return found[1] > threshold


def verdict(parts: list[Part]) -> str:
    """A claim's: reproduced, by learning alone too, partly, not, or open. Uninformative parts decide nothing."""
    words = {p.verdict for p in parts} - {IDLE}
    if words <= {MET, ALONE} and words:
        return "reproduced" if words == {MET} else "by learning alone too"
    if MET in words:
        return "partly"
    return "open" if OPEN in words or not words else "not"


# ------------------------------------------------------------------------------------------------------- C1
def conflict_parts(table: pd.DataFrame | None, setting: str, file: str, placebos: dict[str, np.ndarray]) -> list[Part]:
    """C1 from rows (h, seed, learner, and `deployed` in percent, tabular, or `return`, deep; `cancellation` of joint).

    `placebos`: their values in the same unit, on every h alike; the best of them is the 0 of the scale.
    """
    if table is not None and table.duplicated(["learner", "h", "seed"]).any():
        raise UserError(f"{file} has more than one row for a learner, h and seed; keep one run of each")
    column, zero = (
        ("deployed" if setting == "tabular" else "return"),
        max((x.mean() for x in placebos.values()), default=0),
    )

    def sample(learner: str, h: float, column: str = column) -> np.ndarray:
        if table is None or column not in table:
            return np.array([])
        return table.loc[(table["learner"] == learner) & (table["h"] == h), column].dropna().to_numpy(float)

    def lacks(samples: dict[str, np.ndarray]) -> tuple[str, ...]:
        if table is None:
            return ("not run",)
        return tuple(
            f"{name}: {len(x)} of {SEEDS_NEEDED} seeds" for name, x in samples.items() if len(x) < SEEDS_NEEDED
        )

    parts, name = [], f"{setting}: cancellation, full heterogeneity minus none"
    ends = {f"cancellation at h = {h:g}": sample("joint", h, "cancellation") for h in (1.0, 0.0)}
    if short := lacks(ends):
        parts.append(Part(name, "any", OPEN, lacks=short))
    else:
        found = statistics.contrast(list(ends.values()), [1, -1])
        parts.append(
            Part(name, "any", judge(above(found, 0.1), False, False), found, 0.1, n=_seeds(ends), files=(file,))
        )
    for learner in ("joint", "maml", *(("pg-maml",) if setting == "deep" else ())):
        alone = "pg-independent" if learner.startswith("pg-") else "independent"
        name = f"{setting}: deficit of {learner}, full heterogeneity minus none"
        samples = {f"{n} at h = {h:g}": sample(n, h) for n in (alone, learner) for h in (1.0, 0.0)}
        if short := lacks(samples):
            parts.append(Part(name, "any", OPEN, lacks=short))
            continue
        # The unit is known to better than a hundredth, and counts as known.
        unit = [100.0] * 2 if setting == "tabular" else [sample(alone, h).mean() - zero for h in (1.0, 0.0)]

        def rise(mine, alone=alone, unit=unit):
            return statistics.contrast([sample(alone, 1.0), mine(1.0), sample(alone, 0.0), mine(0.0)],
                                       [1 / unit[0], -1 / unit[0], -1 / unit[1], 1 / unit[1]])  # fmt: skip

        found, control = rise(lambda h, n=learner: sample(n, h)), rise(lambda h, n=alone: sample(n, h))
        idle = {n: rise(lambda h, x=x: x) for n, x in placebos.items()}
        word = judge(above(found, 0.1), any(above(x, 0.1) for x in idle.values()), above(control, 0.1))
        parts.append(Part(name, "any", word, found, 0.1, {alone: control}, idle, n=_seeds(samples), files=(file,)))
    return parts


def _seeds(samples: dict[str, np.ndarray]) -> str:
    return "-".join(map(str, sorted({len(x) for x in samples.values()}))) + " seeds"


# ------------------------------------------------------------------------------------------------------- C2
def theory_parts(
    theory: pd.DataFrame | None, convergence: pd.DataFrame | None, ours: str = "warm, R = 1"
) -> list[Part]:
    """C2 from random small runs held against each statement, and from longer runs; `ours`: the variant that is judged,
    the others are the controls that must fail."""
    parts, files = [], ("tabular/theory.parquet",)
    for label, starts in (("T3-T5", ("T3", "T4", "T5")), ("T6 (task sampling)", ("T6",))):
        name = f"{label}: no violation where the conditions are met, and a bound shrunk tenfold is violated"
        if theory is None or {"margin", "exact_constants"} - set(theory):
            parts.append(Part(name, "any", OPEN, lacks=("not run" if theory is None else "no margins",)))
            continue
        rows = theory[theory["statement"].str.startswith(starts)]
        wrong = int(rows["holds"].eq(False).sum())
        bounds = rows[rows["margin"].notna()]  # an identity has no margin
        exact = bounds[bounds["met"] & bounds["exact_constants"].astype(bool)].groupby("statement")["margin"].min()
        idle = [f"{s}: conditions never met" for s, r in rows.groupby("statement") if not r["met"].any()]
        idle += [f"{s}: not in a setting with exact constants" for s in set(bounds["statement"]) - set(exact.index)]
        loosest = float(exact.max()) if len(exact) else np.inf
        word = NOT if wrong else OPEN if idle or rows.empty else NOT if loosest >= SHRUNK else MET
        n = f"{int(rows['met'].sum())} checks in {rows['run'].nunique()} runs, {wrong} violations"
        n += f"; with exact constants a bound shrunk {loosest:.3g}-fold is violated" if len(exact) else ""
        parts.append(Part(name, "any", word, n=n, lacks=tuple(sorted(idle)), files=files))
    names = (
        "Phi falls in each round (largest rise)",
        "slope of the true gradient's best squared norm at most -1 (flattest)",
    )
    files = ("tabular/convergence.parquet",)
    for name, column, bound in zip(names, ("largest_rise", "true_gradient_slope"), (ROUNDING, SLOPE), strict=True):
        if convergence is None or column not in convergence:
            parts.append(Part(name, "any", OPEN, lacks=("not run" if convergence is None else f"no {column}",)))
            continue
        last = convergence.groupby(["family", "tau", "variant", "seed"], as_index=False).last()
        worst = {str(v): (float(r[column].max()),) * 3 for v, r in last.groupby("variant")}
        mine = worst.pop(ours, (np.nan,) * 3)
        # T5 covers the meta step over all tasks too: no control.
        others = {v: x for v, x in worst.items() if column != "largest_rise" and not v.endswith("over all")}
        word = judge(mine[0] <= bound, any(x[0] <= bound for x in others.values()), False)
        runs = last[last["variant"] == ours]
        n = f"{len(runs)} runs in {len(runs.groupby(['family', 'tau']))} settings"
        parts.append(Part(name, "any", word, mine, bound, others, n=n, files=files))
    return parts


# --------------------------------------------------------------------------------------------------- C3, C4
def score_parts(found: list[Scores], scale: str, ours: str = "pmeta") -> list[Part]:
    """C3: the normalised score of `ours` on every core family."""
    there, parts = {s.name: s for s in found if (s.scale, s.split) == (scale, "train")}, []
    for suite, names in CORE[scale].items():
        for name in names:
            label, s = f"{suite}, {name}: normalised score above 0.8", there.get(name)
            short = s.lack((ours, "independent")) if s else "not run"
            if short:
                parts.append(Part(label, scale, OPEN, lacks=(short,)))
                continue
            if short := s.unscaled():
                parts.append(Part(label, scale, IDLE, lacks=(short,), files=(s.source,)))
                continue
            idle = {n: s.score(n) for n in s.placebos}
            if name in FULL_CONFLICT and not s.lack(("joint",)):
                idle["joint in conflict"] = s.score("joint")
            score = s.score(ours)
            word = judge(above(score, 0.8), any(above(x, 0.8) for x in idle.values()), not above(score, 1.0))
            n = f"{len(s.final(ours))} seeds" + (", still rising" if s.rising() else "")
            parts.append(Part(label, scale, word, score, 0.8, {"independent": s.score("independent")}, idle, n=n,
                              files=(s.source,)))  # fmt: skip
    return parts


def select(found: list[Scores], scale: str, suite: str, split: str, learners: tuple[str, ...]):
    """The suite's families that can be judged for these learners, what the core families lack, and why a family decides
    nothing (it has no scale), as three tuples. On test tasks only families count that hold them out."""
    mine = [s for s in found if (s.scale, s.suite) == (scale, suite)]
    flat = {s.name: why for s in mine if s.split == "train" and (why := s.unscaled())}
    there, core = {s.name: s for s in mine if s.split == split}, CORE[scale][suite]
    if split == "test":
        there, core = {n: s for n, s in there.items() if family(n).held_out}, [n for n in core if family(n).held_out]
    usable = tuple(s for n, s in there.items() if n not in flat and not s.lack(learners))
    reasons = {n: there[n].lack(learners) if n in there else "not run" for n in core if n not in flat}
    idle = tuple(f"{n}: {flat[n]}" for n in there if n in flat)
    return usable, tuple(f"{n}: {why}" for n, why in reasons.items() if why), idle


def improvement_parts(found: list[Scores], scale: str, ours: str = "pmeta") -> list[Part]:
    """C4: the probability of improvement over each rival, on each suite, in training and on unseen tasks."""
    cells = []
    for split, words, alone in (
        ("train", "meta-train", "independent"),
        ("test", "meta-test, episodes 1-20", "scratch"),
    ):
        for suite in CORE[scale]:
            for rival in RIVALS:
                chosen = select(found, scale, suite, split, (ours, rival, alone))
                cells.append((f"{suite}, {words}: improvement over {rival}", *chosen, rival, alone))
    tests = [1.0 if lacks or not usable else statistics.improvement_p(_of(usable, ours), _of(usable, rival))
             for _, usable, lacks, _, rival, _ in cells]  # fmt: skip
    parts = []
    for (name, usable, lacks, flat, rival, alone), p in zip(cells, statistics.holm(tests), strict=True):
        if not usable:
            parts.append(Part(name, scale, OPEN if lacks else IDLE, lacks=lacks or flat))
            continue
        mine, theirs = improvement(usable, ours, rival), improvement(usable, alone, rival)
        head = improvement(usable, ours, alone)
        idle = {n: improvement(usable, n, rival) for n in usable[0].placebos if all(n in s.placebos for s in usable)}
        torn = [s for s in usable if s.name in FULL_CONFLICT and "joint" in s.curves]
        if torn:
            idle["joint in conflict"] = improvement(torn, "joint", rival)
        # More than the control: head to head, or, where the control does not beat the rival, by beating it more.
        more = above(head, 0.5) or (not above(theirs, 0.5) and above(statistics.minus(mine, theirs), 0.0))
        passes, placebo = p < ALPHA, any(above(x, 0.5) for x in idle.values())
        word = OPEN if lacks else judge(passes and (more or above(theirs, 0.5)), placebo, not more)
        seeds = sorted({len(s.result(n)) for s in usable for n in (ours, rival)})
        n = f"{len(usable)} families x {'-'.join(map(str, seeds))} seeds"
        n += ", still rising: " + ", ".join(r) if (r := [s.name for s in usable if s.rising()]) else ""
        n += f" (without {', '.join(flat)})" if flat else ""
        parts.append(Part(name, scale, word, mine, 0.5, {alone: theirs, f"it over {alone}": head}, idle,
                          None if lacks else p, n, lacks, tuple(sorted({s.source for s in usable}))))  # fmt: skip
    return parts


def _of(families: tuple[Scores, ...] | list[Scores], learner: str) -> list[np.ndarray]:
    return [s.result(learner) for s in families]


def improvement(families: tuple[Scores, ...] | list[Scores], ours: str, theirs: str) -> Interval:
    """Probability of improvement of `ours` over `theirs`, families weighing alike, with its interval."""
    return statistics.improvement_interval(_of(families, ours), _of(families, theirs))


# ------------------------------------------------------------------------------------------------------- C5
def map_cells(table: pd.DataFrame, ours: str = "pmeta") -> list[dict]:
    """One row a cell of the map, (family, h, steps): the chance to beat independent and joint, and what is decided."""
    rows = []
    for (name, h, steps), cell in table[table["policy"] == "deployed"].groupby(["family", "h", "steps"]):
        runs = {n: r.groupby("seed")["return"].mean().to_numpy() for n, r in cell.groupby("learner")}
        row = {"family": name, "h": h, "steps": steps, "seeds": len(runs.get(ours, ()))}
        found = [statistics.improvement_interval([runs[ours]], [runs[n]]) for n in ("independent", "joint")
                 if min(len(runs.get(n, ())), len(runs.get(ours, ()))) >= SEEDS_NEEDED]  # fmt: skip
        for n, x in zip(("independent", "joint"), found):
            row |= {n: x[0], f"{n}_low": x[1], f"{n}_high": x[2]}
        both = len(found) == 2
        row["verdict"] = OPEN if not both else MET if all(above(x, 0.5) for x in found) else NOT
        rows.append(row)
    return rows


def map_parts(table: pd.DataFrame | None, ours: str = "pmeta") -> list[Part]:
    """C5: whether more cells of the map are decided for pMeta than chance alone would decide."""
    name, rows = "cells where it beats both independent and joint", [] if table is None else map_cells(table, ours)
    judged = [r for r in rows if r["verdict"] != OPEN]
    if len(judged) < len(rows) or not rows:
        lacks = f"{len(rows) - len(judged)} of {len(rows)} cells" if rows else "not run"
        return [Part(name, "any", OPEN, lacks=(lacks,))]
    # A cell is decided by chance with probability 1/40 at most, so that the count is below this one with 95 %.
    chance = float(statistics.stats.binom.ppf(0.95, len(rows), ALPHA))
    met = float(sum(r["verdict"] == MET for r in rows))
    n = f"{len(rows)} cells, of which chance alone would decide {ALPHA * len(rows):.1f} at most, on average"
    return [Part(name, "any", judge(met > chance, False, False), (met, met, met), chance, n=n, files=("map.parquet",))]


# ---------------------------------------------------------------------------------------------------- ledger
def parts(folder: Path, found: list[Scores], ours: str = "pmeta") -> dict[str, list[Part]]:
    """Claim -> its parts, with `ours` (a learner or a placebo) in pMeta's place where a part judges a learner."""

    def read(name: str) -> pd.DataFrame | None:
        paths = [p for p in sorted(folder.glob(f"{name}.parquet")) if p.stem != "conflict_shared"]
        return pd.concat([pd.read_parquet(p) for p in paths], ignore_index=True) if paths else None

    robots = next((s.placebos for s in found if (s.name, s.split) == ("point-robot", "train")), {})
    scaled = {"C3": score_parts, "C4": improvement_parts}
    return {
        "C1": conflict_parts(read("tabular/conflict"), "tabular", "tabular/conflict.parquet",
                             {"uniform random": np.zeros(2)})
        + conflict_parts(read("conflict*"), "deep", "conflict.parquet", robots),
        "C2": theory_parts(read("tabular/theory"), read("tabular/convergence")),
        **{key: [p for scale in ("field", "desk") for p in make(found, scale, ours)] for key, make in scaled.items()},
        "C5": map_parts(read("map"), ours),
    }  # fmt: skip


def ledger(folder: Path, ours: str = "pmeta") -> dict:
    """Everything that is reported, as plain JSON: `claims` with their parts, `scores` of every family and learner, the
    families of which nothing is stored (`not_run`), the cells of the `map`, what each switch of pMeta changes."""
    folder, found = Path(folder), load(folder)
    judged = parts(folder, found, ours)
    made = {n: pd.read_parquet(p) for n in ("ablations", "map") if (p := folder / f"{n}.parquet").exists()}
    return _rounded({
        "version": 2,
        "claims": [_claim(key, judged[key]) for key in CLAIMS],
        "scores": [r for s in found for r in _rows(s)],
        "differences": [r for s in found for r in _differences(s, ours)],
        "not_run": [n for n in FAMILIES if n not in {s.name for s in found}],
        "map": map_cells(made["map"]) if "map" in made else [],
        "ablations": ablations.differences(made["ablations"]) if "ablations" in made else [],
    })  # fmt: skip


def _claim(key: str, judged: list[Part]) -> dict:
    claim, criterion, command = CLAIMS[key]
    whose = "ours" if key == "C5" else "abstract of arXiv 2209.10072 (our reading; all else is ours)"
    both = {scale: verdict([p for p in judged if p.scale in ("any", scale)]) for scale in ("field", "desk")}
    return {"id": key, "claim": claim, "whose": whose, "criterion": criterion, "verdict": both["field"],
            "desk_verdict": both["desk"], "parts": [asdict(p) for p in judged],
            "command": command, "files": sorted({f for p in judged for f in p.files})}  # fmt: skip


def _rows(s: Scores) -> list[dict]:
    """One row a placebo and learner: every table shows the two ends of the scale."""
    rows, scaled = [], s.split == "train" and not (s.lack(("independent",)) or s.unscaled())
    for name in (*s.placebos, *s.curves):
        final, row = s.final(name), {"family": s.name, "scale": s.scale, "tasks": s.split, "learner": name}
        row |= {
            "seeds": final.size,
            "mean": final.mean(),
            "file": "placebos.parquet" if name in s.placebos else s.source,
        }
        if final.size > 1:
            row |= dict(zip(("mean", "low", "high"), statistics.mean_interval(final)))
            row |= dict(zip(("score", "score_low", "score_high"), s.score(name))) if scaled else {}
            if name in s.few:
                row |= dict(zip(("few", "few_low", "few_high"), statistics.mean_interval(s.few[name])))
        if name in s.curves:
            row |= {"steps": int(s.curves[name].columns.max()), "seconds": s.seconds[name]}
            row |= {"rising": True} if name == "independent" and s.rising() else {}
        row |= {"zero": True} if name == s.zero else {}
        rows.append(row)
    return rows


def _differences(s: Scores, ours: str) -> list[dict]:
    """One row an opponent of pMeta: its mean return minus theirs, seeds not paired."""
    others = [n for n in s.curves if n != ours and min(len(s.curves[n]), len(s.curves.get(ours, ()))) >= SEEDS_NEEDED]
    return [{"family": s.name, "scale": s.scale, "tasks": s.split, "other": n,
             **dict(zip(("value", "low", "high"), statistics.difference_interval(s.final(ours), s.final(n))))}
            for n in others]  # fmt: skip


def _rounded(x):
    """Six significant digits, what another processor's rounding leaves alone; infinite and NaN as None."""
    if isinstance(x, dict):
        return {k: _rounded(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [_rounded(v) for v in x]
    if isinstance(x, float | np.floating):
        return float(f"{x:.6g}") if np.isfinite(x) else None
    return x.item() if isinstance(x, np.generic) else x
