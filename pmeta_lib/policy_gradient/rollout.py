"""Episodes for on-policy learners: every slot of every task steps together, then advantages from a linear baseline.

A *window* is H steps of each of the E slots of a task, begun with fresh episodes. Where none ends early it is E whole
episodes; else a slot goes on with its next one, and the baseline's value continues the one that the window cuts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pmeta_lib.envs.families import TaskFamily
from pmeta_lib.envs.vector import TaskVectorEnv
from pmeta_lib.sac.agent import children, generator, seed_sequence
from pmeta_lib.sac.evaluation import to_env


@dataclass
class Window:
    """What was seen and done; tensors (B, E, H, ·), and the advantages once they are known."""

    observation: Tensor
    action: Tensor
    reward: Tensor
    ended: Tensor  # the step ended its episode, by itself or by the horizon
    last: Tensor  # (B, E, o) the observation after the window
    log_prob: Tensor | None = None  # of the actions, under the policy that acted
    advantage: Tensor | None = None
    policy: Any = None  # the `Gaussian` that acted

    @property
    def first(self) -> Tensor:
        """(B, E, H) the step of the window at which the episode of each step began."""
        return torch.where(self.ended.roll(1, -1), torch.arange(self.ended.shape[-1]), 0).cummax(-1).values

    def episode_returns(self, count: int) -> Tensor:
        """(B, E, count) undiscounted returns of the first `count` episodes of each slot."""
        number = (self.ended.cumsum(-1) - self.ended.long()).clamp(max=count)  # those beyond land in a spare column
        total = torch.zeros(*self.reward.shape[:2], count + 1)
        return total.scatter_add_(-1, number, self.reward)[..., :count]


class Sampler:
    """E environments for each task of each seed, and the seeds' streams of action noise."""

    def __init__(self, family: TaskFamily, tasks: np.ndarray, seeds: list[int], slots: int, threads: int = 1):
        self.family, self.seeds, self.tasks, self.slots = family, list(seeds), len(tasks), slots
        rows = np.tile(tasks.repeat(slots, axis=0), (len(seeds), 1))
        self.env = TaskVectorEnv(family, rows, children(seeds, len(tasks) * slots, "environments"), threads=threads)
        self.noise = [generator(seed, "noise") for seed in seeds]

    def restart(self, key: int) -> None:
        """Begin all streams anew, at the branch `key` of every seed's tree: what follows depends on nothing else."""
        self.env.reset(seed=children(self.seeds, self.tasks * self.slots, "learner", key, 0))
        for g, seed in zip(self.noise, self.seeds, strict=True):
            g.manual_seed(int(seed_sequence(seed, "learner", key, 1).generate_state(1, np.uint64)[0] >> 1))

    @torch.no_grad()
    def roll(self, act: Callable[..., Tensor], steps: int) -> Window:
        """`steps` steps of every slot from fresh episodes, by `act(observation, noise, reward, begins)`: tensors
        (B, E, ·), the last step's reward and whether an episode begins -> actions, clipped to [-1, 1] to be done."""
        slots = (len(self.seeds) * self.tasks, self.slots)
        size = (self.tasks, self.slots, steps, self.family.action_size)
        noise = torch.cat([torch.randn(size, generator=g) for g in self.noise])
        observation = torch.from_numpy(self.env.reset()[0]).view(*slots, -1)
        reward, ended, taken = torch.zeros(slots), torch.ones(slots, dtype=torch.bool), []
        for t in range(steps):
            action = act(observation, noise[:, :, t], reward, ended)
            if not torch.isfinite(action).all():
                raise FloatingPointError("a policy's action is not finite")
            now, paid, terminated, truncated, info = self.env.step(to_env(self.family, action.clamp(-1.0, 1.0)))
            reward, ended = (torch.from_numpy(x).view(slots) for x in (paid, terminated | truncated))
            taken.append((observation, action, reward, ended))
            observation = torch.from_numpy(now).view(*slots, -1)
        last = torch.from_numpy(np.ascontiguousarray(info["final_obs"])).view(*slots, -1)
        seen, did, got, ends = (torch.stack(x, 2) for x in zip(*taken, strict=True))
        return Window(seen, did, got, ends, last)


def discounted(delta: Tensor, ended: Tensor, factor: float) -> Tensor:
    """(…, H) sums `x_t = delta_t + factor x_{t+1}`, begun anew behind each ending."""
    steps = delta.movedim(-1, 0).contiguous()
    carry = factor * (~ended).movedim(-1, 0).to(delta.dtype)
    out, x = torch.empty_like(steps), torch.zeros_like(steps[0])
    for t in range(len(steps) - 1, -1, -1):
        x = torch.addcmul(steps[t], carry[t], x, out=out[t])
    return out.movedim(0, -1).contiguous()


def advantages(reward: Tensor, ended: Tensor, value: Tensor, last: Tensor, discount: float, lam: float) -> Tensor:
    """Generalised advantage estimates (B, E, H) from `value (B, E, H)` of the observations and `last (B, E)` of what
    follows the window; an ended episode has no future. Schulman et al., 2016."""
    following = torch.cat((value[..., 1:], last.unsqueeze(-1)), -1) * ~ended
    return discounted(reward + discount * following - value, ended, discount * lam)


def _features(observation: Tensor, time: Tensor) -> Tensor:
    """(…, 2 o + 4) observations, their squares, three powers of the time in the episode, 1 (Duan et al., 2016)."""
    x, t = observation.clamp(-10.0, 10.0).double(), time.double().unsqueeze(-1) / 100.0
    return torch.cat((x, x**2, t, t**2, t**3, torch.ones_like(t)), -1)


def linear_values(window: Window, discount: float) -> tuple[Tensor, Tensor]:
    """Values (B, E, H) of the window's observations and (B, E) of what follows it: for each row least squares of the
    discounted returns of its finished episodes on `_features`, with a touch of ridge."""
    time = torch.arange(window.reward.shape[-1]) - window.first
    x = _features(window.observation, time).flatten(1, 2)
    finished = window.ended.flip(-1).cummax(-1).values.flip(-1)  # those that end within the window
    y = discounted(window.reward, window.ended, discount).double().flatten(1, 2).unsqueeze(-1)
    weighted = (x * finished.flatten(1, 2).unsqueeze(-1)).mT
    gram = weighted @ x + 1e-5 * torch.eye(x.shape[-1], dtype=x.dtype)
    w = torch.linalg.solve(gram, weighted @ y)
    last = _features(window.last, time[..., -1] + 1) @ w
    return (x @ w).view_as(window.reward).float(), last.squeeze(-1).float()


def normalised(x: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 over all but the leading axis."""
    axes = tuple(range(1, x.ndim))
    return (x - x.mean(axes, keepdim=True)) / (x.std(axes, keepdim=True) + 1e-8)
