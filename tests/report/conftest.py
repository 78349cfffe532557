"""Synthetic stored results, in the columns of `pmeta sweep results` and `pmeta adapt`."""

import json

import pandas as pd
import pytest

from pmeta_lib.envs.families import family

VERSIONS = {"pmeta_lib": "0.1.0", "torch": "2", "numpy": "2", "gymnasium": "1", "mujoco": "3", "device": "cpu"}
SETTINGS = {"steps": 400, "hidden": [8], "batch_size": 8, "updates_per_step": 1.0, "evaluations": 4}


@pytest.fixture
def table():
    return make_table


@pytest.fixture
def random_policy():
    return make_random


def make_table(returns: dict, seeds: int = 5, way: bool = False, **changes) -> pd.DataFrame:
    """`returns`: {(family, learner): the return of every seed at the end, or a number for all}; 0 at the start."""
    rows = []
    for (name, learner), value in returns.items():
        ends = [value] * seeds if isinstance(value, int | float) else value
        for seed, end in enumerate(ends):
            for step in (0, 100, 200, 300, 400):
                for task in (0, 1):
                    # 0.9 and 1.1 of the value on the two tasks: only the mean over tasks is the return
                    rows.append({
                        "run": f"{name} {learner} {seed}", "family": name, "preset": "modern", "learner": learner,
                        "seed": seed, "train_tasks": None, "step": step, "policy": "deployed", "task": task,
                        "return": end * (0.9 + 0.2 * task) * (step > 300), "settings": json.dumps(SETTINGS),
                        "seconds": 1.0, **VERSIONS, **({"way": learner} if way else {}), **changes,
                    })  # fmt: skip
    return pd.DataFrame(rows)


def make_random(*names: str) -> pd.DataFrame:
    """Returns of -1 in all families, on training and test tasks."""
    return pd.DataFrame(
        {"family": n, "preset": "modern", "split": split, "seed": s, "task": task, "return": -1.0,
         "suite": family(n).suite, **VERSIONS}
        for n in names for split in ("train", "test") for s in (0, 1) for task in (0, 1, 2))  # fmt: skip
