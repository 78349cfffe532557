"""Claim -> criterion fixed before the runs -> verdict, computed from `data/results` and nothing else. Version 2.

Each part of a criterion is judged by one rule, the 95 % interval's lower end above the threshold (C4: the one-sided p
below 0.025 after Holm's correction, in which parts that are not run count as p = 1), and the same statistic is
computed for what must *not* pass: a control that learns nothing across tasks (independent SAC; on new tasks, from
scratch), and placebos that learn nothing at all (uniform random, zero action, an untrained network) or cannot learn
this (joint SAC in full conflict). A part is *met* if pMeta passes, no placebo does, and it beats the control; *met by
learning alone too* if pMeta passes, but so does the control, and is not beaten; *uninformative* if a placebo passes as
well, or the family has no scale; else *not met*, or *open*: not run, or too few seeds.
Version 1, its verdicts, and why it was replaced: `data/claims_v1.json`, docs/results.md.
"""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from pmeta_course.reproduction import ablations, judging, statistics
from pmeta_course.reproduction.judging import ALPHA, IDLE, OPEN, Part, above, judge, seeds, verdict
from pmeta_course.reproduction.scores import FULL_CONFLICT, SEEDS_NEEDED, Scores, load, reading
from pmeta_course.reproduction.statistics import Interval
from pmeta_lib.envs.families import FAMILIES, family
from pmeta_lib.files import read_table

# What a suite is judged on, planned before the runs; families beyond these enter C4 where they were run.
_GYM = ("point-robot", "pendulum-params", "pendulum-flip")
CORE = {
    "desk": {"gym": _GYM, "mujoco": ("half-cheetah-dir", "half-cheetah-vel", "ant-dir", "hopper-params")},
    "field": {
        "gym": _GYM,
        # ant-dir by the rule of its pilot: above standing still by a tenth (data/results/ant_pilot.parquet)
        "mujoco": ("half-cheetah-dir", "half-cheetah-vel", "hopper-params", "walker2d-params", "ant-dir"),
    },
}
RIVALS = ("joint", "maml", "pg-maml", "promp", "rl2", "reptile", "pearl")
CLAIMS = {  # id: claim, criterion; data/README.md has the commands
    "C1": (
        "conflicting tasks hurt one policy for all (joint) and one initialisation for all (MAML)",
        "tabular and deep, for joint, for MAML as its authors define it (policy gradients) and for MAML on SAC: the "
        "deficit to learning alone at full heterogeneity minus that at none, normalised, exceeds 0.1; so does "
        "cancellation, 1 - norm of the mean gradient / mean norm of the gradients",
    ),
    "C2": (
        "the tabular algorithm converges",
        "T3-T6 hold wherever their conditions are met, in settings with exact constants where a bound shrunk tenfold "
        "is violated; Phi falls in each round; the log-log slope of the true gradient's best squared norm is at most "
        "-1 with warm start and R = 1, and cold start and R > 1 fail that test",
    ),
    "C3": (
        "the version on soft actor-critic learns continuous control",
        "on each core family the normalised score exceeds 0.8 (0: the best of three placebos, 1: independent SAC)",
    ),
    "C4": (
        "it beats earlier meta-reinforcement learning",
        "probability of improvement over joint, MAML (SAC), MAML (policy gradients), ProMP, RL2, Reptile and PEARL "
        "above one half, in meta-training and in the mean return of the first twenty episodes on unseen tasks, on "
        "each suite; Holm's correction over all parts of a scale; and learning alone beats the rival less",
    ),
    "C5": (
        "personalization helps between learning alone and sharing all (ours)",
        "over heterogeneity x data per task it beats both independent and joint learning (probability of improvement "
        "above one half) in more cells than chance alone would decide (95 %)",
    ),
}


# --------------------------------------------------------------------------------------------------- C3, C4
def score_parts(found: list[Scores], scale: str, ours: str = "pmeta") -> list[Part]:
    """C3: the normalised score of `ours` on every core family."""
    there = {s.name: s for s in found if (s.scale, s.split) == (scale, "train")}
    return [_score_part(f"{suite}, {name}: normalised score above 0.8", there.get(name), scale, ours)
            for suite, names in CORE[scale].items() for name in names]  # fmt: skip


def _score_part(label: str, s: Scores | None, scale: str, ours: str) -> Part:
    if short := s.lack((ours, "independent")) if s else "not run":
        return Part(label, scale, OPEN, lacks=(short,))
    if short := s.unscaled():
        return Part(label, scale, IDLE, lacks=(short,), files=(s.source,))
    score, idle = s.score(ours), {n: s.score(n) for n in s.placebos}
    if s.name in FULL_CONFLICT and not s.lack(("joint",)):
        idle["joint in conflict"] = s.score("joint")
    word = judge(above(score, 0.8), any(above(x, 0.8) for x in idle.values()), not above(score, 1.0))
    n = f"{len(s.final(ours))} seeds" + (", still rising" if s.rising() else "")
    return Part(label, scale, word, score, 0.8, {"independent": s.score("independent")}, idle, n=n, files=(s.source,))


def select(found: list[Scores], scale: str, suite: str, split: str, learners: tuple[str, ...]):
    """The suite's families that can be judged for these learners, what the core families lack, and why a family decides
    nothing (it has no scale), as three tuples. On test tasks only families count that hold them out."""
    mine = [s for s in found if (s.scale, s.suite) == (scale, suite)]
    flat = {s.name: why for s in mine if s.split == "train" and (why := s.unscaled())}
    there = {s.name: s for s in mine if s.split == split and (split == "train" or family(s.name).held_out)}
    core = [n for n in CORE[scale][suite] if split == "train" or family(n).held_out]
    usable = tuple(s for n, s in there.items() if n not in flat and not s.lack(learners))
    reasons = {n: there[n].lack(learners) if n in there else "not run" for n in core if n not in flat}
    idle = tuple(f"{n}: {flat[n]}" for n in there if n in flat)
    return usable, tuple(f"{n}: {why}" for n, why in reasons.items() if why), idle


def improvement_parts(found: list[Scores], scale: str, ours: str = "pmeta") -> list[Part]:
    """C4: the probability of improvement over each rival, on each suite, in training and on unseen tasks."""
    kinds = ("train", "meta-train", "independent"), ("test", "meta-test, episodes 1-20", "scratch")
    cells = [(f"{suite}, {words}: improvement over {rival}", rival, alone,
              *select(found, scale, suite, split, (ours, rival, alone)))
             for split, words, alone in kinds for suite in CORE[scale] for rival in RIVALS]  # fmt: skip
    tests = [1.0 if lacks or not usable else statistics.improvement_p(_of(usable, ours), _of(usable, rival))
             for _, rival, _, usable, lacks, _ in cells]  # fmt: skip
    parts = []
    for (name, rival, alone, usable, lacks, flat), p in zip(cells, statistics.holm(tests), strict=True):
        if not usable:
            parts.append(Part(name, scale, OPEN if lacks else IDLE, lacks=lacks or flat))
            continue
        mine, theirs, head = (improvement(usable, a, b) for a, b in ((ours, rival), (alone, rival), (ours, alone)))
        idle = {n: improvement(usable, n, rival) for n in usable[0].placebos if all(n in s.placebos for s in usable)}
        if torn := [s for s in usable if s.name in FULL_CONFLICT and "joint" in s.curves]:
            idle["joint in conflict"] = improvement(torn, "joint", rival)
        # More than the control: head to head, or, where the control does not beat the rival, by beating it more.
        more = above(head, 0.5) or (not above(theirs, 0.5) and above(statistics.minus(mine, theirs), 0.0))
        passes = p < ALPHA and (more or above(theirs, 0.5))
        word = OPEN if lacks else judge(passes, any(above(x, 0.5) for x in idle.values()), not more)
        n = f"{len(usable)} families x {seeds(s.result(n) for s in usable for n in (ours, rival))}"
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


# ---------------------------------------------------------------------------------------------------- ledger
def parts(folder: Path, found: list[Scores], ours: str = "pmeta") -> dict[str, list[Part]]:
    """Claim -> its parts, with `ours` (a learner or a placebo) in pMeta's place where a part judges a learner."""

    def read(name: str) -> pd.DataFrame | None:
        paths = [p for p in sorted(folder.glob(f"{name}.parquet")) if p.stem != "conflict_shared"]
        return pd.concat(map(read_table, paths), ignore_index=True) if paths else None

    robots = next((s.placebos for s in found if (s.name, s.split) == ("point-robot", "train")), {})
    scaled = {"C3": score_parts, "C4": improvement_parts}
    return {
        "C1": judging.conflict_parts(read("tabular/conflict"), "tabular", "tabular/conflict.parquet",
                             {"uniform random": np.zeros(2)})
        + judging.conflict_parts(read("conflict*"), "deep", "conflict.parquet", robots),
        "C2": judging.theory_parts(read("tabular/theory"), read("tabular/convergence")),
        **{key: [p for scale in ("field", "desk") for p in make(found, scale, ours)] for key, make in scaled.items()},
        "C5": judging.map_parts(read("map"), ours),
    }  # fmt: skip


def ledger(folder: Path, ours: str = "pmeta") -> dict:
    """Everything that is reported, as plain JSON: `claims` with their parts, `scores` of every family and learner, the
    families of which nothing is stored (`not_run`), the cells of the `map` and how the `prediction` fared, what
    each switch of pMeta changes."""
    folder, found = Path(folder), load(folder)
    with reading(f"a file of {folder}"):
        judged = parts(folder, found, ours)
    tables = {"map": judging.map_cells, "map_pairs": judging.map_pairs, "ablations": ablations.differences,
              "collapse": ablations.falls, "pearl": ablations.inside, "directions": ablations.directions,
              "on_policy": ablations.on_policy, "on_policy_network": ablations.on_policy,
              "on_policy_presets": ablations.presets, "ant_pilot": ablations.pilots}  # fmt: skip
    paths = {name: folder / f"{name}.parquet" for name in tables}
    paths |= dict.fromkeys(("directions", "on_policy"), folder / "policy_gradient_field.parquet")
    paths |= {"map_pairs": paths["map"]}
    with reading("map.json"):
        scored = json.loads((folder / "map.json").read_text())["prediction"] if (folder / "map.json").exists() else {}
    made = {}
    for name, make in tables.items():
        with reading(paths[name].name):
            made[name] = make(read_table(paths[name])) if paths[name].exists() else []
    return _rounded({
        "version": 2,
        "claims": [_claim(key, judged[key]) for key in CLAIMS],
        "scores": [r for s in found for r in _rows(s)],
        "differences": [r for s in found for r in _differences(s, ours)],
        "prediction": [dict(zip(("family", "value", "low", "high"), (n, *r["P1, P2"]["spearman"])))
                       | {rule: r[rule]["verdict"] for rule in ("P1, P2", "P3", "P5", "winner")}
                       for n, r in scored.items()],
        "not_run": [n for n in FAMILIES if n not in {s.name for s in found}],
        **made,
    })  # fmt: skip


def _claim(key: str, judged: list[Part]) -> dict:
    claim, criterion = CLAIMS[key]
    whose = "ours" if key == "C5" else "abstract of arXiv 2209.10072 (our reading; all else is ours)"
    both = {scale: verdict([p for p in judged if p.scale in ("any", scale)]) for scale in ("field", "desk")}
    return {"id": key, "claim": claim, "whose": whose, "criterion": criterion, "verdict": both["field"],
            "desk_verdict": both["desk"], "parts": [asdict(p) for p in judged],
            "files": sorted({f for p in judged for f in p.files})}  # fmt: skip


def _rows(s: Scores) -> list[dict]:
    """One row a placebo and learner: every table shows the two ends of the scale."""
    rows, scaled = [], s.split == "train" and not (s.lack(("independent",)) or s.unscaled())
    for name in (*s.placebos, *s.curves):
        final = s.final(name)
        row: dict = {"family": s.name, "scale": s.scale, "tasks": s.split, "learner": name, "seeds": final.size}
        row |= {"mean": final.mean(), "file": "placebos.parquet" if name in s.placebos else s.source}
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
    """Six significant digits of what is not rounding itself: what another processor leaves alone; infinite as None."""
    if isinstance(x, dict):
        return {k: _rounded(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [_rounded(v) for v in x]
    if isinstance(x, float | np.floating):
        return float(f"{x:.6g}" if abs(x) > 1e-12 else 0) if np.isfinite(x) else None
    return x.item() if isinstance(x, np.generic) else x
