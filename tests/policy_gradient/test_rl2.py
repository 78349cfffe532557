"""The recurrent learner: its network is PyTorch's GRU, its memory lives for a trial and no longer."""

import dataclasses
from contextlib import closing

import pytest
import torch

from pmeta_lib.envs import family
from pmeta_lib.experiments.learners import learner
from pmeta_lib.files import UserError
from pmeta_lib.policy_gradient.rl2 import Recurrent, step, unrolled
from pmeta_lib.policy_gradient.rollout import Sampler, Window
from pmeta_lib.policy_gradient.training import iterate, start
from pmeta_lib.sac.settings import Settings

SHAPE = Recurrent(5, 8, 2)


@pytest.fixture
def theta():
    return torch.stack([learner("rl2").new_policy(SHAPE, torch.Generator().manual_seed(s))[0] for s in (0, 1)])


def test_the_network_is_pytorchs_gru_step_by_step_and_unrolled(theta):
    x = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(2))
    policy, value = unrolled(SHAPE, theta, x)
    hidden, outputs = torch.zeros(2, 3, 8), []
    for t in range(6):
        out, hidden = step(SHAPE, theta, x[:, :, t], hidden)
        outputs.append(out)
    stacked = torch.stack(outputs, 2)
    torch.testing.assert_close(stacked[..., :2], policy.mean)
    torch.testing.assert_close(stacked[..., 2], value)
    for s in range(2):
        module = torch.nn.GRU(5, 8, batch_first=True)
        for name, part in zip(("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"), SHAPE.parts(theta[s])):
            getattr(module, name).data.copy_(part)
        assert torch.allclose(module(x[s])[1][0], hidden[s], atol=1e-6)


def test_memory_is_reset_between_trials_and_not_between_episodes(theta):
    place = dataclasses.replace(family("point-robot", train=2), horizon=4)
    made = learner("rl2", trial_episodes=2, episodes=3)
    shape = made.shape(place, (8,))
    policies = made.new_policy(shape, torch.Generator().manual_seed(0)).repeat(2, 1).unsqueeze(1)
    sampler = Sampler(place, place.train_tasks, [0, 1], 3)
    window, inputs = made.trial(shape, policies, sampler)
    assert inputs.shape == (2, 6, 8, shape.inputs) and window.ended[0, 0].tolist() == [False] * 3 + [True] + [
        False
    ] * 3 + [True]
    begins = inputs[..., -1]
    assert begins[0, 0].tolist() == [1, 0, 0, 0, 1, 0, 0, 0]  # the network is told of both beginnings,
    assert not inputs[:, :, 0, 2:5].any() and inputs[:, :, 4, 2:5].any()  # and of what came before the second one only
    policy, _ = unrolled(shape, policies[:, 0], inputs)
    again, _ = unrolled(shape, policies[:, 0], inputs[:, :, 4:])  # the second episode with an empty memory
    assert not torch.allclose(policy.mean[:, :, 4], again.mean[:, :, 0], atol=1e-4)
    for _ in range(2):  # what was done is what the network says that remembers a trial from its start, and no more
        window, inputs = made.trial(shape, policies, sampler, mean=True)
        policy, _ = unrolled(shape, policies[:, 0], inputs)
        torch.testing.assert_close(window.action.view(2, 6, 8, 2), policy.mean)
        assert not inputs[:, :, 0, 2:5].any() and inputs[:, :, 4, 2:4].any()


def test_a_trial_does_what_the_unrolled_network_says(theta):
    class Scripted:  # observations and rewards that no environment gives; without noise the actions are the means
        tasks, slots, family = 1, 3, family("point-robot")

        def roll(self, act, steps):
            draw = [torch.randn(2, 3, 1, generator=torch.Generator().manual_seed(t)) for t in range(5)]
            done = [act(x, torch.ones(2, 3, 2), torch.full((2, 3), float(t)), torch.full((2, 3), t == 0))
                    for t, x in enumerate(draw)]  # fmt: skip
            return torch.stack(done, 2)

    acts, inputs = learner("rl2").trial(SHAPE, theta.unsqueeze(1), Scripted(), mean=True)
    policy, _ = unrolled(SHAPE, theta, inputs)
    torch.testing.assert_close(acts, policy.mean)
    assert inputs[0, 0, :, 3].tolist() == [0, 1, 2, 3, 4] and inputs[0, 0, :, 4].tolist() == [1, 0, 0, 0, 0]


@pytest.mark.parametrize("baseline", ["network", "linear"])
def test_the_value_head_is_trained_where_it_is_the_baseline(baseline):
    settings = Settings(steps=400, hidden=(8,), warm_up=0)
    run = start(family("point-robot", train=2), learner("rl2", baseline=baseline, episodes=2), settings, [0, 1])
    with closing(run.env):
        before = run.state["policy"]
        iterate(run)
    moved = [(x - y).abs() for x, y in zip(run.shape.parts(run.state["policy"]), run.shape.parts(before))]
    weights, bias = moved[4], moved[5]
    assert weights[..., :-1, :].min() > 0 and bias[..., :-1].min() > 0  # the action's mean
    assert all((x[..., -1:].min() > 0) == (baseline == "network") for x in (weights.mT, bias))
    assert baseline == "network" or not (weights[..., -1, :].any() or bias[..., -1].any())


def test_the_linear_baseline_knows_the_time_that_is_left_in_a_trial():
    """Rewards that are greater by five at every step change returns by what time alone says: the update of the linear
    baseline hardly sees it, that of a fresh network's value is another one."""
    settings = Settings(steps=400, hidden=(8,), warm_up=0)
    shifts = {}
    for baseline in ("network", "linear"):
        run = start(family("point-robot", train=2), learner("rl2", baseline=baseline, episodes=4), settings, [0])
        with closing(run.env):
            ((window, inputs),) = run.learner.collect(run, run.state["policy"])
            generator = torch.Generator().manual_seed(3)
            window.reward = torch.randn(window.reward.shape, generator=generator)
            plain = run.learner.update(run, run.state["policy"], [(window, inputs)])[0]
            window.reward, run.state = window.reward + 5.0, run.learner.state(run.state["policy"])
            shifted = run.learner.update(run, run.state["policy"], [(window, inputs)])[0]
        gru = [
            torch.cat([x.flatten() for x in run.shape.parts(new - run.state["policy"])[:4]]) for new in (plain, shifted)
        ]
        shifts[baseline] = float(torch.nn.functional.cosine_similarity(*gru, dim=0))
    assert shifts["linear"] > 0.95 > 0.7 > shifts["network"], shifts


def test_episodes_of_a_trial_are_told_apart():
    reward, ended = torch.tensor([[[1.0, 2, 4, 8, 16, 32]]]), torch.tensor([[[0, 1, 0, 0, 1, 1]]]).bool()
    window = Window(None, None, reward, ended, None)
    assert window.episode_returns(2).tolist() == [[[3.0, 28.0]]] and window.episode_returns(3).tolist() == [
        [[3.0, 28.0, 32.0]]
    ]


@pytest.mark.parametrize("options, word", [({"trial_episodes": 1}, "trial_episodes"), ({"epochs": 0}, "epochs"),
                                           ({"minibatches": 0}, "minibatches"), ({"clip": 0.0}, "clip"),
                                           ({"baseline": "none"}, "baseline")])  # fmt: skip
def test_options_that_cannot_work_are_named(options, word):
    with pytest.raises(UserError, match=word):
        learner("rl2", **options)
