"""Make the files of this folder again: `python data/results/deep/regenerate.py [half-cheetah-dir | pendulum-flip]`.

Runs every spec below into `out/deep/` (stacked over seeds, resumable: the same command again goes on after a stop),
then collects curves, provenance and one small checkpoint. A random policy is measured for the scale of the scores.
`… regenerate.py weights FOLDER …` keeps the policies of finished runs, of any learner: the theatre shows them, and
`data/videos/make.py` films them.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pmeta_lib.experiments.adapt import stacked_agent, trained
from pmeta_lib.experiments.run import finished, read_curve, run_packed
from pmeta_lib.experiments.spec import RunSpec
from pmeta_lib.files import UserError, json_text, provenance, write_table
from pmeta_lib.policy_gradient.learner import OnPolicy
from pmeta_lib.sac.agent import generator
from pmeta_lib.sac.checkpoint import save_tensors
from pmeta_lib.sac.evaluation import Evaluator

HERE = Path(__file__).resolve().parent
RUNS = Path("out/deep")
LEARNERS = ("pmeta", "joint", "independent")
FAMILIES = {
    "half-cheetah-dir": dict(seeds=(0, 1, 2), settings={"steps": 40_000, "hidden": [128, 128], "batch_size": 128}),
    "pendulum-flip": dict(seeds=(0, 1, 2, 3, 4), settings={
        "steps": 10_000, "hidden": [64, 64], "batch_size": 128, "learning_rate": 1e-3, "warm_up": 500}),
}  # fmt: skip


def plan(family: str) -> dict[str, list[tuple[RunSpec, Path]]]:
    """learner -> (spec, folder) of every seed."""
    size = FAMILIES[family]
    return {
        learner: [(spec, RUNS / family / f"{learner}-{spec.seed}")
                  for spec in (RunSpec(family, learner, seed, settings=size["settings"]) for seed in size["seeds"])]
        for learner in LEARNERS
    }  # fmt: skip


def random_returns(family: str, seeds: tuple[int, ...], episodes: int = 20) -> list[dict]:
    """Uniform actions on every training task: the 0 of the normalised score."""
    task_family = RunSpec(family).make_family()
    tasks = task_family.train_tasks
    streams = [generator(seed, "learner") for seed in seeds]

    def uniform(observation):
        shape = (observation.shape[1], task_family.action_size)
        return torch.stack([torch.rand(shape, generator=g) * 2 - 1 for g in streams])

    evaluator = Evaluator(task_family, tasks, list(seeds), episodes)
    returns = evaluator.returns(uniform, 0)
    evaluator.close()
    return [{"seed": seed, "task": i, "return": float(returns[s, i].mean()), "return_std": float(returns[s, i].std()),
             "episodes": episodes} for s, seed in enumerate(seeds) for i in range(len(tasks))]  # fmt: skip


def keep_weights(folder: Path) -> None:
    """The policies of a finished run, of any learner, to watch and to evaluate again; nothing to train on.

    "actor" (tasks, P) is what it deploys on each training task, or (1, P) where all share one; "meta" (1, P) is a
    meta-policy, where there is one that does not depend on the task. Of an on-policy learner "policy" (1, P), which
    acts or is adapted, is kept, with spec and provenance of the run in a JSON beside it.
    """
    (spec,), tensors, widths = trained([folder])
    place = spec.make_family()
    facts = {"family": place.name, "run": spec.key, "steps": str(spec.settings.steps),
             "actor": json_text(widths)}  # fmt: skip
    path = HERE / (f"{place.name}_{spec.learner}".replace("-", "_") + f"_seed{spec.seed}.safetensors")
    if isinstance(spec.make_learner(), OnPolicy):
        save_tensors(path, {"policy": tensors["policy"][0], "tasks": torch.from_numpy(place.train_tasks)}, facts)
        record = {"spec": spec.to_json(), **json.loads((folder / "result.json").read_text())}
        path.with_suffix(".json").write_text(json_text(record, indent=1) + "\n")
        return
    agent = stacked_agent([spec], tensors, widths, "cpu")
    policies = {name: rows[0] for name, rows in spec.make_learner().deployed(agent).items()}
    for name, rows in policies.items():
        if torch.equal(rows, rows[:1].expand_as(rows)):
            policies[name] = rows[:1]
    kept = {"actor": policies["deployed"], "tasks": torch.from_numpy(place.train_tasks)}
    if len(policies.get("meta", ())) == 1:
        kept["meta"] = policies["meta"]
    save_tensors(path, kept, facts)


def collect(family: str) -> None:
    """One Parquet of curves, one JSON of provenance, one checkpoint of pMeta's first seed."""
    stem, tables, runs = HERE / family.replace("-", "_"), [], []
    made = provenance()  # before any file changes, which would call the commit dirty
    for learner, pairs in plan(family).items():
        for spec, folder in pairs:
            if not finished(folder):
                print(f"not finished, left out: {spec.label}")
                continue
            tables.append(read_curve(folder))
            runs.append({"spec": spec.to_json(), **json.loads((folder / "result.json").read_text())})
            if learner == "pmeta" and spec.seed == 0:
                keep_weights(folder)
    if not tables:
        raise SystemExit(f"{family}: no run is finished")
    table = pd.concat(tables, ignore_index=True)
    for column in ("run", "family", "preset", "learner", "policy"):
        table[column] = table[column].astype("category")
    write_table(stem.with_suffix(".parquet"), table)
    record = {"command": f"python data/results/deep/regenerate.py {family}", "runs": runs,
              "random": {"rows": random_returns(family, FAMILIES[family]["seeds"]), **made}}  # fmt: skip
    stem.with_suffix(".json").write_text(json_text(record, indent=1) + "\n")
    last = table[table["step"] == table["step"].max()]
    print(last.groupby(["learner", "policy"], observed=True)["return"].agg(["mean", "count"]).round(1))
    print(f"random policy: {np.mean([r['return'] for r in record['random']['rows']]):.1f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["weights"]:
        try:
            for folder in sys.argv[2:]:
                keep_weights(Path(folder))
        except UserError as error:
            sys.exit(f"regenerate.py: {error}")
        raise SystemExit
    for name in sys.argv[1:] or FAMILIES:
        for pairs in plan(name).values():
            specs, folders = zip(*pairs, strict=True)
            run_packed(list(specs), list(folders), progress=True)
        collect(name)
