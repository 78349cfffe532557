"""What each choice is worth: every switch of pMeta-SAC against the default; seeds are not paired."""

import json
from collections import defaultdict
from dataclasses import asdict

import numpy as np
import pandas as pd

from pmeta_course.reproduction.statistics import difference_interval, last_quarter, mean_interval
from pmeta_lib.envs.families import family
from pmeta_lib.sac.learners import learner

Changed = tuple[tuple[str, object], ...]  # the switches that differ from the default, with their values


def variants(table: pd.DataFrame) -> tuple[dict, dict[tuple[str, int], dict[Changed, pd.DataFrame]]]:
    """The default of `data/results/ablations.parquet`, and (family, tasks) -> changed switches -> (seeds, tasks): mean
    return over the last quarter of the evaluations. One switch is changed at a time, so that the default is each
    switch's most frequent value."""
    options = {text: asdict(learner("pmeta", **json.loads(text))) for text in table["options"].unique()}
    cells = pd.DataFrame([options[text] for text in table.drop_duplicates("cell")["options"]])
    base = cells.mode().iloc[0].to_dict()
    late = table.groupby("cell")["step"].transform(last_quarter).astype(bool)
    found: dict = defaultdict(dict)
    results = table[(table["policy"] == "deployed") & late]
    for (name, tasks, text), rows in results.groupby(["family", "train_tasks", "options"], dropna=False):
        changed = tuple((k, v) for k, v in options[text].items() if v != base[k])
        count = len(family(name, train=None if np.isnan(tasks) else int(tasks)).train_tasks)
        found[name, count][changed] = rows.pivot_table(index="seed", columns="task", values="return")
    return base, dict(found)


def minus(a: pd.DataFrame, b: pd.DataFrame, tasks: int | None = None) -> tuple[float, float, float, int]:
    """Mean of `a` (seeds, tasks) minus that of `b`, its 95 % interval, and the seeds of each; on the first `tasks`."""
    x, y = (t.iloc[:, :tasks].mean(axis=1).to_numpy() for t in (a, b))
    return (*difference_interval(x, y), min(len(x), len(y)))


def differences(table: pd.DataFrame) -> list[dict]:
    """One row a family, number of tasks and changed switch: the return minus the default's, with its interval."""
    rows = []
    for (name, tasks), settings in variants(table)[1].items():
        for changed, returns in sorted(settings.items(), key=str):
            if changed and () in settings:
                text = " ".join(f"{k} = {v if isinstance(v, bool) else format(v, 'g')}" for k, v in changed)
                numbers = dict(zip(("difference", "low", "high", "seeds"), minus(returns, settings[()])))
                rows.append({"family": name, "tasks": tasks, "switch": text, **numbers})
    return rows


def falls(table: pd.DataFrame) -> list[dict]:
    """What 1,000 steps on a new task change in the return, with trained and with fresh critics (collapse.parquet)."""
    rows = table[table["policy"] == "deployed"]
    wide = rows.pivot_table(index=["learner", "critics", "seed"], columns="step", values="return")
    changes = (wide[1_000] - wide[0]).groupby(level=["learner", "critics"])
    return [{"learner": name, "critics": critics, **dict(zip(("value", "low", "high"), mean_interval(x.to_numpy())))}
            for (name, critics), x in changes]  # fmt: skip


def _late(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the last quarter of each run's evaluations."""
    return table[table.groupby("run")["step"].transform(last_quarter).astype(bool)]


def inside(table: pd.DataFrame) -> list[dict]:
    """PEARL's return by family at a learning rate inside its grid (pearl.parquet), on the training tasks."""
    return _earned(table[table["policy"] == "deployed"], ["family"])


def directions(table: pd.DataFrame) -> list[dict]:
    """What on-policy learners earn on each task of half-cheetah-dir: 0 is forward, 1 backward; before and after
    adapting ("meta", "deployed"), the mean over the last quarter of the evaluations."""
    return _earned(table[table["family"] == "half-cheetah-dir"], ["learner", "policy", "task"])


def on_policy(table: pd.DataFrame) -> list[dict]:
    """The same on every family, the mean over its tasks."""
    return _earned(table, ["family", "learner", "policy"])


def presets(table: pd.DataFrame) -> list[dict]:
    """The same on each task of half-cheetah-dir, by the horizon and the rule of evaluation of two papers."""
    return _earned(table, ["preset", "learner", "policy", "task"])


def _earned(table: pd.DataFrame, by: list[str]) -> list[dict]:
    returns = _late(table).groupby([*by, "seed"])["return"].mean().groupby(level=by)
    return [dict(zip((*by, "value", "low", "high"), (*key, *mean_interval(x.to_numpy())))) for key, x in returns]


def pilots(table: pd.DataFrame) -> list[dict]:
    """What each run of a pilot earns: the mean over its tasks and over the last quarter of its evaluations."""
    late = _late(table[table["policy"] == "deployed"])
    return late.groupby(["family", "learner", "seed"], as_index=False)["return"].mean().to_dict("records")
