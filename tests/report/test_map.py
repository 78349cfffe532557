"""How the deep map is scored against the tabular prediction: the prediction itself passes, noise does not."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pmeta_lib.envs import family
from pmeta_lib.files import UserError
from pmeta_lib.sac.learners.pmeta import PMeta
from pmeta_lib.sac.settings import Settings
from pmeta_lib.sac.training import train

RESULTS = Path(__file__).parents[2] / "data" / "results"


def imported(name: str):
    sys.path.insert(0, str(RESULTS))  # for what lies beside it
    spec = importlib.util.spec_from_file_location(f"deep_{name}", RESULTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(RESULTS))
    return module


@pytest.fixture(scope="module")
def script():
    return imported("map")


@pytest.fixture
def tabular() -> pd.DataFrame:
    return pd.read_parquet(RESULTS / "tabular" / "map.parquet")


@pytest.fixture
def deep(script, tabular) -> pd.DataFrame:
    """The tabular map in the deep one's form, as if five seeds of SAC had come out like it."""
    rows = tabular[tabular["learner"].isin(["independent", "joint", "pmeta"]) & (tabular["seed"] < 5)]
    steps = dict(zip(sorted(rows["data"].unique()), script.STEPS))
    pulls = rows["setting"].map(lambda s: f"pmeta lam={json.loads(s).get('pull', 0):g}")
    return pd.DataFrame({
        "family": "any", "h": rows["h"], "steps": rows["data"].map(steps), "learner": rows["learner"],
        "policy": "deployed", "seed": rows["seed"], "return": rows["deployed"], "chosen": pulls,
    })  # fmt: skip


def test_the_prediction_scored_against_itself_holds_and_noise_does_not(script, tabular, deep):
    zeros = {f"{h:g}": 0.0 for h in script.H}
    same = script.score(deep, zeros, tabular)
    assert {same[k]["verdict"] for k in ("P1, P2", "winner", "P5")} == {"held"}
    assert same["P1, P2"]["spearman"][0] == pytest.approx(1, abs=0.01) and same["winner"]["share"] >= 0.9
    assert same["P4"]["at"] == [0.0, 400]  # identical tasks, least data
    noise = deep.assign(**{"return": np.random.default_rng(1).normal(50, 10, len(deep))})
    found = script.score(noise, zeros, tabular)
    assert found["P1, P2"]["verdict"] != "held" and found["winner"]["verdict"] == "not held"


def test_a_band_is_found_where_one_is_planted_and_only_there(script, tabular, deep):
    ours, at = deep["learner"] == "pmeta", (deep["h"] == 0.25) & (deep["steps"] == 3_200)
    better = deep["return"].where(~(ours & at), deep["return"] + 60)
    worse = better.where(~ours | at, better - 60)
    found = script.score(deep.assign(**{"return": worse}), {f"{h:g}": 0.0 for h in script.H}, tabular)
    assert found["P3"]["cells"] == [[0.25, 3200]] and found["P3"]["share at the named cells"] == 1
    assert found["P3"]["verdict"] == "held"  # where joint and independent are level


def test_with_an_anchor_of_its_own_no_task_hears_of_another():
    """The first of two tasks learns the same whatever the second one is; with the shared anchor it does not."""
    flip, settings = family("pendulum-flip"), Settings(steps=120, hidden=(8, 8), batch_size=8, warm_up=20)

    def first(learner, second):
        tasks = np.array([flip.train_tasks[0], [second]])
        return train(replace(flip, train_tasks=tasks), learner, settings, [0]).agent.actor[0, 0]

    own, shared = imported("spring").OwnAnchor(lam=1.0), PMeta(lam=1.0)
    assert torch.equal(first(own, -1.0), first(own, 1.0))
    assert not torch.equal(first(shared, -1.0), first(shared, 1.0))
    assert not torch.equal(first(own, -1.0), first(PMeta(lam=0.0), -1.0))  # and the spring is there


def test_a_run_that_lies_in_two_folders_is_refused(script, deep):
    with pytest.raises(UserError, match="any@0, seed 0, is in two of the folders; name each run once"):
        script.with_chosen(pd.concat([deep, deep[deep["h"] == 0]], ignore_index=True))
