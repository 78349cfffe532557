"""Small runs that the tests of the deep engine share."""

from dataclasses import replace

import pytest
import torch

from pmeta_lib.envs import family
from pmeta_lib.sac.learners import learner
from pmeta_lib.sac.settings import Settings
from pmeta_lib.sac.training import train


@pytest.fixture(autouse=True)
def one_thread():
    """Threads would only fight over the few cores that tests share."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small():
    """`small(name, seeds, **changes)`: a finished run on three pendulums of short episodes; settings may be changed."""

    def run(name="independent", seeds=(0,), options=None, tasks=3, how=None, **changes):
        settings = {"steps": 140, "hidden": (16, 16), "batch_size": 16, "warm_up": 40, "evaluations": 2,
                    "evaluation_episodes": 1} | changes  # fmt: skip
        made = replace(family("pendulum-params", train=tasks), horizon=30)
        return train(made, learner(name, **(options or {})), Settings(**settings), list(seeds), **(how or {}))

    return run
