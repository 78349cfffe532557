"""Small runs that the tests of the on-policy learners share."""

from dataclasses import replace

import pytest
import torch

from pmeta_lib.envs import family
from pmeta_lib.experiments.learners import learner
from pmeta_lib.policy_gradient.training import train
from pmeta_lib.sac.settings import Settings


@pytest.fixture(autouse=True)
def one_thread():
    """Threads would only fight over the few cores that tests share."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small():
    """`small(name, seeds, **changes)`: a run on three pendulums of short episodes; settings may be changed."""

    def run(name="promp", seeds=(0,), options=None, tasks=3, how=None, **changes):
        settings = {"steps": 480, "hidden": (8, 8), "warm_up": 0, "evaluations": 2, "evaluation_episodes": 1} | changes
        made = replace(family("pendulum-params", train=tasks), horizon=20)
        made = learner(name, **{"episodes": 4} | (options or {})), made
        return train(made[1], made[0], Settings(**settings), list(seeds), **(how or {}))

    return run
