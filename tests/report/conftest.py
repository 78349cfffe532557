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
def placebos():
    return make_placebos


def make_table(returns: dict, seeds: int = 5, way: bool = False, few: bool = True, **changes) -> pd.DataFrame:
    """`returns`: {(family, learner): the return of every seed at the end, or a number for all}; 0 at the start. With
    `way`, as `pmeta adapt` tells it; with `few`, episodes 1 to 20 then have half of that return."""
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
    table = pd.DataFrame(rows)
    if not (way and few):
        return table
    first = table[table["step"] == 400].assign(**{"return": lambda t: t["return"] / 2})
    first = pd.concat(first.assign(step=20 * e, episode=float(e), policy="acting") for e in range(1, 21))
    rest = table[table["step"].isin((0, 400))].replace({"step": {400: 500}})
    return pd.concat([rest, first], ignore_index=True)


def make_placebos(*names: str, **best) -> pd.DataFrame:
    """Mean returns of -1 (zero action), -2 and -3 in all families, on training and test tasks, ten seeds that differ by
    a hundredth; `zero_action` in `best` gives another value to it."""
    values = {"zero action": best.get("zero_action", -1.0), "untrained": -2.0, "uniform random": -3.0}
    return pd.DataFrame(
        {"family": n, "preset": "modern", "split": split, "placebo": placebo, "seed": s, "task": task,
         "return": value + 0.001 * (s - 4.5), "suite": family(n).suite, **VERSIONS}
        for n in names for split in ("train", "test") for placebo, value in values.items() for s in range(10)
        for task in (0, 1, 2))  # fmt: skip
