"""Choose each learner's settings from the tuning runs: `python data/tuning/deep/choose.py [SWEEP_FOLDER]`.

With the folder of `pmeta sweep data/sweeps/tuning.toml --out FOLDER` it first stores its table as `tuning.parquet`,
which keeps those of its runs that the folder lacks and the file still plans; without, it chooses from the stored
table again. A run's result is the deployed policies' mean return over the last quarter of its evaluations, on all
training tasks. Per family 0 is the best of three placebos and 1 the best point of any learner; a learner's point is the
one with the highest mean over the two families, seeds averaged. `chosen.json` holds the choice, which
`data/sweeps/*.toml` read, and the score of every point, so that a choice at a grid's edge shows.
"""

import json
import sys
from pathlib import Path

import pandas as pd

from pmeta_lib.experiments import results
from pmeta_lib.experiments.sweep_spec import load
from pmeta_lib.statistics import last_quarter

HERE = Path(__file__).resolve().parent
TABLE, PLACEBOS = HERE / "tuning.parquet", HERE.parents[1] / "results" / "placebos.parquet"
VARIED = ("learning_rate", "polyak")  # the engine's settings on the grid; options of a learner are all its own


def scores(table: pd.DataFrame, placebos: pd.DataFrame) -> pd.DataFrame:
    """One row a learner and point: its normalised score by family, and their mean."""
    late = table.groupby("run")["step"].transform(last_quarter).astype(bool)
    late = table[(table["policy"] == "deployed") & late]
    late = late.assign(point=[_point(s, o) for s, o in zip(late["settings"], late["options"])])
    found = late.groupby(["family", "learner", "point", "seed"])["return"].mean()
    found = found.groupby(level=["family", "learner", "point"]).mean()
    columns = {}
    for family, values in found.groupby(level="family"):
        tasks = table.loc[table["family"] == family, "task"].unique()
        mine = (placebos["family"] == family) & (placebos["split"] == "train") & placebos["task"].isin(tasks)
        low = placebos[mine].groupby("placebo")["return"].mean().max()
        columns[family] = ((values - low) / (values.max() - low)).droplevel("family")
    wide = pd.DataFrame(columns)
    return wide.assign(score=wide.mean(axis=1, skipna=False)).sort_index()


def _point(settings: str, options: str) -> str:
    grid = {"settings": {k: json.loads(settings)[k] for k in VARIED}, "options": json.loads(options)}
    return json.dumps(grid, sort_keys=True)


def main() -> None:
    if len(sys.argv) > 1:
        new, stored = results.read(sys.argv[1]), pd.read_parquet(TABLE)
        planned = {run.key for run in load(HERE.parents[1] / "sweeps" / "tuning.toml", "desk").runs}
        kept = stored[stored["run"].isin(planned - set(new["run"]))]
        results.compact(pd.concat([new, kept], ignore_index=True), TABLE)
    table = pd.read_parquet(TABLE)
    wide = scores(table, pd.read_parquet(PLACEBOS))
    chosen = {}
    for learner, part in wide.groupby(level="learner"):
        best = json.loads(part["score"].idxmax()[1])
        chosen[learner] = best
    grid = [{"learner": n, **json.loads(p), **row.round(4).to_dict()} for (n, p), row in wide.iterrows()]
    facts = {
        "command": "pmeta sweep data/sweeps/tuning.toml --scale desk --out out/tuning && "
        "python data/tuning/deep/choose.py out/tuning",
        "seeds": sorted(int(s) for s in table["seed"].unique()),
        "commit": sorted(table["commit"].unique()),
    }
    text = json.dumps(facts | {"chosen": chosen, "grid": grid}, indent=1)
    (HERE / "chosen.json").write_text(text + "\n")
    print(wide.groupby(level="learner")["score"].max().sort_values(ascending=False).round(3).to_string())


if __name__ == "__main__":
    main()
