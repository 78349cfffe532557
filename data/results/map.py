"""When does personalization help? The deep half of the map, and how the tabular prediction fared.

`python data/results/map.py FOLDER …` reads the runs of `pmeta sweep data/sweeps/map.toml --out FOLDER` (all its scales
may lie in one folder, and another machine's in one of their own; unfinished families are named and left out) and writes
beside itself `map.parquet` (one row a family, h, steps, learner, policy, seed: the mean over tasks and over the last
quarter of the evaluations up to that step) and `map.json`: the prediction of `docs/prediction.md` scored by the rules
that were written down with it. With no folder it scores the stored table again.

Learners: as in the sweep, with pMeta's options behind its name; `pmeta` is the lambda that was best on the two tuning
seeds, cell by cell. The runs to fewer steps are the beginnings of those to the most: nothing in training depends on how
long it will go on.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import placebos
import torch
from pmeta_course.reproduction import statistics
from pmeta_course.reproduction.resampling import rank_correlation
from pmeta_course.reproduction.statistics import last_quarter

from pmeta_lib.envs.families import family
from pmeta_lib.experiments import results
from pmeta_lib.files import UserError, json_text, provenance, write_table
from pmeta_lib.sac.evaluation import Evaluator

HERE = Path(__file__).resolve().parent
STEPS, H, TASKS = (400, 800, 1_600, 3_200), (0.0, 0.25, 0.5, 0.75, 1.0), 20
TUNING_SEEDS, SEEDS = (1000, 1001), 5
RULE = {"held": 0.6, "low": 0.3, "lambda": -0.3, "agreement": 0.05}  # docs/prediction.md, "How it will be scored"


def read_stages(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """What each run (a group `by`) had after each amount of data: the last quarter of its evaluations until then."""
    parts = []
    for steps in STEPS:
        until = table[(table["step"] <= steps) & (table["step"] > 0)]
        late = until[last_quarter(until["step"])]
        parts.append(late.groupby(by, as_index=False)["return"].mean().assign(steps=steps))
    return pd.concat(parts, ignore_index=True)


def read(folder: Path) -> pd.DataFrame:
    """One row a run, policy and amount of data, tuning seeds included; see the module."""
    table = results.read(folder)
    table = table[table["family"].str.contains("@")]
    table = table.groupby(["family", "learner", "options", "seed", "policy", "step"], as_index=False)["return"].mean()
    rows = read_stages(table, ["family", "learner", "options", "seed", "policy"])
    options = rows.pop("options").map(json.loads)
    pulls = [f" lam={o['lam']:g}" + (" tied" if o["critic_lam"] else "") if "lam" in o else "" for o in options]
    names, levels = zip(*(name.split("@") for name in rows["family"]))
    return rows.assign(learner=rows["learner"] + pulls, family=names, h=[float(x) for x in levels])


def with_chosen(rows: pd.DataFrame) -> pd.DataFrame:
    """The evaluation seeds' rows of complete families, and `pmeta`: by cell the lambda of the best tuning seeds."""
    cell, tuning = ["family", "h", "steps"], rows["seed"].isin(TUNING_SEEDS)
    if (twice := rows.duplicated([*cell, "learner", "policy", "seed"])).any():
        one = rows[twice].iloc[0]
        where = f"{one['family']}@{one['h']:g}, seed {one['seed']}"
        raise UserError(f"{one['learner']} on {where}, is in two of the folders; name each run once")
    ours = rows[tuning & (rows["policy"] == "deployed") & ~rows["learner"].str.endswith("tied")]
    means = ours.groupby([*cell, "learner"], as_index=False)["return"].mean()
    best = means.loc[means.groupby(cell)["return"].idxmax(), [*cell, "learner"]]
    rows = rows[~tuning]
    chosen = rows.merge(best, on=[*cell, "learner"])
    both = pd.concat([rows, chosen.assign(chosen=chosen["learner"], learner="pmeta")], ignore_index=True)
    seeds = (
        both[both["policy"] == "deployed"]
        .groupby(["family", "learner", "h", "steps"])["seed"]
        .nunique()
        .unstack(["h", "steps"])
    )
    full = [name for name, part in seeds.groupby(level="family")
            if all((part.loc[(name, n)] >= SEEDS).all() if (name, n) in part.index else False
                   for n in ("independent", "joint", "pmeta")) and part.shape[1] == len(H) * len(STEPS)]  # fmt: skip
    for name in sorted(set(both["family"]) - set(full)):
        print(f"{name}: left out, not all of its cells have {SEEDS} seeds of independent, joint and pmeta")
    order = ["family", "h", "steps", "learner", "policy", "seed"]
    return both[both["family"].isin(full)].sort_values(order, ignore_index=True)[[*order, "return", "chosen"]]


def zero(name: str, h: float) -> float:
    """The best placebo's mean return on the training tasks of a level."""
    f, found = family(f"{name}@{h:g}", train=TASKS), {}
    for seed in range(5):
        evaluator = Evaluator(f, f.train_tasks, [seed], 5)
        for placebo, policy in placebos.policies(f, seed).items():
            found.setdefault(placebo, []).append(evaluator.returns(policy, 0)[0].mean())
        evaluator.close()
    return max(float(np.mean(x)) for x in found.values())


def cells(rows: pd.DataFrame, zeros: dict[str, float]) -> dict[str, np.ndarray]:
    """Of one family: learner -> normalised score (5 h, 4 steps, seeds) of what it deploys."""
    mine, out = rows[rows["policy"] == "deployed"], {}
    for name, part in mine.groupby("learner"):
        wide = part.pivot(index=["h", "steps"], columns="seed", values="return")
        if len(wide) == len(H) * len(STEPS) and wide.notna().all(axis=None):  # others are not run to the end
            out[name] = wide.to_numpy().reshape(len(H), len(STEPS), -1)
    low = np.array([zeros[f"{h:g}"] for h in H])[:, None, None]
    one = out["independent"][:, -1].mean(1)[:, None, None]
    return {name: (x - low) / (one - low) for name, x in out.items()}


def score(rows: pd.DataFrame, zeros: dict[str, float], tabular: pd.DataFrame) -> dict:
    """The prediction's rules 1 to 6 for one family. Correlations' intervals: bootstrap over seeds, learners apart."""
    x, rng = cells(rows, zeros), np.random.default_rng(0)
    alone, joint, ours = (x[n] for n in ("independent", "joint", "pmeta"))
    before = {n: t.to_numpy().reshape(len(H), -1) for n, t in
              tabular.groupby(["learner", "h", "data"])["deployed"].mean().unstack("learner").items()}  # fmt: skip
    expected = before["joint"] - before["independent"]

    def drawn(sample: np.ndarray) -> np.ndarray:
        """(10,000, 5, 4): means over seeds drawn with replacement, the same ones in all cells."""
        pick = rng.integers(0, sample.shape[2], (10_000, sample.shape[2]))
        return sample[:, :, pick].mean(-1).transpose(2, 0, 1)

    def correlation(values: np.ndarray, with_: np.ndarray) -> tuple[float, float, float]:
        several = values.reshape(len(values), -1)
        found = rank_correlation(with_.ravel(), several)
        return float(found[0]), *map(float, np.quantile(found[1:], (0.025, 0.975)))

    d = joint.mean(2) - alone.mean(2)
    r = correlation(np.concatenate((d[None], drawn(joint) - drawn(alone))), expected)
    p12 = "held" if r[0] > RULE["held"] and r[1] > RULE["low"] else "failed" if r[2] < RULE["low"] else "undecided"

    over = [[min(statistics.difference_interval(ours[i, j], rival[i, j])[1] for rival in (alone, joint)) > 0
             for j in range(len(STEPS))] for i in range(len(H))]  # fmt: skip
    band = np.array(over)
    inside = float(np.abs(d)[band].mean()) if band.any() else None
    p3 = "held" if band.any() and inside < np.median(np.abs(d)) else "failed"
    named = np.zeros_like(band)
    for i, j in ((1, 2), (1, 3), (2, 1)):  # the three cells of the tabular map, and their neighbours
        for a, b in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
            if 0 <= i + a < len(H) and 0 <= j + b < len(STEPS):
                named[i + a, j + b] = True
    chosen = (
        rows[(rows["learner"] == "pmeta") & (rows["policy"] == "deployed")].groupby(["h", "steps"])["chosen"].first()
    )
    lam = chosen.str.extract(r"lam=([\d.]+)")[0].astype(float).to_numpy().reshape(len(H), len(STEPS))
    level = np.repeat(np.array(H)[:, None], len(STEPS), 1)
    picks = rng.integers(0, lam.size, (2_000, lam.size))  # over cells: what was tuned has no seeds to draw again
    p5 = [float(rank_correlation(level.ravel(), lam.reshape(1, -1))[0])]
    again = [rank_correlation(level.ravel()[k], lam.ravel()[None, k])[0] for k in picks]
    p5 += [float(q) for q in np.quantile(again, (0.025, 0.975))]
    winner = np.argmax([joint.mean(2), alone.mean(2), ours.mean(2)], 0)
    winner_before = np.argmax([before["joint"], before["independent"], before["pmeta"]], 0)
    agree = float((winner == winner_before).mean())
    shuffled = [(rng.permutation(winner.ravel()) == winner_before.ravel()).mean() for _ in range(10_000)]
    by_chance = float(np.mean(np.array(shuffled) >= agree))
    gain = ours.mean(2) - np.maximum(joint.mean(2), alone.mean(2))
    return {
        "P1, P2": {"verdict": p12, "spearman": r},
        "P3": {"verdict": p3, "cells": [[H[i], STEPS[j]] for i, j in np.argwhere(band)], "chance": 0.025 * band.size,
               "mean |d| inside": inside, "median |d|": float(np.median(np.abs(d))),
               "share at the named cells": float(named[band].mean()) if band.any() else None},
        "P5": {"verdict": "held" if p5[0] < RULE["lambda"] and p5[2] < 0 else "not held", "spearman": p5,
               "lambda": lam.tolist()},
        "P4": {"largest loss to the better one": float(gain.min()),
               "at": [H[np.argmin(gain) // len(STEPS)], STEPS[np.argmin(gain) % len(STEPS)]]},
        "P6": {"gain in the band": [float(g) for g in gain[band]], "largest |d|": float(np.abs(d).max())},
        "winner": {"verdict": "held" if by_chance < RULE["agreement"] else "not held", "share": agree,
                   "as often by chance": by_chance},
        "cells": [{"h": H[i], "steps": STEPS[j]} | {n: float(x[n][i, j].mean()) for n in sorted(x)}
                  for i in range(len(H)) for j in range(len(STEPS))],
    }  # fmt: skip


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    path = HERE / "map.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    if arguments:
        rows = with_chosen(pd.concat([read(Path(folder)) for folder in arguments], ignore_index=True))
        if rows.empty:
            raise UserError(f"{', '.join(arguments)}: no family of the map is complete")
        write_table(HERE / "map.parquet", rows)
    else:
        rows = pd.read_parquet(HERE / "map.parquet")
    tabular = pd.read_parquet(HERE / "tabular" / "map.parquet")
    zeros = known.get("placebos", {})
    for name in rows["family"].unique():
        zeros[name] = zeros.get(name) or {f"{h:g}": zero(name, h) for h in H}
    found = {name: score(part, zeros[name], tabular) for name, part in rows.groupby("family")}
    command = "pmeta sweep data/sweeps/map.toml --scale SCALE --out out/map; python data/results/map.py out/map"
    path.write_text(
        json_text({"command": command, "placebos": zeros, "prediction": found} | provenance(), indent=1) + "\n"
    )
    for name, rules in found.items():
        print(name, *(f"{k}: {v.get('verdict', '')} {json_text({a: b for a, b in v.items() if a != 'verdict'})}"
                      for k, v in rules.items() if k != "cells"), sep="\n  ")  # fmt: skip
        print(pd.DataFrame(rules["cells"]).round(2).to_string())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"map.py: {error}")
