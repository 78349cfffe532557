"""Make `random_policy.parquet` again: returns of uniformly random actions, the 0 of every normalised score.

`python data/results/random_policy.py [FAMILY ...]` measures, for five seeds, 20 episodes (Gym) or 8 (MuJoCo) on every
training task and every held-out test task under the `modern` preset; without a family, on all (five minutes of one
core, most of them ants and the humanoid). Rows of other families stay. A family whose package is not installed is
named and left out. The tasks of a smaller set are the first ones of a larger, so runs on fewer tasks need no other
file.
"""

import json
import sys
from pathlib import Path

import pandas as pd
import torch

from pmeta_lib.envs.families import FAMILIES, family
from pmeta_lib.files import UserError, provenance, write_table
from pmeta_lib.sac.agent import generator
from pmeta_lib.sac.evaluation import Evaluator

TABLE = Path(__file__).resolve().with_suffix(".parquet")
SEEDS, EPISODES = (0, 1, 2, 3, 4), {"gym": 20, "mujoco": 8}


def measure(name: str, split: str) -> pd.DataFrame:
    """One row a seed and task; seed by seed, which a small memory can hold."""
    f = family(name)
    rows, episodes = [], EPISODES[f.suite]
    for seed in SEEDS:
        stream = generator(seed, "learner")

        def uniform(observation, stream=stream):
            return torch.rand(1, observation.shape[1], f.action_size, generator=stream) * 2 - 1

        evaluator = Evaluator(f, getattr(f, f"{split}_tasks"), [seed], episodes)
        returns = evaluator.returns(uniform, 0)[0]
        evaluator.close()
        rows += [{"family": name, "preset": f.preset, "split": split, "seed": seed, "task": task, "episodes": episodes,
                  "return": of_task.mean(), "return_std": of_task.std(),
                  "gymnasium": f.versions["gymnasium"], "mujoco": f.versions["mujoco"]}
                 for task, of_task in enumerate(returns)]  # fmt: skip
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
        table = pd.concat(parts).sort_values(["family", "split", "seed", "task"], ignore_index=True)
        write_table(TABLE, table)
        record = {**record, name: {"command": f"python data/results/random_policy.py {name}", **provenance()}}
        TABLE.with_suffix(".json").write_text(json.dumps(dict(sorted(record.items())), indent=1) + "\n")
        print(name, table[table["family"] == name].groupby("split")["return"].mean().round(1).to_dict(), flush=True)
