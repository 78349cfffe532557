"""MAML's outer gradient against finite differences, its inner steps against everyday PyTorch, and its limits."""

import pytest
import torch
from plain_sac import A, N, agent_of, as_module, batches
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from pmeta_lib.sac.learners import learner


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Task:
    """One task's actor loss in everyday PyTorch, with frozen critics; `adapted` takes K plain gradient steps."""

    def __init__(self, agent, slot, critic, alpha):
        self.actor = as_module(agent.actor_shape, agent.extra["theta"][0, 0])
        self.critics = [as_module(agent.critic_shape, row) for row in critic[0, slot]]
        self.alpha = alpha[0, slot]

    def loss(self, vector, observation, noise):
        vector_to_parameters(vector, self.actor.parameters())
        mean, log_std = self.actor(observation).chunk(2, -1)
        u = mean + log_std.clamp(-20, 2).exp() * noise
        log_prob = torch.distributions.Normal(mean, log_std.clamp(-20, 2).exp()).log_prob(u)
        log_prob = (log_prob - torch.log(1 - torch.tanh(u) ** 2)).sum(-1)
        pair = torch.cat((observation, torch.tanh(u)), -1)
        return (self.alpha * log_prob - torch.min(*(c(pair)[:, 0] for c in self.critics))).mean()

    def adapted(self, vector, observation, noises, size):
        for noise in noises:
            loss = self.loss(vector, observation, noise)
            gradient = torch.autograd.grad(loss, list(self.actor.parameters()))
            vector = vector - size * parameters_to_vector([g.contiguous() for g in gradient])
        return vector


def two_updates(**options):
    """An agent after one update and, recorded in the second: critics and temperatures that the inner steps saw and that
    the outer loss saw, batches, noise, the mean gradient; float64."""
    made, agent = learner("maml", **options), agent_of()
    agent.actor.copy_(agent.actor[:, :1].expand_as(agent.actor).clone())
    made.start(agent, N)
    (first, e1), (second, e2) = batches(2)
    inner = torch.randn(1, N, made.inner_steps, first.reward.shape[2], A, generator=torch.Generator().manual_seed(1))
    draws = iter((e1, inner, e2, inner))
    agent.noise = lambda *shape: next(draws)
    made.update(agent, first)
    seen = {"inner": (agent.critic.clone(), agent.log_alpha.exp()), "theta": agent.extra["theta"].clone()}
    seen |= {"adapted": agent.actor.clone(), "first": agent.optimizers["actor"].first.clone()}
    made.update(agent, second)
    gradient = (agent.optimizers["actor"].first - 0.9 * seen["first"]) / 0.1
    agent.extra["theta"].copy_(seen["theta"])
    return agent, seen | {"gradient": gradient[0, 0], "outer": (agent.critic, seen["inner"][1]), "support": first,
                          "query": second, "inner_noise": inner[0], "outer_noise": e2[0, 0]}  # fmt: skip


def flat(shape, row):
    return parameters_to_vector(as_module(shape, row).parameters()).detach()


@pytest.mark.parametrize("steps", [1, 3])
def test_the_outer_gradient_is_that_of_the_loss_after_adaptation(float64, steps):
    """Exact second order against central differences of the mean query loss as a function of theta."""
    size = 0.05
    agent, seen = two_updates(inner_steps=steps, inner_step_size=size)
    theta, gradient = (flat(agent.actor_shape, x) for x in (seen["theta"][0, 0], seen["gradient"]))
    inner, outer = ([Task(agent, i, *seen[w]) for i in range(N)] for w in ("inner", "outer"))

    def objective(vector):
        total = 0.0
        for i in range(N):
            y = inner[i].adapted(vector, seen["support"].observation[0, i], seen["inner_noise"][i], size)
            total += outer[i].loss(y, seen["query"].observation[0, i], seen["outer_noise"][i]).item() / N
        return total

    g = torch.Generator().manual_seed(3)
    for _ in range(6):
        d = torch.randn(len(theta), generator=g)
        h = 1e-6 / d.norm()
        slope = (objective(theta + h * d) - objective(theta - h * d)) / (2 * h)
        assert abs(slope - (gradient @ d).item()) < 1e-5 * max(1.0, abs(slope)), (slope, gradient @ d)
    for i in range(N):  # who acts: theta after K steps on the last batch
        y = inner[i].adapted(theta, seen["support"].observation[0, i], seen["inner_noise"][i], size)
        torch.testing.assert_close(flat(agent.actor_shape, seen["adapted"][0, i]), y)


def test_first_order_leaves_the_jacobian_out(float64):
    agent, seen = two_updates(inner_steps=1, inner_step_size=0.05, first_order=True)
    exact = two_updates(inner_steps=1, inner_step_size=0.05)[1]["gradient"]
    outer, total = [Task(agent, i, *seen["outer"]) for i in range(N)], 0.0
    for i in range(N):
        y = flat(agent.actor_shape, seen["adapted"][0, i]).requires_grad_()
        loss = outer[i].loss(y, seen["query"].observation[0, i], seen["outer_noise"][i])
        gradient = torch.autograd.grad(loss, list(outer[i].actor.parameters()))
        total = total + parameters_to_vector([x.contiguous() for x in gradient]) / N
    torch.testing.assert_close(flat(agent.actor_shape, seen["gradient"]), total)
    assert (seen["gradient"] - exact).norm() > 0.01 * exact.norm()


def test_with_no_inner_steps_it_is_joint(small):
    maml = small("maml", options={"inner_steps": 0, "shared_critics": True})
    joint = small("joint")
    for name in ("actor", "critic", "target", "log_alpha"):
        got, want = getattr(maml.agent, name), getattr(joint.agent, name)
        torch.testing.assert_close(got, want.expand_as(got), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(torch.tensor([r[4] for r in maml.rows if r[2] == "meta"]),
                               torch.tensor([r[4] for r in joint.rows]), rtol=1e-3, atol=1e-2)  # fmt: skip
    adapting = small("maml", options={"inner_steps": 1, "inner_step_size": 0.1, "shared_critics": True}).agent
    assert (adapting.extra["theta"] - joint.agent.actor).abs().max() > 1e-2


def test_critics_are_personal_unless_they_are_shared(small):
    own, shared = (small("maml", options={"shared_critics": x}).agent for x in (False, True))
    for name in ("critic", "log_alpha"):
        assert not torch.equal(getattr(own, name)[:, 0], getattr(own, name)[:, 1])
        assert torch.equal(getattr(shared, name)[:, 0], getattr(shared, name)[:, 1])
    assert not torch.equal(own.actor[:, 0], own.actor[:, 1]) and own.extra["theta"].shape[1] == 1
