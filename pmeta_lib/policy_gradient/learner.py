"""What on-policy learners have in common: how a policy acts, how it takes inner steps, and what a learner must answer.

Policy gradients adapt by `theta_i <- theta_i + s grad surrogate_i(theta_i)` on episodes of theta_i itself. A surrogate
turns log probabilities of what was done into numbers whose mean has the policy gradient as its first derivative; the
learners differ in its second, and so in the gradient of what comes after the step:

    E[grad J(theta')] = (I + s H) grad J(theta'),   H = second derivative of J

Shapes here and beside: S seeds, N tasks, B = S N rows, E slots a task, H steps, o observation, a action, P parameters
of a policy (a tanh perceptron's for the mean, laid out by `pmeta_lib.sac.networks.Shape`; then log deviations, a)."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pmeta_lib.envs.families import TaskFamily
from pmeta_lib.files import UserError
from pmeta_lib.options import Count, Positive, Share, Whole, options
from pmeta_lib.policy_gradient.rollout import Sampler, Window, advantages, linear_values, normalised
from pmeta_lib.sac.learners.base import Learner
from pmeta_lib.sac.networks import Shape, forward, initialize

# Mean divergence, in nats per action, beyond which an inner step was no step but a jump. Means may run far beyond the
# box that actions are clipped to: steps of a thousand nats belong to policies that do well.
DIVERGED = 1e5

OfWindow = Callable[[Tensor, Window], Tensor]  # parameters (B, P), or log probabilities (B, E, H) -> (B, E, H)


class Gaussian(NamedTuple):
    """Mean and log standard deviation of B policies at the observations asked for: (B, E, H, a) and (B, 1, 1, a)."""

    mean: Tensor
    log_std: Tensor

    def log_prob(self, action: Tensor) -> Tensor:
        """(B, E, H) log density of `action (B, E, H, a)`."""
        z = (action - self.mean) * torch.exp(-self.log_std)
        return -0.5 * (z**2).sum(-1) - (self.log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

    def kl(self, new: "Gaussian") -> Tensor:
        """(B, E, H) divergence KL(self || new)."""
        ratio = torch.exp(2 * (self.log_std - new.log_std))
        shift = (self.mean - new.mean) * torch.exp(-new.log_std)
        return (new.log_std - self.log_std + 0.5 * (ratio + shift**2 - 1)).sum(-1)


def gaussian(shape: Shape, rows: Tensor, observation: Tensor) -> Gaussian:
    """The policies `rows (B, P)` at `observation (B, E, H, o)`, by operations that can be differentiated twice."""
    mean = forward(shape, rows[:, : shape.size], observation.flatten(1, 2), torch.tanh)
    return Gaussian(mean.view(*observation.shape[:-1], -1), rows[:, None, None, shape.size :])


def plain(log_prob: Tensor, window: Window) -> Tensor:
    """Log probability times advantage, actions taken as given: it misses the part of H from how theta chose them."""
    return log_prob * window.advantage


def low_variance(log_prob: Tensor, window: Window) -> Tensor:
    """Likelihood ratio times advantage (Rothfuss et al., ICLR 2019): of H the square of each step's own score, not what
    joins it with an earlier one's. Exact where actions do not matter to later steps' values (one-step episodes)."""
    return torch.exp(log_prob - window.log_prob) * window.advantage


def dice(log_prob: Tensor, window: Window) -> Tensor:
    """All of H, unbiased, with advantages (loaded DiCE; Farquhar et al., NeurIPS 2019).

    Each advantage is weighted with the likelihood of its episode up to and with its action, minus that before it; the
    weights are 1 and 1 and only their derivatives count, so that the values are 0."""
    before = log_prob.cumsum(-1) - log_prob
    before = before - before.gather(-1, window.first)  # of this episode alone
    up_to, until = (torch.exp(x - x.detach()) for x in (before + log_prob, before))
    return (up_to - until) * window.advantage


def adapted(
    rows: Tensor, windows: list[Window], log_prob: OfWindow, surrogate: OfWindow, size: float, *, graph: bool
) -> list[Tensor]:
    """The policies before, between and after inner steps: from `rows (B, P)`, one of `size` on each of `windows`, up
    the gradient of the surrogate's mean over slots and steps. With `graph` they can be differentiated."""
    out = [rows]
    for window in windows:
        with torch.enable_grad():
            value = surrogate(log_prob(out[-1].requires_grad_(), window), window).mean((1, 2)).sum()
            (gradient,) = torch.autograd.grad(value, out[-1], create_graph=graph)
        new = out[-1] + size * gradient
        out.append(new if graph else new.detach())
    return out


@options
class OnPolicy(Learner):
    """A learner that throws its experience away after each update; `pmeta_lib.policy_gradient.training` trains it."""

    trained_by = "pmeta_lib.policy_gradient.training:train"
    one_policy = True
    surrogate: ClassVar[staticmethod] = staticmethod(plain)
    training_steps: ClassVar[bool] = True  # whether training itself takes inner steps; else only a new task brings them

    episodes: Count = 20  # environments of each task, stepped together
    inner_steps: Whole = 1  # policy-gradient steps from the meta-policy to a task's own
    inner_step_size: Positive = 0.1  # of each of them
    gae_lambda: Share = 1.0  # 1 takes returns as they come, below 1 leans on estimated values
    kl_limit: Positive = 0.01  # nats per action that one outer step may move the policies

    def phases(self) -> int:
        """Windows of an iteration: one before each inner step and one after the last."""
        return 1 + self.inner_steps * self.training_steps

    def steps_per_iteration(self, horizon: int) -> int:
        """Environment steps of one task in one iteration."""
        return self.episodes * horizon * self.phases()

    def iterations(self, family: TaskFamily, settings) -> int:
        """How many the settings' steps have room for; `UserError` if for none."""
        if (one := self.steps_per_iteration(family.horizon)) > settings.steps:
            raise UserError(f"setting steps is {settings.steps}; one iteration of {self.name}: {one}; lower episodes")
        return settings.steps // one

    def shape(self, family: TaskFamily, hidden: tuple[int, ...]) -> Shape:
        """The layer widths of a policy."""
        return Shape((family.observation_size, *hidden, family.action_size))

    def new_policy(self, shape: Shape, generator: torch.Generator) -> Tensor:
        """(1, P): PyTorch's own initial weights, standard deviation 1 (actions live in [-1, 1])."""
        return torch.cat((initialize(shape, 1, generator), torch.zeros(1, shape.widths[-1])), 1)

    def state(self, policies: Tensor) -> dict[str, Tensor]:
        """All that training changes, besides streams; `policies` (S, 1, P) are fresh."""
        return {"policy": policies}

    def update(self, run, theta: Tensor, windows: list[Window]) -> tuple[Tensor, dict[str, Tensor]]:
        """The parameters (S, G, P) after an outer step on the windows of one iteration, and losses (S, G)."""
        raise NotImplementedError

    @torch.no_grad()
    def window(self, shape: Shape, rows: Tensor, sampler: Sampler, discount: float) -> Window:
        """One window of the stochastic policies `rows (B, P)`, with advantages normalised for each task."""

        def act(observation, noise, reward, begins):
            now = gaussian(shape, rows, observation.unsqueeze(2))
            return (now.mean + now.log_std.exp() * noise.unsqueeze(2)).squeeze(2)

        window = sampler.roll(act, sampler.family.horizon)
        window.policy = gaussian(shape, rows, window.observation)
        window.log_prob = window.policy.log_prob(window.action)
        value, last = linear_values(window, discount)
        window.advantage = normalised(advantages(window.reward, window.ended, value, last, discount, self.gae_lambda))
        return window

    def adapted(self, shape: Shape, rows: Tensor, windows: list[Window], graph: bool = False) -> list[Tensor]:
        """The module's `adapted` by the learner's own surrogate and step size, of Gaussian policies."""
        log_prob = lambda rows, window: gaussian(shape, rows, window.observation).log_prob(window.action)  # noqa: E731
        return adapted(rows, windows, log_prob, self.surrogate, self.inner_step_size, graph=graph)

    def step(self, shape: Shape, rows: Tensor, window: Window) -> Tensor:
        """`rows` after one inner step on `window`, detached; `FloatingPointError` if that was a jump."""
        new = self.adapted(shape, rows, [window])[-1]
        moved = window.policy.kl(gaussian(shape, new, window.observation)).mean((1, 2))
        if not (moved < DIVERGED).all():
            worst = torch.nan_to_num(moved, torch.inf).argmax()
            raise FloatingPointError(f"the inner step diverged in row {worst} (inner_step_size "
                                     f"{self.inner_step_size:g} moves the policy by {moved[worst]:.3g} nats per "
                                     "action); give a smaller inner_step_size")  # fmt: skip
        return new

    def walk(self, shape: Shape, theta: Tensor, sampler: Sampler, discount: float, updates: int, last: bool = True):
        """The policies (B, P) after 0, 1, … `updates` inner steps from `theta (S, G, P)`, each with the window in which
        it acts for the next step; behind the last step it acts where `last` asks for it (else None)."""
        rows = spread(theta, sampler.tasks)
        for k in range(updates + 1):
            window = self.window(shape, rows, sampler, discount) if last or k < updates else None
            yield rows, window
            if k < updates:
                rows = self.step(shape, rows, window)

    def collect(self, run, theta: Tensor) -> list[Window]:
        """The windows of one iteration, each by the policies that the inner steps so far have made."""
        return [x for _, x in self.walk(run.shape, theta, run.sampler, run.settings.discount, self.phases() - 1)]

    def path(self, judge, theta: Tensor, key: int, updates: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """On the judge's tasks, after 0, 1, … `updates` inner steps from `theta (S, G, P)`: the returns (S, N, ·) of
        what is deployed (the mean, or the stochastic policy where the preset asks for it: promp2018), and (S, N, E, 1)
        of the episodes sampled for the next step (None after the last)."""
        shape, sampled = self.shape(judge.family, judge.settings.hidden), judge.family.preset == "promp2018"

        def mean(rows: Tensor, observation: Tensor) -> Tensor:
            x = observation.view(len(rows), -1, 1, observation.shape[-1])
            return gaussian(shape, rows.detach(), x).mean.clamp(-1.0, 1.0).view(*observation.shape[:2], -1)

        judge.sampler.restart(key)
        for rows, window in self.walk(shape, theta, judge.sampler, judge.settings.discount, updates, last=sampled):
            acting = window.episode_returns(1).view(*judge.shape[:2], -1, 1).numpy() if window else None
            yield acting[..., 0] if sampled else judge.returns(partial(mean, rows), key), acting

    def schedule(self, plan, horizon: int) -> tuple[int, int]:
        """On a new task: steps from one change of the policy to the next, and how many changes `plan` asks for."""
        unit = self.episodes * horizon
        return unit, max(3, -(-plan.episodes // self.episodes), max(plan.steps) // unit)


def spread(theta: Tensor, tasks: int) -> Tensor:
    """(S, G, P) -> (B, P): a copy for each task."""
    return theta.repeat_interleave(tasks // theta.shape[1], 1).flatten(0, 1)


def grouped(x: Tensor, groups: tuple[int, ...]) -> Tensor:
    """(B, …) -> (S, G, …): the mean over the tasks of each policy."""
    return x.view(*groups, -1, *x.shape[1:]).mean(2)
