"""Make `placebos.parquet` again: what three policies earn that have learned nothing, the best of which is a score's 0.

`python data/results/placebos.py [FAMILY ...]` measures uniformly random actions, zero actions, and the mode of an
untrained network (128 x 128, a fresh one for each seed) on every training task and every held-out test task under the
`modern` preset: ten seeds, 20 episodes a task. Without a family, on all (an hour of one core, most of it ants and the
humanoid). Rows of other families stay. A family whose package is not installed is named and left out. The tasks of a
smaller set are the first ones of a larger, so runs on fewer tasks need no other file.
"""

import json
import sys
from pathlib import Path

import pandas as pd
import torch

from pmeta_lib.envs.families import FAMILIES, TaskFamily, family
from pmeta_lib.experiments.run import write_table
from pmeta_lib.files import UserError, json_text, provenance
from pmeta_lib.sac.agent import act, generator
from pmeta_lib.sac.evaluation import Evaluator
from pmeta_lib.sac.networks import Shape, initialize

TABLE = Path(__file__).resolve().with_suffix(".parquet")
SEEDS, EPISODES, HIDDEN = range(10), 20, (128, 128)


def policies(f: TaskFamily, seed: int) -> dict:
    """name -> policy `(1, N E, o) -> (1, N E, a)` in [-1, 1]; all families' actions are symmetric about zero."""
    stream, shape = generator(seed, "learner"), Shape((f.observation_size, *HIDDEN, 2 * f.action_size))
    actor = initialize(shape, 1, generator(seed, "networks"))[None]  # as a learner's before its first update
    return {
        "uniform random": lambda o: torch.rand(1, o.shape[1], f.action_size, generator=stream) * 2 - 1,
        "zero action": lambda o: torch.zeros(1, o.shape[1], f.action_size),
        "untrained": lambda o: act(shape, actor, o),
    }


def measure(name: str, split: str) -> pd.DataFrame:
    """One row a placebo, seed and task; seed by seed, which a small memory can hold."""
    f, rows = family(name), []
    for seed in SEEDS:
        evaluator = Evaluator(f, getattr(f, f"{split}_tasks"), [seed], EPISODES)
        for placebo, policy in policies(f, seed).items():
            returns = evaluator.returns(policy, 0)[0]
            rows += [{"family": name, "preset": f.preset, "split": split, "placebo": placebo, "seed": seed,
                      "task": task, "episodes": EPISODES, "return": of_task.mean(), "return_std": of_task.std(),
                      "gymnasium": f.versions["gymnasium"], "mujoco": f.versions["mujoco"]}
                     for task, of_task in enumerate(returns)]  # fmt: skip
        evaluator.close()
    return pd.DataFrame(rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or FAMILIES:
        try:
            parts = [measure(name, split) for split in ("train", "test") if split == "train" or family(name).held_out]
        except UserError as error:
            print(f"{name}: left out: {error}", flush=True)
            continue
        record = {}
        if TABLE.exists():
            stored, record = pd.read_parquet(TABLE), json.loads(TABLE.with_suffix(".json").read_text())
            parts.append(stored[stored["family"] != name])
        table = pd.concat(parts).sort_values(["family", "split", "placebo", "seed", "task"], ignore_index=True)
        record = {**record, name: {"command": f"python data/results/placebos.py {name}", **provenance()}}
        write_table(TABLE, table)  # after asking for the commit, which a changed table would call dirty
        TABLE.with_suffix(".json").write_text(json_text(dict(sorted(record.items())), indent=1) + "\n")
        shown = table[table["family"] == name].groupby(["split", "placebo"])["return"].mean()
        print(name, shown.round(1).to_dict(), flush=True)
