"""Families at a chosen heterogeneity, `NAME@H`: what the knob does to tasks, and what it is refused."""

import gymnasium
import numpy as np
import pytest

from pmeta_lib.envs import TaskVectorEnv
from pmeta_lib.envs.families import FAMILIES, family
from pmeta_lib.envs.heterogeneity import KNOBS
from pmeta_lib.experiments.spec import RunSpec
from pmeta_lib.files import UserError

LEVELS = (0, 0.25, 0.5, 0.75, 1)


def tasks(name: str, h: float, n: int = 400) -> np.ndarray:
    return family(f"{name}@{h:g}", train=n).train_tasks


@pytest.mark.parametrize("name", KNOBS)
def test_tasks_part_with_the_knob_and_come_from_the_same_draw(name):
    spreads = [tasks(name, h).var(0).sum() for h in LEVELS]
    assert spreads[0] == 0 and spreads[1] < spreads[2] and spreads == sorted(spreads)
    assert not family(f"{name}@0").held_out and family(f"{name}@0.25").held_out
    assert (tasks(name, 0.5, 7) == tasks(name, 0.5, 9)[:7]).all()
    low, high = tasks(name, 0.25), tasks(name, 0.5)  # the same draws: what is large at one is large at the other
    assert np.corrcoef(low[:, 0], high[:, 0])[0, 1] > 0.8


@pytest.mark.parametrize("name", KNOBS)
def test_every_family_with_a_knob_steps(name):
    f = family(f"{name}@0.5")
    env, one = TaskVectorEnv(f, f.train_tasks, range(len(f.train_tasks))), gymnasium.make(f.env_id, family=f.name)
    action = np.zeros((len(f.train_tasks), f.action_size))
    env.reset(), one.reset(seed=0)
    assert np.isfinite(env.step(action)[1]).all() and np.isfinite(one.step(action[0])[1])


def test_the_ends_are_what_they_are_said_to_be():
    goals = tasks("point-robot", 1)
    assert np.allclose((goals**2).sum(1), 1) and 0.4 < (goals[:, 1] < 0).mean() < 0.6  # all around
    assert (tasks("point-robot", 0.5)[:, 1] >= 0).all()  # the upper half circle
    signs = [(tasks("pendulum-params", h)[:, 3] < 0).mean() for h in LEVELS]
    assert signs[:3] == [0, 0, 0] and abs(signs[3] - 0.25) < 0.06 and abs(signs[4] - 0.5) < 0.06
    bodies, full = tasks("pendulum-params", 0.5)[:, :3], family("pendulum-params", train=400).train_tasks
    assert np.allclose(np.ptp(bodies, 0), np.ptp(full, 0), rtol=0.05)
    speeds = tasks("half-cheetah-vel", 1)
    assert 0 <= speeds.min() < 0.05 and 2.95 < speeds.max() <= 3


def test_a_reversed_motor_of_a_pendulum_is_a_reversed_action():
    f = family("pendulum-params@1", train=40)
    reversed_ = f.train_tasks[f.train_tasks[:, 3] < 0][:1]
    straight = reversed_ * [1, 1, 1, -1]
    one, two = (gymnasium.make(f.env_id, family=f.name, task=t[0]) for t in (reversed_, straight))
    one.reset(seed=0), two.reset(seed=0)
    for k in range(20):
        action = np.array([np.sin(k)], np.float32)
        assert np.array_equal(one.step(action)[0], two.step(-action)[0])


@pytest.mark.parametrize("name, text", [
    ("hopper-params@0.5", "has no knob"), ("pendulum-params@2", "number from 0 to 1"),
    ("pendulum-params@", "number from 0 to 1"), ("pendulum-params@0.50", "number from 0 to 1"),
    ("pendulm-params@1", "Did you mean 'pendulum-params'"),
])  # fmt: skip
def test_a_wrong_level_is_one_line(name, text):
    with pytest.raises(UserError, match=text):
        RunSpec(name)


def test_levels_are_families_of_their_own_and_not_in_the_list():
    assert not [n for n in FAMILIES if "@" in n]
    keys = {RunSpec(n).key for n in ("pendulum-params", "pendulum-params@0.5", "pendulum-params@1")}
    assert len(keys) == 3
