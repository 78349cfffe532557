"""What on-policy learners have in common: how a policy acts, how it takes inner steps, and what a learner must answer.

Policy gradients adapt by `theta_i <- theta_i + s grad surrogate_i(theta_i)` on episodes of theta_i itself. A surrogate
turns log probabilities of what was done into numbers whose mean has the policy gradient as its first derivative; the
learners differ in its second, and so in the gradient of what comes after the step:

    E[grad J(theta')] = (I + s H) grad J(theta'),   H = second derivative of J

`plain` takes the sampled actions as given and misses the part of H that comes from how theta chose them; `dice`
(pg-maml) has all of it; `low_variance` (ProMP) all but the terms that join an action with an earlier one's.
"""

from collections.abc import Callable, Iterator
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pmeta_lib.envs.families import TaskFamily
from pmeta_lib.options import Count, Positive, Share, Whole, options
from pmeta_lib.policy_gradient.policy import Gaussian, gaussian, new_policy
from pmeta_lib.policy_gradient.rollout import Sampler, Window, advantages, linear_values, normalised
from pmeta_lib.sac.learners.base import Learner
from pmeta_lib.sac.networks import Shape

DIVERGED = 1e3  # mean divergence, in nats per action, beyond which an inner step was no step but a jump

LogProb = Callable[[Tensor, Window], Tensor]  # rows (B, P) -> (B, E, H)
Surrogate = Callable[[Tensor, Window], Tensor]  # log probabilities (B, E, H) -> (B, E, H)


def plain(log_prob: Tensor, window: Window) -> Tensor:
    """Log probability times advantage: the policy gradient, and of the second derivative a part only."""
    return log_prob * window.advantage


def low_variance(log_prob: Tensor, window: Window) -> Tensor:
    """Likelihood ratio times advantage (Rothfuss et al., ICLR 2019): its second derivative keeps, for each step, the
    square of its own score. Exact where what an action does to later steps' values does not matter (one-step episodes).
    """
    return torch.exp(log_prob - window.log_prob) * window.advantage


def dice(log_prob: Tensor, window: Window) -> Tensor:
    """An unbiased second derivative with advantages (loaded DiCE; Farquhar et al., NeurIPS 2019).

    Each advantage is weighted with the likelihood of its episode up to and with its action, minus that before it; the
    weights are 1 and 1 and only their derivatives count, so that the values are 0.
    """
    before = log_prob.cumsum(-1) - log_prob
    before = before - before.gather(-1, window.first)  # of this episode alone
    return (_one(before + log_prob) - _one(before)) * window.advantage


def _one(x: Tensor) -> Tensor:
    """1, with the derivatives of a likelihood whose logarithm is x."""
    return torch.exp(x - x.detach())


def inner_step(rows: Tensor, window: Window, log_prob: LogProb, surrogate: Surrogate, size: float, graph: bool):
    """`rows (B, P)` after one ascent step on the mean over slots and steps; with `graph` it can be differentiated."""
    with torch.enable_grad():
        value = surrogate(log_prob(rows.requires_grad_(), window), window).mean((1, 2)).sum()
        (gradient,) = torch.autograd.grad(value, rows, create_graph=graph)
    return rows + size * gradient if graph else (rows + size * gradient).detach()


def adapted(
    rows: Tensor, windows: list[Window], log_prob: LogProb, surrogate: Surrogate, size: float, *, graph: bool
) -> list[Tensor]:
    """The policies before, between and after the inner steps on `windows`, each by `inner_step`."""
    out = [rows]
    for window in windows:
        out.append(inner_step(out[-1], window, log_prob, surrogate, size, graph))
    return out


@options
class OnPolicy(Learner):
    """A learner that throws its experience away after each update; `pmeta_lib.policy_gradient.training` trains it."""

    trained_by: ClassVar[str] = "pmeta_lib.policy_gradient.training:train"
    surrogate: ClassVar[staticmethod] = staticmethod(plain)
    training_steps: ClassVar[bool] = True  # whether training itself takes inner steps; else only a new task brings them

    episodes: Count = 20  # environments of each task, stepped together
    inner_steps: Whole = 1  # policy-gradient steps from the meta-policy to a task's own
    inner_step_size: Positive = 0.1  # of each of them
    gae_lambda: Share = 1.0  # 1 takes returns as they come, below 1 leans on estimated values
    kl_limit: Positive = 0.01  # nats per action that one outer step may move the policies

    def policies(self, tasks: int) -> int:
        return 1

    def phases(self) -> int:
        """Windows of an iteration: one before each inner step and one after the last."""
        return 1 + self.inner_steps * self.training_steps

    def steps_per_iteration(self, horizon: int) -> int:
        """Environment steps of one task in one iteration."""
        return self.episodes * horizon * self.phases()

    def shape(self, family: TaskFamily, hidden: tuple[int, ...]) -> Shape:
        """The layer widths of a policy."""
        return Shape((family.observation_size, *hidden, family.action_size))

    def new_policy(self, shape: Shape, generator: torch.Generator) -> Tensor:
        """One fresh policy (1, P)."""
        return new_policy(shape, generator)

    def state(self, policies: Tensor) -> dict[str, Tensor]:
        """All that training changes, besides streams; `policies` (S, 1, P) are fresh."""
        return {"policy": policies}

    def update(self, run, theta: Tensor, windows: list[Window]) -> tuple[Tensor, dict[str, Tensor]]:
        """The parameters (S, G, P) after an outer step on the windows of one iteration, and losses (S, G)."""
        raise NotImplementedError

    def window(self, shape: Shape, rows: Tensor, sampler: Sampler, discount: float) -> Window:
        """One window of the stochastic policies `rows (B, P)`, with advantages normalised for each task."""
        policy = lambda x: gaussian(shape, rows, x)  # noqa: E731

        def act(observation, noise, reward, ended):
            now = policy(observation.unsqueeze(2))
            return (now.mean + now.log_std.exp() * noise.unsqueeze(2)).squeeze(2)

        window = sampler.roll(act, sampler.family.horizon)
        with torch.no_grad():
            window.policy = policy(window.observation)
            window.log_prob = window.policy.log_prob(window.action)
            value, last = linear_values(window, discount)
            gain = advantages(window.reward, window.ended, value, last, discount, self.gae_lambda)
            window.advantage = normalised(gain)
        return window

    def step(self, shape: Shape, rows: Tensor, window: Window) -> Tensor:
        """`rows` after one inner step on `window`, detached; `FloatingPointError` if that was a jump."""
        new = inner_step(rows, window, log_probability(shape), self.surrogate, self.inner_step_size, graph=False)
        with torch.no_grad():
            moved = window.policy.kl(gaussian(shape, new, window.observation)).mean((1, 2))
        if not bool((moved < DIVERGED).all()):
            worst = int(torch.nan_to_num(moved, torch.inf).argmax())
            raise FloatingPointError(
                f"the inner step diverged in row {worst} (inner_step_size {self.inner_step_size:g} moves the policy by "
                f"{float(moved[worst]):.3g} nats per action); give a smaller inner_step_size"
            )
        return new

    def collect(self, run, theta: Tensor) -> list[Window]:
        """The windows of one iteration, each by the policies that the inner steps so far have made."""
        rows, windows = spread(theta, run.tasks), []
        for k in range(self.phases()):
            if k:
                rows = self.step(run.shape, rows, windows[-1])
            windows.append(self.window(run.shape, rows, run.sampler, run.settings.discount))
        return windows

    def path(self, judge, theta: Tensor, key: int, updates: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """On the judge's tasks, after 0, 1, … `updates` inner steps from `theta (S, G, P)`: the returns (S, N, ·) of
        what is deployed, and (S, N, E, 1) of the episodes sampled for the next step (None after the last).

        The mean is deployed, or the stochastic policy where the preset asks for it (promp2018).
        """
        shape = self.shape(judge.family, judge.hidden)
        rows, shaped = spread(theta, len(judge.tasks)), (len(judge.seeds), len(judge.tasks), -1)
        sampled = judge.family.preset == "promp2018"
        judge.sampler.restart(key)
        for k in range(updates + 1):
            window = self.window(shape, rows, judge.sampler, judge.discount) if sampled or k < updates else None
            acting = window.episode_returns(1).view(*shaped, 1).numpy() if window is not None else None
            yield acting[..., 0] if sampled else judge.evaluator.returns(deterministic(shape, rows), key), acting
            if k < updates:
                rows = self.step(shape, rows, window)

    def unit(self, horizon: int) -> int:
        """Environment steps on a new task from one change of the policy to the next."""
        return self.episodes * horizon

    def reach(self, plan, horizon: int) -> int:
        """How many changes a plan of adaptation asks for."""
        return max(3, -(-plan.episodes // self.episodes), max(plan.steps) // self.unit(horizon))

    def deployed_returns(self, judge, theta: Tensor, key: int) -> dict[str, np.ndarray]:
        """What the learner deploys on the judge's tasks, and "meta", the policy before it adapts, where it does.

        Deployed is the policy after adapting, or before where the preset counts a task's first episode alone.
        """
        found = [deployed for deployed, _ in self.path(judge, theta, key, self.phases() - 1)]
        deployed = found[0 if judge.family.preset == "varibad2020" else -1]
        return {"deployed": deployed} | ({"meta": found[0]} if len(found) > 1 else {})

    def fisher(self, shape: Shape, rows: Tensor, window: Window, groups: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
        """v (S, G, P) -> Fisher information of `rows (B, P)` times v, mean over a policy's tasks, every fifth step."""
        rows = rows.detach().requires_grad_()
        with torch.enable_grad():
            new = gaussian(shape, rows, window.observation[:, :, ::5])
            old = Gaussian(*(x.detach() for x in new))
            (slope,) = torch.autograd.grad(old.kl(new).mean((1, 2)).sum(), rows, create_graph=True)

        def product(v: Tensor) -> Tensor:
            tasks = len(rows) // groups[0]
            (out,) = torch.autograd.grad(slope, rows, spread(v, tasks), retain_graph=True)
            return grouped(out, groups) + 1e-2 * v

        return product


def log_probability(shape: Shape) -> LogProb:
    return lambda rows, window: gaussian(shape, rows, window.observation).log_prob(window.action)


def spread(theta: Tensor, tasks: int) -> Tensor:
    """(S, G, P) -> (B, P): a copy for each task."""
    return theta.repeat_interleave(tasks // theta.shape[1], 1).flatten(0, 1)


def grouped(x: Tensor, groups: tuple[int, ...]) -> Tensor:
    """(B, …) -> (S, G, …): the mean over the tasks of each policy."""
    return x.view(*groups, -1, *x.shape[1:]).mean(2)


def deterministic(shape: Shape, rows: Tensor) -> Callable[[Tensor], Tensor]:
    """The means of `rows (B, P)`, clipped to [-1, 1], as a function (S, N E, o) -> (S, N E, a)."""

    def policy(observation: Tensor) -> Tensor:
        x = observation.view(len(rows), -1, 1, observation.shape[-1])
        return gaussian(shape, rows.detach(), x).mean.clamp(-1.0, 1.0).view(*observation.shape[:2], -1)

    return policy
