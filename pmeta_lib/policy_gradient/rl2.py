"""RL2 (Duan et al., 2016): a recurrent policy that learns to learn within a trial of several episodes, by PPO.

A trial is `trial_episodes` episodes of one task. The network (a GRU, then one layer for the action's mean and value)
sees observation, last action, last reward and whether an episode has just begun. Its hidden state is zero at the
beginning of a trial and lives on from episode to episode; so do returns, since exploring pays in the episode after.
The baseline is the other on-policy learners' linear one, as in the comparison of Rothfuss et al. (2019), fitted to
each task's trials: it knows the time that is left, and needs no training; or the network's own value."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pmeta_lib.envs.families import TaskFamily
from pmeta_lib.options import Baseline, Count, Positive, Several, Share, options
from pmeta_lib.policy_gradient.learner import Gaussian, OnPolicy
from pmeta_lib.policy_gradient.outer import clipped, new_state, penalised_step
from pmeta_lib.policy_gradient.rollout import Sampler, Window, advantages, linear_values, normalised


class Recurrent(NamedTuple):
    """Sizes of the network; its parameters are one flat row: the GRU's, the output layer's, a log deviations."""

    inputs: int  # observation, action, reward, beginning
    hidden: int
    actions: int

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        i, h, a = self
        return (3 * h, i), (3 * h, h), (3 * h,), (3 * h,), (a + 1, h), (a + 1,), (a,)

    def parts(self, flat: Tensor) -> list[Tensor]:
        """Views of `flat (…, P)`: input, hidden weights and biases of the GRU, output weights, bias, deviations."""
        pieces = flat.split([math.prod(s) for s in self.sizes], -1)
        return [p.view(*flat.shape[:-1], *s) for p, s in zip(pieces, self.sizes, strict=True)]


def step(shape: Recurrent, theta: Tensor, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """One step of every seed's network `theta (S, P)`: inputs (S, n, i), hidden (S, n, h) -> outputs, hidden."""
    wi, wh, bi, bh, wo, bo, _ = shape.parts(theta)
    from_x = torch.baddbmm(bi.unsqueeze(1), x, wi.mT)
    from_h = torch.baddbmm(bh.unsqueeze(1), h, wh.mT)
    (rx, zx, nx), (rh, zh, nh) = from_x.chunk(3, -1), from_h.chunk(3, -1)
    z = torch.sigmoid(zx + zh)
    h = torch.lerp(torch.tanh(nx + torch.sigmoid(rx + rh) * nh), h, z)
    return torch.baddbmm(bo.unsqueeze(1), h, wo.mT), h


def unrolled(shape: Recurrent, theta: Tensor, x: Tensor) -> tuple[Gaussian, Tensor]:
    """Policies (S, n, H, a), values (S, n, H) over trials of inputs `x (S, n, H, i)`: PyTorch's GRU for each seed."""
    out = []
    for one, inputs in zip(theta, x, strict=True):
        wi, wh, bi, bh, wo, bo, _ = shape.parts(one)
        start = torch.zeros(1, len(inputs), shape.hidden)
        hidden, _ = torch.gru(inputs.transpose(0, 1), start, (wi, wh, bi, bh), True, 1, 0.0, False, False, False)
        out.append(torch.addmm(bo, hidden.flatten(0, 1), wo.mT).view(*hidden.shape[:2], -1).transpose(0, 1))
    mean, value = torch.stack(out).split([shape.actions, 1], -1)
    return Gaussian(mean, shape.parts(theta)[-1][:, None, None]), value.squeeze(-1)


@options
class RL2(OnPolicy):
    """`epochs` passes over an iteration's trials in `minibatches` parts of them; PPO with a penalty on the divergence.

    The first of the settings' `hidden` is the GRU's size. `inner_steps` and `inner_step_size` change nothing here."""

    name = "rl2"

    baseline: Baseline = "linear"  # what returns are measured against: a fit to each task's trials, or a value head
    trial_episodes: Several = 2  # of a trial; a single one would leave nothing to use it in
    epochs: Count = 3  # passes over an iteration's trials
    minibatches: Count = 2
    clip: Positive = 0.2  # how far a likelihood ratio may move
    gae_lambda: Share = 0.95
    kl_limit: Positive = 0.02  # target of the divergence of an iteration

    def phases(self) -> int:
        return self.trial_episodes

    def shape(self, family: TaskFamily, hidden: tuple[int, ...]) -> Recurrent:
        return Recurrent(family.observation_size + family.action_size + 2, hidden[0], family.action_size)

    def new_policy(self, shape: Recurrent, generator: torch.Generator) -> Tensor:
        bound = shape.hidden**-0.5  # PyTorch's own
        flat = torch.empty(1, sum(map(math.prod, shape.sizes))).uniform_(-bound, bound, generator=generator)
        shape.parts(flat)[-1].zero_()
        return flat

    def state(self, policies: Tensor) -> dict[str, Tensor]:
        return {**new_state(policies, weight=1.0), "order": torch.zeros((), dtype=torch.long)}

    def trial(self, shape: Recurrent, theta: Tensor, sampler: Sampler, mean: bool = False, episodes: int = 0):
        """A trial of every slot, and the inputs (S, n, H, i) that the network saw; `mean`: it acts without noise."""
        theta, slots = theta.flatten(0, 1), (len(theta), sampler.tasks * sampler.slots)
        deviation = 0.0 if mean else shape.parts(theta)[-1].exp().unsqueeze(1)
        hidden, done, seen = torch.zeros(*slots, shape.hidden), torch.zeros(*slots, shape.actions), []

        def act(observation, noise, reward, begins):
            nonlocal hidden, done
            parts = (observation.reshape(*slots, -1), done, reward.view(*slots, 1), begins.view(*slots, 1).float())
            seen.append(torch.cat(parts, -1))
            out, hidden = step(shape, theta, seen[-1], hidden)
            action = out[..., :-1] + deviation * noise.reshape(*slots, -1)
            done = action.clamp(-1.0, 1.0)
            return action.view(noise.shape)

        window = sampler.roll(act, sampler.family.horizon * (episodes or self.trial_episodes))
        return window, torch.stack(seen, 2)

    def collect(self, run, theta: Tensor) -> list[tuple[Window, Tensor]]:
        return [self.trial(run.shape, theta, run.sampler)]

    def update(self, run, theta: Tensor, windows) -> tuple[Tensor, dict[str, Tensor]]:
        ((window, inputs),) = windows
        shape, seeds, state = run.shape, len(theta), run.state
        action, reward = (x.reshape(seeds, -1, *x.shape[2:]) for x in (window.action, window.reward))
        old, value = unrolled(shape, theta[:, 0], inputs)
        before = old.log_prob(action)
        ended = torch.zeros_like(window.ended)  # a trial's episodes are one piece; its end is the end
        ended[..., -1] = True
        scale = reward.pow(2).mean((1, 2), keepdim=True).sqrt().clamp(min=1e-3) * 10.0  # values of order 1 to 10
        nothing, discount, trained = torch.zeros(value.shape[:2]), run.settings.discount, self.baseline == "network"
        if not trained:
            value = linear_values(replace(window, ended=ended), discount)[0].view_as(value) / scale
        gain = advantages(reward / scale, ended.view(reward.shape), value, nothing, discount, self.gae_lambda)
        target, advantage = gain + value, normalised(gain)

        def objective(x: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
            policy, value = unrolled(shape, x[:, 0], inputs[:, part])
            ratio = torch.exp(policy.log_prob(action[:, part]) - before[:, part])
            gained = clipped(ratio, advantage[:, part], self.clip).mean((1, 2))
            moved = Gaussian(old.mean[:, part], old.log_std).kl(policy).mean((1, 2))
            error = ((value - target[:, part]) ** 2).mean((1, 2))
            return gained.unsqueeze(1), gained - 0.5 * trained * error - state["weight"][:, 0] * moved

        parts: list[Tensor] = []
        for _ in range(self.epochs):
            # an order of the update's own: every seed the same, and none of the acting's randomness used up
            shuffled = torch.randperm(inputs.shape[1], generator=torch.Generator().manual_seed(int(state["order"])))
            state["order"] += 1
            parts += shuffled.chunk(self.minibatches)
        apart = lambda x: old.kl(unrolled(shape, x[:, 0], inputs)[0]).mean((1, 2)).unsqueeze(1)  # noqa: E731
        return penalised_step(run, objective, parts, apart, self.kl_limit, longest=1.0)

    def path(self, judge, theta: Tensor, key: int, updates: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The first, second, … episode of one trial: returns (S, N, E) of the mean, (S, N, 1, E) of what is sampled."""
        shape, found = self.shape(judge.family, judge.settings.hidden), []
        for mean in (True, False):
            judge.sampler.restart(key)
            window, _ = self.trial(shape, theta, judge.sampler, mean, updates + 1)
            found.append(window.episode_returns(updates + 1).view(*judge.shape[:2], -1, updates + 1))
        for mean, sampled in zip(*(x.unbind(-1) for x in found), strict=True):
            yield mean.numpy(), sampled.unsqueeze(2).numpy()

    def schedule(self, plan, horizon: int) -> tuple[int, int]:
        return horizon, max(self.trial_episodes, plan.episodes) - 1
