"""Make `adaptation.parquet` again: `python data/results/adaptation.py SWEEP_FOLDER ... [--jobs 2]`.

Adapts every finished run of the families whose test tasks are held out (those of `data/sweeps/adaptation.toml`, which
are runs of gym.toml and mujoco.toml too) by `pmeta adapt`: episodes 1 to 20 as they are lived, the few-shot endpoint,
and what is deployed after 2,000 and 10,000 steps. The tables, one below the other, are the result. Each learner adapts
at the learning rate that was chosen for it on tuning tasks (`data/tuning/deep/adaptation.json`), learning from scratch
at its own. The tables go to `out/adaptation/`; one that is there is not made again. `--critics learned` is the ablation
and another machine's runs, such as those of `--device cuda`, are tables of their own (`--out`). At the field's scale:
`--rates data/tuning/deep/adaptation_field.json --out data/results/adaptation_field.parquet`; what is stored of it was
made with `--steps 0,2000`.
"""

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pandas as pd

from pmeta_lib.envs.families import family
from pmeta_lib.experiments import results
from pmeta_lib.experiments.adapt import adapt_packed
from pmeta_lib.experiments.train import use_machine
from pmeta_lib.files import UserError
from pmeta_lib.sac.adaptation import CRITICS, Plan
from pmeta_lib.sac.learners import LEARNERS as ON_SAC

TABLE = Path(__file__).resolve().with_suffix(".parquet")
RATES = TABLE.parents[1] / "tuning" / "deep" / "adaptation.json"
TABLES = Path("out/adaptation")
ADAPTING = set(ON_SAC) - {"pearl", "independent"}  # those who need a rate: their own steps of Adam on a test task


def main(args: argparse.Namespace) -> None:
    runs = results.runs(args.folders)
    runs = runs[[family(name, preset).held_out for name, preset in zip(runs["family"], runs["preset"])]]
    if runs.empty:
        raise SystemExit(f"no family with held-out test tasks in {', '.join(args.folders)}: nothing to adapt to")
    use_machine(args.device, 1)
    chosen = rates(args.rates, set(runs["learner"]))
    first = runs.sort_values("learner", key=lambda name: name != "independent", kind="stable")  # makes what all share
    plan, where = Plan(tuple(map(int, args.steps.split(","))), critics=args.critics), TABLES / args.critics
    with ProcessPoolExecutor(args.jobs, get_context("spawn"), use_machine, (args.device, 1)) as pool:
        made = [
            pool.submit(
                adapt, list(map(Path, cell["folder"])), plan, chosen.get(name), chosen["scratch"], where, args.device
            )
            for (name, _), cell in first.groupby(["learner", "cell"], sort=False)
        ]
        paths = [path for tables in made for path in tables.result()]
    results.compact(pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True), args.out)
    print(f"{len(paths)} runs -> {args.out.name}")


def rates(path: Path, learners: set[str]) -> dict[str, dict]:
    """The settings at which each of `learners` adapts, and "scratch"; `SystemExit` where one was not chosen."""
    found = json.loads(path.read_text())["chosen"] if path.exists() else {}
    if lacking := sorted({"scratch", *(ADAPTING & learners)} - set(found)):
        raise SystemExit(f"{path} has no rate for {', '.join(lacking)}: choose it by data/tuning/deep/adaptation.py")
    return found


def adapt(packed: list[Path], plan: Plan, changes: dict | None, alone: dict, where: Path, device: str) -> list[Path]:
    """`alone` are the settings of learning from scratch, on the same networks; what needs no rate takes them too."""
    tables = adapt_packed(packed, plan, out=where, shared=where, changes=changes or alone, alone=alone, device=device)
    print(f"adapted {len(packed)} seeds of {tables[0].parent.name}", flush=True)
    return tables


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--critics", default="fresh", choices=CRITICS)
    parser.add_argument("--steps", default="0,2000,10000", help="when what is deployed is evaluated")
    parser.add_argument("--rates", type=Path, default=RATES)
    parser.add_argument("--out", type=Path, default=TABLE)
    try:
        main(parser.parse_args())
    except UserError as error:
        sys.exit(f"adaptation.py: {error}")
