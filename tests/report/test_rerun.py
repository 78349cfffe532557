"""A random sample of the stored runs, trained again by the specs on their rows: the same curves on the same versions.

Each is followed past the warm-up into its first updates. To the last digit it would be the same on the same processor;
on another one rounding differs, and the longer it trains the more that matters: where hundreds of updates come before
the first evaluation, equal seeds have little in common but their mean.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from pmeta_course.reproduction import scores
from pmeta_course.reproduction.statistics import difference_interval

from pmeta_lib.experiments.results import spec_of
from pmeta_lib.files import provenance
from pmeta_lib.policy_gradient.learner import OnPolicy
from pmeta_lib.policy_gradient.training import train as train_on_policy
from pmeta_lib.sac.training import train

RESULTS = Path(__file__).parents[2] / "data" / "results"
UPDATES = 60
MOST = 500_000  # transitions up to the first evaluation: of more than that a test would take minutes


def packs() -> list:
    """One pack (rows of the runs that were stacked together) of every cell that a CPU trained on these versions."""
    found = []
    for name, table in scores.tables(RESULTS).items():
        if name.startswith("adaptation") or not scores.on_a_cpu(table):
            continue
        if any(set(table[p]) != {version(p)} for p in ("numpy", "gymnasium", "mujoco")):
            continue
        if {v.split("+")[0] for v in table["torch"]} != {version("torch").split("+")[0]}:
            continue
        for _, cell in table.groupby(["family", "learner"], observed=True):
            seeds = sorted(cell["seed"].unique())[: int(cell["packed"].iloc[0])]
            rows = cell[cell["seed"].isin(seeds)]
            if np.unique(rows["step"])[1] * len(rows[["seed", "task"]].drop_duplicates()) <= MOST and (
                here(rows) or len(seeds) > 1
            ):
                found.append(rows)
    return found


def here(rows) -> bool:
    """Whether this kind of processor made the runs. (Elsewhere a single seed has no mean to be compared.)"""
    return set(rows["machine"]) == {provenance()["machine"]}


def test_a_sample_of_the_stored_runs_comes_out_again():
    stored = packs()
    if not stored:
        pytest.skip("nothing is stored that was made on these versions")
    for k in np.random.default_rng(2).choice(len(stored), min(4, len(stored)), replace=False):
        comes_out_again(stored[k])


def comes_out_again(rows) -> None:
    specs = [spec_of(row) for row in rows.drop_duplicates("run").sort_values("seed").to_dict("records")]
    settings, label = specs[0].settings, f"{specs[0].family}, {specs[0].learner}"
    steps = sorted(rows["step"].unique())
    stop = next((t for t in steps if t >= settings.warm_up + UPDATES), steps[-1])
    if stop > settings.warm_up + 20 * UPDATES:  # its first evaluation with updates is far away
        stop = steps[1]
    made = specs[0].make_learner()
    again = train_on_policy if isinstance(made, OnPolicy) else train
    seeds = [s.seed for s in specs]
    run = again(specs[0].make_family(), made, settings, seeds, callback=lambda run: run.step >= stop)
    keys = ["seed", "step", "policy", "task"]
    both = run.curve.merge(rows[[*keys, "return"]], on=keys, suffixes=("", "_stored"))
    assert len(both) == len(run.curve) and both["step"].max() == stop, label
    before = both["step"] <= settings.warm_up
    same = np.isclose(both["return"], both["return_stored"], rtol=1e-4)[before]
    close = np.isclose(both["return"], both["return_stored"], rtol=0.05, atol=1.0)
    # another processor rounds otherwise, and a pendulum that swings over, or a robot that has begun to learn, amplifies
    # it: a few returns may part
    least = 1.0 if here(rows) else 0.9
    assert same.mean() >= least, f"{label}\n{both[before][~same]}"
    if close.mean() >= least:
        return
    assert not here(rows), f"{label}\n{both[~close]}"
    for policy, part in both[both["step"] == stop].groupby("policy"):
        means = part.groupby("seed")[["return", "return_stored"]].mean()
        if not np.allclose(means["return"], means["return_stored"], rtol=0.05, atol=1.0):
            value, low, high = difference_interval(means["return"].to_numpy(), means["return_stored"].to_numpy())
            # twice the interval: by chance alone one of twenty machines would fail for ever
            assert abs(value) <= 2 * (high - value), f"{label}, {policy}: {value:.1f} [{low:.1f}, {high:.1f}]\n{means}"
