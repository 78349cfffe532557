"""Make `adaptation.parquet` again: `python data/results/adaptation.py SWEEP_FOLDER ...`.

Adapts every finished run of the families whose test tasks are held out (those of `data/sweeps/adaptation.toml`, which
are runs of gym.toml and mujoco.toml too) by `pmeta adapt`, and puts the tables one below the other. All learners adapt
with the learning rate and the target network's rate that tuning chose for `independent`, which is learning from
scratch. The tables go to `out/adaptation/`; one that is there is not made again.
"""

import json
import sys
from pathlib import Path

import pandas as pd

from pmeta_lib.experiments import results
from pmeta_lib.experiments.adapt import adapt_packed
from pmeta_lib.experiments.train import use_machine
from pmeta_lib.sac.adaptation import Plan

TABLE = Path(__file__).resolve().with_suffix(".parquet")
CHOSEN = TABLE.parents[1] / "tuning" / "deep" / "chosen.json"
STEPS = {
    "point-robot": (0, 200, 500, 1000, 2000),
    "pendulum-params": (0, 200, 500, 1000, 2000),
    "half-cheetah-vel": (0, 500, 1000, 2000, 4000),
}


def main(folders: list[str]) -> None:
    use_machine("cpu", 1)
    runs, paths = results.runs(folders), []
    changes = json.loads(CHOSEN.read_text())["chosen"]["independent"]["settings"]
    for family, steps in STEPS.items():
        known: dict = {}
        for _, cell in runs[runs["family"] == family].groupby("cell", sort=False):
            packed = [Path(folder) for folder in cell["folder"]]
            print(family, cell["learner"].iloc[0], len(packed), "seeds", flush=True)
            paths += adapt_packed(packed, Plan(steps), out=Path("out/adaptation"), changes=changes, known=known)
    results.compact(pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True), TABLE)
    print(f"{len(paths)} runs -> {TABLE.name}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__.splitlines()[0])
    main(sys.argv[1:])
