"""What a part of a criterion is and how it is judged; the parts that rest on one table each: C1, C2 and C5.

See `claims` for the rule and the claims.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from pmeta_course.reproduction import statistics
from pmeta_course.reproduction.scores import SEEDS_NEEDED
from pmeta_course.reproduction.statistics import Interval
from pmeta_lib.files import UserError

WORDS = MET, ALONE, IDLE, NOT, OPEN = "met", "met by learning alone too", "uninformative", "not met", "open"
ALPHA = 0.025  # one-sided, as the lower end of a 95 % interval
SLOPE, ROUNDING, SHRUNK = -1.0, 1e-9, 10.0  # C2: steepest allowed, what counts as a rise of Phi, how a bound is shrunk
STEEP = "true gradient: slope of the best squared norm at most -1 (flattest)"


@dataclass(frozen=True)
class Part:
    """One part of a criterion. `scale`: "desk", "field", or "any" for what both rest on."""

    name: str
    scale: str
    verdict: str
    statistic: Interval | None = None
    threshold: float | None = None
    # the same statistic of what learns nothing across tasks, and of what learns nothing
    controls: dict[str, Interval] = field(default_factory=dict)
    placebos: dict[str, Interval] = field(default_factory=dict)
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
    column = "deployed" if setting == "tabular" else "return"
    zero = max((x.mean() for x in placebos.values()), default=0.0)

    def sample(learner: str, h: float, column: str = column) -> np.ndarray:
        if table is None or column not in table:
            return np.array([])
        return table.loc[(table["learner"] == learner) & (table["h"] == h), column].dropna().to_numpy(float)

    def lacks(samples: dict[str, np.ndarray]) -> tuple[str, ...]:
        short = [f"{n}: {len(x)} of {SEEDS_NEEDED} seeds" for n, x in samples.items() if len(x) < SEEDS_NEEDED]
        return ("not run",) if table is None else tuple(short)

    def deficit(learner: str) -> Part:
        name = f"{setting}: deficit of {learner}, full heterogeneity minus none"
        alone = "pg-independent" if learner.startswith("pg-") else "independent"
        samples = {f"{n} at h = {h:g}": sample(n, h) for n in (alone, learner) for h in (1.0, 0.0)}
        if short := lacks(samples):
            return Part(name, "any", OPEN, lacks=short)
        full, none, *mine = samples.values()
        # The unit is known to better than a hundredth, and counts as known.
        one, other = (100.0, 100.0) if setting == "tabular" else (full.mean() - zero, none.mean() - zero)

        def rise(a, b):
            return statistics.contrast([full, a, none, b], [1 / one, -1 / one, -1 / other, 1 / other])

        found, control, idle = rise(*mine), rise(full, none), {n: rise(x, x) for n, x in placebos.items()}
        word = judge(above(found, 0.1), any(above(x, 0.1) for x in idle.values()), above(control, 0.1))
        return Part(name, "any", word, found, 0.1, {alone: control}, idle, n=seeds(samples.values()), files=(file,))

    ends = {f"cancellation at h = {h:g}": sample("joint", h, "cancellation") for h in (1.0, 0.0)}
    first = Part(f"{setting}: cancellation, full heterogeneity minus none", "any", OPEN, lacks=lacks(ends))
    if not first.lacks:
        found = statistics.contrast(list(ends.values()), [1, -1])
        word, n = judge(above(found, 0.1), False, False), seeds(ends.values())
        first = replace(first, verdict=word, statistic=found, threshold=0.1, n=n, files=(file,))
    return [first, *map(deficit, ("joint", "maml", "pg-maml") if setting == "deep" else ("joint", "maml"))]


def seeds(samples: Iterable[np.ndarray]) -> str:
    """How many seeds the samples have, in words."""
    return "-".join(map(str, sorted({len(x) for x in samples}))) + " seeds"


# ------------------------------------------------------------------------------------------------------- C2
def theory_parts(theory: pd.DataFrame | None, convergence: pd.DataFrame | None, ours="warm, R = 1") -> list[Part]:
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
    names, files = ("Phi falls in each round (largest rise)", STEEP), ("tabular/convergence.parquet",)
    for name, column, bound in zip(names, ("largest_rise", "true_gradient_slope"), (ROUNDING, SLOPE), strict=True):
        if convergence is None or column not in convergence:
            parts.append(Part(name, "any", OPEN, lacks=("not run" if convergence is None else f"no {column}",)))
            continue
        last = convergence.groupby(["family", "tau", "variant", "seed"], as_index=False).last()
        worst = {str(v): (float(x),) * 3 for v, x in last.groupby("variant")[column].max().items()}
        mine = worst.pop(ours, (np.nan,) * 3)
        # T5 covers the meta step over all tasks too: no control.
        others = {v: x for v, x in worst.items() if column != "largest_rise" and not v.endswith("over all")}
        word = judge(mine[0] <= bound, any(x[0] <= bound for x in others.values()), False)
        runs = last[last["variant"] == ours]
        n = f"{len(runs)} runs in {len(runs.groupby(['family', 'tau']))} settings"
        parts.append(Part(name, "any", word, mine, bound, others, n=n, files=files))
    return parts


# ------------------------------------------------------------------------------------------------------- C5
def map_cells(table: pd.DataFrame, ours: str = "pmeta") -> list[dict]:
    """One row a cell of the map, (family, h, steps): the chance to beat independent and joint, and what is decided."""
    rows = []
    for (name, h, steps), cell in table[table["policy"] == "deployed"].groupby(["family", "h", "steps"]):
        runs = {n: r.groupby("seed")["return"].mean().to_numpy() for n, r in cell.groupby("learner")}
        row, beats = {"family": name, "h": h, "steps": steps, "seeds": len(runs.get(ours, ()))}, []
        for other in ("independent", "joint"):
            if min(len(runs.get(n, ())) for n in (ours, other)) >= SEEDS_NEEDED:
                found = statistics.improvement_interval([runs[ours]], [runs[other]])
                row |= dict(zip((other, f"{other}_low", f"{other}_high"), found))
                beats.append(above(found, 0.5))
        rows.append(row | {"verdict": OPEN if len(beats) < 2 else MET if all(beats) else NOT})
    return rows


MAP_PAIRS = (("pmeta", "independent"), ("pmeta", "joint"), ("pmeta lam=1", "independent"), ("joint-onehot", "joint"),
             ("joint-onehot", "independent"), ("reptile", "independent"), ("joint-onehot", "pmeta"), ("joint", "pmeta"),
             *((f"pmeta lam={lam} tied", f"pmeta lam={lam}") for lam in ("0.01", "0.1", "1")))  # fmt: skip


def map_pairs(table: pd.DataFrame) -> list[dict]:
    """One row a family of the map (or "all") and pair of learners: in how many cells one is ahead of the other, and in
    how many behind it, beyond the interval of the difference of what they deploy."""
    rows = []
    for name, cells in table[table["policy"] == "deployed"].groupby("family"):
        runs = {n: part.groupby("learner")["return"].apply(np.asarray) for n, part in cells.groupby(["h", "steps"])}
        for mine, other in MAP_PAIRS:
            both = [(x[mine], x[other]) for x in runs.values() if mine in x and other in x]
            low, high = np.array([statistics.difference_interval(*pair)[1:] for pair in both]).reshape(-1, 2).T
            counts = {"ahead": int((low > 0).sum()), "behind": int((high < 0).sum()), "cells": len(both)}
            rows.append({"family": name, "learner": mine, "other": other} | counts)
    sums = pd.DataFrame(rows).groupby(["learner", "other"], as_index=False, sort=False).sum(numeric_only=True)
    return rows + sums.assign(family="all").to_dict("records")


def map_parts(table: pd.DataFrame | None, ours: str = "pmeta") -> list[Part]:
    """C5: whether more cells of the map are decided for pMeta than chance alone would decide."""
    name, rows = "cells where it beats both independent and joint", [] if table is None else map_cells(table, ours)
    short = sum(r["verdict"] == OPEN for r in rows)
    if short or not rows:
        lacks = f"{short} of {len(rows)} cells" if rows else "not run"
        return [Part(name, "any", OPEN, lacks=(lacks,))]
    # A cell is decided by chance with probability 1/40 at most, so that the count is below this one with 95 %.
    chance = float(statistics.stats.binom.ppf(0.95, len(rows), ALPHA))
    met = float(sum(r["verdict"] == MET for r in rows))
    n = f"{len(rows)} cells, of which chance alone would decide {ALPHA * len(rows):.1f} at most, on average"
    return [Part(name, "any", judge(met > chance, False, False), (met, met, met), chance, n=n, files=("map.parquet",))]


# --------------------------------------------------------------------------------------------------- in words
def evidence(part: dict) -> str:
    """The numbers of a part of a criterion in words."""
    number = interval(*(part["statistic"] or [None]), form=".3g")
    shown = [f"{number} (threshold {part['threshold']:g})"] if number else []
    shown += [f"{k} {v[0]:.3g}" for k, v in {**part["controls"], **part["placebos"]}.items()]
    return "; ".join([*shown, *filter(None, [part["n"]]), *(f"lacks {x}" for x in part["lacks"])])


def interval(value, low=None, high=None, *, form: str = ".2f") -> str:
    """A number, with its interval if it has one."""
    if value is None:
        return ""
    return f"{value:{form}}" + (f" [{low:{form}}, {high:{form}}]" if low is not None and low != high else "")
