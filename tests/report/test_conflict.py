"""The deep half of claim C1: gradients through the robot's dynamics, held against the environment itself."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pmeta_lib.envs.classic import STEP, point_robot
from pmeta_lib.sac.networks import Shape, forward, gaussian, initialize


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).parents[2] / "data" / "results" / "conflict.py"
    spec = importlib.util.spec_from_file_location("conflict_script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_return_gradients_are_those_of_the_environments_return(script):
    shape, goals = Shape((2, 8, 4)), torch.tensor([[1.0, 0.0], [-1.0, 0.3]], dtype=torch.float64)
    actor = initialize(shape, 1, torch.Generator().manual_seed(0))[0].double()
    noise = torch.randn(20, 5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def total(flat, goal):
        position, found = np.zeros((5, 2)), 0.0
        for e in noise:
            mean, log_std = gaussian(forward(shape, flat[None], torch.tensor(position)[None]))
            action = torch.tanh(mean + log_std.exp() * e)[0].numpy()
            position, reward = point_robot(position, STEP * action, goal.numpy()[None])
            found += reward.mean()
        return found

    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        gradients = script.return_gradients(shape, actor, goals, 20, noise)
    finally:
        torch.set_default_dtype(default)
    for k in np.flatnonzero(gradients[0].abs() > 1e-3)[::5]:
        step = torch.zeros_like(actor)
        step[k] = 1e-6
        for i in range(2):
            slope = (total(actor + step, goals[i]) - total(actor - step, goals[i])) / 2e-6
            assert gradients[i, k] == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_conflict_counts_pairs_and_arcs_spread(script):
    assert script.conflict(torch.tensor([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0]])) == pytest.approx(2 / 3)
    same, wide = script.arc(0.0).train_tasks, script.arc(1.0).train_tasks
    np.testing.assert_allclose(same, [[0.0, 1.0]] * 4, atol=1e-12)
    np.testing.assert_allclose(wide[[0, -1]], [[1.0, 0.0], [-1.0, 0.0]], atol=1e-12)


def test_maml_with_shared_critics_stands_on_the_scale_of_the_stored_table(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script, "BUDGET", script.BUDGET | {"steps": 240, "evaluations": 4})
    monkeypatch.setattr(script, "SEEDS", [0, 1])
    run, _ = script.trained("maml", 1.0, "maml-shared", shared_critics=True)
    assert run.agent.updates > 0 and torch.equal(run.agent.critic[:, :1].expand_as(run.agent.critic), run.agent.critic)
    stored = pd.read_parquet(script.TABLE).query("h == 1")
    zero, one = stored["random"].iloc[0], stored[stored["learner"] == "independent"]["return"].mean()
    for row in script.shared_rows(1.0):
        assert row["return"] == pytest.approx(zero + row["deployed"] * (one - zero)) and row["learner"] not in ("maml",)
