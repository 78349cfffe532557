"""Does bfloat16 learn what float32 learns? `precision.parquet`, from the sweep `data/sweeps/field_short.toml`.

`python data/results/precision.py OUT_BFLOAT16 OUT_FLOAT32` writes it beside itself: independent SAC's mean return over
tasks, a row a family, precision, seed and evaluation. Without folders the stored table is judged: at how many
evaluations the mean of bfloat16's seeds lies in float32's 95 % interval, and by how much the results (last quarter)
differ.
"""

import json
import sys
from pathlib import Path

import pandas as pd
from pmeta_course.reproduction.statistics import difference_interval, last_quarter, mean_interval

from pmeta_lib.experiments import results
from pmeta_lib.files import write_table

TABLE = Path(__file__).resolve().with_suffix(".parquet")


def read(folders: list[str]) -> pd.DataFrame:
    """The runs of both precisions; each says itself which it is."""
    parts = [results.read(folder) for folder in folders]
    rows = pd.concat(parts, ignore_index=True)
    rows = rows[(rows["learner"] == "independent") & (rows["policy"] == "deployed")]
    rows = rows.assign(precision=[json.loads(s)["precision"] for s in rows["settings"]])
    if lacking := {"float32", "bfloat16"} - set(rows["precision"]):
        sys.exit(f"precision.py: no run in {', '.join(lacking)} among the folders: name both sweeps' out")
    by = ["family", "precision", "seed", "step"]
    return rows.groupby(by, as_index=False, observed=True)["return"].mean()


def judge(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a family: the share of evaluations inside, both results, and their difference in percent, of
    the return and of what was gained since before training."""
    out = []
    for name, part in rows.groupby("family"):
        curves = {p: t.pivot(index="step", columns="seed", values="return") for p, t in part.groupby("precision")}
        low, high = zip(*(mean_interval(x)[1:] for x in curves["float32"].to_numpy()[1:]))  # step 0 is equal
        mean = curves["bfloat16"].to_numpy()[1:].mean(1)
        last = {p: x[last_quarter(x.index)].mean().to_numpy() for p, x in curves.items()}
        gain = float(last["float32"].mean() - curves["float32"].iloc[0].mean())  # since before training
        out.append({
            "family": name, "seeds": part["seed"].nunique(), "inside": float(((low <= mean) & (mean <= high)).mean()),
            **{p: "{:.1f} [{:.1f}, {:.1f}]".format(*mean_interval(x)) for p, x in last.items()},
            "percent": 100 * (last["bfloat16"].mean() / last["float32"].mean() - 1),
            "percent_of_gain": 100 * float(last["bfloat16"].mean() - last["float32"].mean()) / gain,
            "difference": difference_interval(last["bfloat16"], last["float32"]),
        })  # fmt: skip
    return pd.DataFrame(out)


if __name__ == "__main__":
    if sys.argv[1:]:
        write_table(TABLE, read(sys.argv[1:]))
    print(judge(pd.read_parquet(TABLE)).to_string())
