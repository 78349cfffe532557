"""Choose the rate at which each learner adapts: `python data/tuning/deep/adaptation.py SWEEP_FOLDER [--jobs 2]`.

SWEEP_FOLDER is that of `data/sweeps/tuning.toml`. Its runs at each learner's chosen point (seeds that no result uses)
adapt, with fresh critics, to tuning tasks: tasks of the family's distribution that are neither training nor test tasks
of any result. A rate's result is the few-shot endpoint, the mean return of episodes 1 to 20; per family 0 is the worst
and 1 the best that any learner has at any rate, and the mean over families decides. A rate at the grid's upper edge is
refused: extend RATES. Its lower end is next to no learning at all and may be chosen: twenty episodes at 1e-5 leave a
policy nearly as it was brought along. "scratch" is SAC from a fresh network. PEARL takes no gradient step and has no
rate. `adaptation.json` holds the choice and every score, `adaptation.parquet` the episodes. Without a folder the stored
episodes are judged again. With `--field` it is the field scale, whose settings all learners share: SWEEP_FOLDER is that
of `data/sweeps/field_gpu.toml --scale tuning`, and the files are `adaptation_field.json` and `.parquet`.
"""

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pandas as pd

from pmeta_lib.envs.families import TaskFamily, family
from pmeta_lib.experiments import results
from pmeta_lib.experiments.adapt import stacked_agent, trained
from pmeta_lib.experiments.spec import RunSpec
from pmeta_lib.experiments.train import use_machine
from pmeta_lib.files import UserError, json_text
from pmeta_lib.sac.adaptation import Plan, adapt, references

HERE = Path(__file__).resolve().parent
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
PLAN = Plan((0,), 20)
TABLES = Path("out/adaptation-tuning")


def tuning_tasks(spec: RunSpec) -> TaskFamily:
    """The run's family with tuning tasks for its test tasks: those that follow, in the order in which training tasks
    are drawn, on the family's own training tasks and on those of the run; as many as there are test tasks."""
    place = spec.make_family()
    known = max(len(family(place.name, place.preset).train_tasks), len(place.train_tasks))
    drawn = family(place.name, place.preset, train=known + len(place.test_tasks)).train_tasks
    return replace(place, test_tasks=drawn[known:])


def one(folders: list[Path], rate: float) -> pd.DataFrame:
    """The episodes of one learner's runs (one cell) on the tuning tasks, at one rate."""
    specs, tensors, widths = trained(folders)
    agent = stacked_agent(specs, tensors, widths, "cpu")
    place, spec, seeds = tuning_tasks(specs[0]), specs[0], [s.seed for s in specs]
    kept = TABLES / f"{spec.key}-{len(seeds)}-{rate:g}.parquet"
    if not kept.exists():
        settings = PLAN.settings(replace(spec.settings, learning_rate=rate), place.horizon)
        how = {"folder": kept.with_suffix("")}
        if spec.learner == "independent":  # brings nothing along
            table = references(place, settings, seeds, PLAN, **how)
        else:
            table = adapt(place, spec.make_learner(), agent, len(place.train_tasks), settings, seeds, PLAN, **how)
        name = "scratch" if spec.learner == "independent" else spec.learner
        rows = table[table["policy"] == "acting"].assign(learner=name, family=place.name, learning_rate=rate)
        results.compact(rows, kept)
        print(f"adapted {len(seeds)} seeds of {spec.label} at {rate:g}", flush=True)
    return pd.read_parquet(kept)


def choose(table: pd.DataFrame) -> tuple[dict[str, float], pd.DataFrame, list[str]]:
    """The best rate of each learner, every score, and what is at an edge."""
    means = table.groupby(["family", "learner", "learning_rate"])["return"].mean()
    low, high = (means.groupby(level="family").transform(name) for name in ("min", "max"))
    wide = ((means - low) / (high - low)).unstack("family")
    wide["score"] = wide.mean(axis=1, skipna=False)
    best = wide["score"].groupby(level="learner").idxmax().map(lambda pair: pair[1]).to_dict()
    tried = {name: sorted(wide.loc[name].index) for name in best}
    edges = [f"{name}: {rate:g} is at the edge of {', '.join(f'{r:g}' for r in tried[name])}"
             for name, rate in best.items() if rate == tried[name][-1]]  # fmt: skip
    return best, wide, edges


def main(args: argparse.Namespace) -> None:
    stem = HERE / ("adaptation_field" if args.field else "adaptation")
    if args.folders:
        results.compact(episodes(args), stem.with_suffix(".parquet"))
    table = pd.read_parquet(stem.with_suffix(".parquet"))
    best, wide, edges = choose(table)
    print(wide.round(3).to_string())
    if edges:
        raise SystemExit("\n".join(["not chosen, extend RATES:", *edges]))
    facts = {"chosen": {name: {"learning_rate": rate} for name, rate in best.items()},
             "grid": [{"learner": n, "learning_rate": r, **x.round(4).to_dict()} for (n, r), x in wide.iterrows()],
             "seeds": sorted(int(s) for s in table["seed"].unique())}  # fmt: skip
    stem.with_suffix(".json").write_text(json_text(facts, indent=1) + "\n")


def episodes(args: argparse.Namespace) -> pd.DataFrame:
    """The episodes of all learners at all rates, from the runs' folders."""
    chosen = json.loads((HERE / "chosen.json").read_text())["chosen"]
    runs = results.runs(args.folders)
    runs = runs[[r["learner"] != "pearl" and (args.field or at(chosen, r)) for r in runs.to_dict("records")]]
    if runs.empty:
        raise SystemExit(f"no run of {', '.join(args.folders)} has the settings of chosen.json: nothing to adapt")
    with ProcessPoolExecutor(args.jobs, get_context("spawn"), use_machine, ("cpu", 1)) as pool:
        made = [pool.submit(one, list(map(Path, cell["folder"])), rate)
                for _, cell in runs.groupby("cell", sort=False) for rate in RATES]  # fmt: skip
        return pd.concat([part.result() for part in made], ignore_index=True)


def at(chosen: dict, row: dict) -> bool:
    """Whether a run, a row of `results.runs`, has its learner's chosen settings and options."""
    wanted, settings, options = chosen[row["learner"]], json.loads(row["settings"]), json.loads(row["options"])
    return wanted["settings"].items() <= settings.items() and wanted["options"].items() <= options.items()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--field", action="store_true", help="the field scale")
    try:
        main(parser.parse_args())
    except UserError as error:
        sys.exit(f"adaptation.py: {error}")
