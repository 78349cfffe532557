"""Make `adaptation.parquet` again: `python data/results/adaptation.py SWEEP_FOLDER ... [--jobs 2]`.

Adapts every finished run of the families whose test tasks are held out (those of `data/sweeps/adaptation.toml`, which
are runs of gym.toml and mujoco.toml too) by `pmeta adapt`, and puts the tables one below the other. All learners adapt
with the learning rate and the target network's rate of the sweep's `independent`, which is learning from scratch. The
tables go to `out/adaptation/`; one that is there is not made again. Another machine's, such as those of
`--device cuda`, go into a table of their own (`--out`).
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pandas as pd

from pmeta_lib.envs.families import family
from pmeta_lib.experiments import results
from pmeta_lib.experiments.adapt import adapt_packed
from pmeta_lib.experiments.spec import RunSpec
from pmeta_lib.experiments.train import use_machine
from pmeta_lib.sac.adaptation import Plan

TABLE = Path(__file__).resolve().with_suffix(".parquet")
TABLES = Path("out/adaptation")
STEPS = (0, 200, 500, 1_000, 2_000, 5_000, 10_000)


def main(args: argparse.Namespace) -> None:
    runs = results.runs(args.folders)
    runs = runs[[family(name, preset).held_out for name, preset in zip(runs["family"], runs["preset"])]]
    if runs.empty:
        raise SystemExit(f"no family with held-out test tasks in {', '.join(args.folders)}: nothing to adapt to")
    first = runs.sort_values("learner", key=lambda name: name != "independent", kind="stable")  # makes what all share
    with ProcessPoolExecutor(args.jobs, get_context("spawn"), use_machine, (args.device, 1)) as pool:
        made = [
            pool.submit(adapt, list(map(Path, cell["folder"])), rates(runs[runs["family"] == name]), args.device)
            for (name, _), cell in first.groupby(["family", "cell"], sort=False)
        ]
        paths = [path for tables in made for path in tables.result()]
    results.compact(pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True), args.out)
    print(f"{len(paths)} runs -> {args.out.name}")


def rates(runs: pd.DataFrame) -> dict:
    """The two rates with which `independent` was trained, from the runs of one family."""
    alone = runs[runs["learner"] == "independent"]
    if alone.empty:
        raise SystemExit(f"no run of independent on {runs['family'].iloc[0]}, whose rates all adapt with: train it too")
    spec: RunSpec = results.spec_of(alone.iloc[0].to_dict())
    return {name: getattr(spec.settings, name) for name in ("learning_rate", "polyak")}


def adapt(packed: list[Path], changes: dict, device: str) -> list[Path]:
    tables = adapt_packed(packed, Plan(STEPS), out=TABLES, shared=TABLES, changes=changes, device=device)
    print(f"adapted {len(packed)} seeds of {tables[0].parent.name}", flush=True)
    return tables


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=TABLE)
    main(parser.parse_args())
