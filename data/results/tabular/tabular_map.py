"""When does personalization help? The tabular half of the map, made before the deep one.

`python data/results/tabular/tabular_map.py` writes `map.parquet` and `map.json` beside it (resumable; one process,
about half an hour of one core) and prints the verdict of each cell. `docs/prediction.md` reads the map as a
prediction for the deep runs, with the rule by which they are scored against it.

Axes: heterogeneity h of Garnet tasks (0: identical, 1: unrelated rewards) and data per task (gradient evaluations of
two sampled rollouts of 40 steps); 20 tasks. Independent, joint, Reptile and pMeta at four lambdas. Step sizes (and
Reptile's eta) are chosen for every learner, h and amount of data on two tuning seeds; pMeta's lambda too, for the row
`pmeta`; ten other seeds make the table.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import tabular_results
from pmeta_course.reproduction.resampling import paired_interval
from tabular_cells import HORIZON, TRAJECTORIES, unit

from pmeta_lib.files import json_text, write_table
from pmeta_lib.tabular import LEARNERS, families, optimal_values, sampled, values

H = (0.0, 0.25, 0.5, 0.75, 1.0)
DATA = (10, 30, 100, 300)  # gradient evaluations a task
TASKS, K, SEEDS, TUNING_SEEDS = 20, 5, range(10), (1000, 1001)
PULLS = (0.02, 0.06, 0.18, 0.54)  # lam times the family's unit step
STEPS = [float(x) for x in np.geomspace(0.2, 8.0, 5)]  # in units
GRID = {
    "independent": [{"step": float(x)} for x in np.geomspace(0.1, 10.0, 10)],
    "joint": [{"step": float(x)} for x in np.geomspace(0.1, 30.0, 10)],
    "reptile": [{"step": s, "eta": e} for e in (0.5, 1.0) for s in STEPS],
    **{f"pmeta {p:g}": [{"step": s, "pull": p} for s in STEPS] for p in PULLS},
}
HERE = Path(__file__).resolve().parent


def curve(cell: dict) -> list[dict]:
    """One run of one learner, read at each amount of data: normalised return of what it deploys, and of theta."""
    tasks = families.garnet(cell["h"], n_train=TASKS, n_test=1, seed=cell["seed"]).train
    low, best = values(tasks, np.zeros(tasks.shape[1:])), optimal_values(tasks)
    rng = np.random.default_rng([cell["seed"], 31_337])
    theta0 = 0.1 * rng.standard_normal(tasks.shape[1:])
    u, name, setting = unit(tasks, (low, best)), cell["learner"].split()[0], cell["setting"]
    step = setting["step"] * u
    keywords = {"rounds": cell["most"] // K, "inner_steps": K, "inner_step_size": step}
    if name == "pmeta":
        lam = setting["pull"] / u
        keywords |= {"lam": lam, "eta": 1 / lam, "inner_step_size": step / (1 + step * lam)}
    elif name == "reptile":
        keywords["eta"] = setting["eta"]
    run = LEARNERS[name](tasks, theta0, oracle=sampled(TRAJECTORIES, HORIZON, rng), trace=True, **keywords)

    def score(theta: np.ndarray) -> float:
        return float((100 * (values(tasks, theta) - low) / (best - low)).mean())

    # A Reptile round's y is K steps from the theta before: what it would deploy for that much data.
    return [
        {"h": cell["h"], "data": d, "learner": cell["learner"], "seed": cell["seed"], "setting": json_text(setting),
         "deployed": score(run.trace["personal"][d // K]), "meta_policy": score(run.trace["theta"][d // K])}
        for d in DATA if d <= cell["most"]
    ]  # fmt: skip


tabular_results.cells.CELLS["map"] = curve


def tuning_plan() -> list[dict]:
    """Every setting of the grid on the tuning seeds, to the largest amount of data."""
    return [
        {"kind": "map", "h": h, "learner": name, "seed": seed, "setting": setting, "most": max(DATA)}
        for h in H for name, grid in GRID.items() for setting in grid for seed in TUNING_SEEDS
    ]  # fmt: skip


def choose(tried: pd.DataFrame) -> pd.Series:
    """The best setting by (h, data, learner)."""
    means = tried.groupby(["h", "data", "learner", "setting"])["deployed"].mean().reset_index()
    best = means.loc[means.groupby(["h", "data", "learner"])["deployed"].idxmax()]
    return best.set_index(["h", "data", "learner"])["setting"]


def evaluation_plan(chosen: pd.Series) -> list[dict]:
    """The chosen settings on the seeds of the table, each once, as far as its amount of data asks."""
    most: dict = {}
    for (h, data, name), setting in chosen.items():
        most[h, name, setting] = max(data, most.get((h, name, setting), 0))
    return [
        {"kind": "map", "h": h, "learner": name, "seed": seed, "setting": json.loads(setting), "most": int(data)}
        for (h, name, setting), data in most.items() for seed in SEEDS
    ]  # fmt: skip


def table(tried: pd.DataFrame, seen: pd.DataFrame) -> pd.DataFrame:
    """The rows of the chosen settings, and `pmeta`: the lambda that was best on the tuning seeds."""
    chosen = choose(tried)
    rows = seen.merge(chosen.reset_index(), on=["h", "data", "learner", "setting"])
    ours = tried[tried["learner"].str.startswith("pmeta")].merge(chosen.reset_index())
    means = ours.groupby(["h", "data", "learner"])["deployed"].mean().reset_index()
    best = means.loc[means.groupby(["h", "data"])["deployed"].idxmax(), ["h", "data", "learner"]]
    return pd.concat([rows, rows.merge(best).assign(learner="pmeta")]).sort_values(
        ["h", "data", "learner", "seed"], ignore_index=True
    )


def verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """By cell: mean of each learner, and pMeta minus independent and minus joint with the 95 % interval (paired)."""
    out = []
    for (h, data), part in rows.groupby(["h", "data"]):
        wide = part.pivot(index="seed", columns="learner", values="deployed")
        row = {"h": h, "data": data} | wide.mean().to_dict()
        for rival in ("independent", "joint"):
            found = paired_interval(wide["pmeta"].to_numpy(), wide[rival].to_numpy(), np.random.default_rng(0))
            row |= {f"minus {rival}{suffix}": x for suffix, x in zip(("", " low", " high"), found)}
        row["pmeta beats both"] = min(row["minus independent low"], row["minus joint low"]) > 0
        row["pull"] = json.loads(part[part["learner"] == "pmeta"]["setting"].iloc[0])["pull"]
        row["winner"] = wide[["independent", "joint", "pmeta"]].mean().idxmax()
        out.append(row)
    return pd.DataFrame(out)


def markdown(rows: pd.DataFrame) -> str:
    """The verdicts as the table of docs/prediction.md."""
    lines = ["| h | data | independent | joint | pMeta | minus independent | minus joint | best |", "|" + "---|" * 8]
    for v in verdicts(rows).to_dict("records"):
        ends = [
            "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(v[f"minus {rival}{x}"] for x in ("", " low", " high")))
            for rival in ("independent", "joint")
        ]
        who = "**pMeta beats both**" if v["pmeta beats both"] else v["winner"].replace("pmeta", "pMeta")
        means = [f"{v[name]:.1f}" for name in ("independent", "joint", "pmeta")]
        lines.append("| " + " | ".join([f"{v['h']:g}", f"{v['data']}", *means, *ends, who]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of map.parquet (default: beside this script)")
    args = parser.parse_args()
    start, partial = time.monotonic(), args.out / "partial"

    def run(name: str, plan: list[dict]) -> tuple[pd.DataFrame, list[dict]]:
        entries = tabular_results.compute(name, plan, partial / f"{name}.jsonl", 1)
        return pd.DataFrame([row for e in entries for row in e["rows"]]), entries

    tried, first = run("map_tuning", tuning_plan())
    plan = evaluation_plan(choose(tried))
    seen, second = run("map", plan)
    rows = table(tried, seen)
    write_table(args.out / "map.parquet", rows)
    record = tabular_results.record("map", plan, False, time.monotonic() - start, first + second)
    command = "python data/results/tabular/tabular_map.py"
    record = json.loads(record) | {"tuning_seeds": list(TUNING_SEEDS), "evaluation_seeds": len(SEEDS)}
    (args.out / "map.json").write_text(json_text(record | {"command": command}, indent=1) + "\n")
    for journal in partial.glob("map*.jsonl"):
        journal.unlink()
    print(verdicts(rows).round(1).to_string(), file=sys.stdout)


if __name__ == "__main__":
    main()
