"""A random sample of the stored runs, trained again by the specs on their rows: the same curves on the same versions.

Each is followed past the warm-up into its first updates. To the last digit it would be the same on the same processor;
on another one rounding differs, and the longer it trains the more that matters.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from pmeta_course.reproduction import scores

from pmeta_lib.experiments.results import spec_of
from pmeta_lib.files import provenance
from pmeta_lib.policy_gradient.learner import OnPolicy
from pmeta_lib.policy_gradient.training import train as train_on_policy
from pmeta_lib.sac.training import train

RESULTS = Path(__file__).parents[2] / "data" / "results"
UPDATES = 60


def packs() -> list:
    """One pack (rows of the runs that were stacked together) of every cell that a CPU trained on these versions."""
    found = []
    for name, table in scores.tables(RESULTS).items():
        if name.startswith("adaptation") or set(table["device"]) != {"cpu"}:
            continue
        if any(set(table[p]) != {version(p)} for p in ("numpy", "gymnasium", "mujoco")):
            continue
        if {v.split("+")[0] for v in table["torch"]} != {version("torch").split("+")[0]}:
            continue
        for _, cell in table.groupby(["family", "learner"], observed=True):
            seeds = sorted(cell["seed"].unique())[: int(cell["packed"].iloc[0])]
            found.append(cell[cell["seed"].isin(seeds)])
    return found


def test_a_sample_of_the_stored_runs_comes_out_again():
    stored = packs()
    if not stored:
        pytest.skip("nothing is stored that was made on these versions")
    chosen = np.random.default_rng(2).choice(len(stored), min(4, len(stored)), replace=False)
    for rows in (stored[k] for k in chosen):
        specs = [spec_of(row) for row in rows.drop_duplicates("run").sort_values("seed").to_dict("records")]
        settings, label = specs[0].settings, f"{specs[0].family}, {specs[0].learner}"
        steps = sorted(rows["step"].unique())
        stop = next((t for t in steps if t >= settings.warm_up + UPDATES), steps[-1])
        if stop > settings.warm_up + 20 * UPDATES:  # its first evaluation with updates is far away
            stop = steps[1]
        made = specs[0].make_learner()
        again = train_on_policy if isinstance(made, OnPolicy) else train
        run = again(specs[0].make_family(), made, settings, [s.seed for s in specs],
                    callback=lambda run, stop=stop: run.step >= stop)  # fmt: skip
        keys = ["seed", "step", "policy", "task"]
        both = run.curve.merge(rows[[*keys, "return"]], on=keys, suffixes=("", "_stored"))
        assert len(both) == len(run.curve) and both["step"].max() == stop, label
        before = both["step"] <= settings.warm_up
        same = np.isclose(both["return"], both["return_stored"], rtol=1e-4)[before]
        close = np.isclose(both["return"], both["return_stored"], rtol=0.05, atol=1.0)
        # another processor rounds otherwise, and a pendulum that swings over, or a robot that has begun to learn,
        # amplifies it: a few returns may part
        least = 1.0 if set(rows["machine"]) == {provenance()["machine"]} else 0.9
        assert same.mean() >= least, f"{label}\n{both[before][~same]}"
        assert close.mean() >= least, f"{label}\n{both[~close]}"
