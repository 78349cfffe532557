"""Evaluation: the return of deterministic policies on every task, several episodes each, all in one environment."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pmeta_lib.envs.families import TaskFamily
from pmeta_lib.envs.vector import TaskVectorEnv
from pmeta_lib.sac.agent import children
from pmeta_lib.sac.state import Run


def to_env(family: TaskFamily, action: Tensor) -> np.ndarray:
    """Actions in [-1, 1] -> the environment's units, (slots, a) float64."""
    unit = action.detach().cpu().numpy().reshape(-1, family.action_size).astype(np.float64)
    return family.action_low + (unit + 1.0) * 0.5 * (family.action_high - family.action_low)


class Evaluator:
    """Runs `episodes` episodes a task and seed, from initial states that depend on (seed, key, task, episode) alone, so
    that learners are compared on equal ones; the key is a training step."""

    def __init__(self, family: TaskFamily, tasks: np.ndarray, seeds: list[int], episodes: int, device="cpu", threads=1):
        self.family, self.seeds, self.device = family, seeds, device
        self.shape = (len(seeds), len(tasks), episodes)
        rows = np.tile(tasks.repeat(episodes, axis=0), (len(seeds), 1))
        self.env = TaskVectorEnv(family, rows, children(seeds, len(tasks) * episodes, "evaluation", 0), threads=threads)

    def returns(self, policy: Callable[[Tensor], Tensor], key: int) -> np.ndarray:
        """(S, N, episodes) undiscounted returns of `policy: (S, N E, o) -> (S, N E, a)` in [-1, 1]."""
        slots = self.env.num_envs
        observation, _ = self.env.reset(seed=children(self.seeds, slots // len(self.seeds), "evaluation", key))
        total, alive = np.zeros(slots), np.ones(slots, bool)
        for _ in range(self.family.horizon):
            batch = torch.tensor(observation, device=self.device).view(self.shape[0], -1, observation.shape[-1])
            action = to_env(self.family, policy(batch))
            if not np.isfinite(action).all():
                raise FloatingPointError("a policy's action is not finite in an evaluation")
            observation, reward, terminated, truncated, _ = self.env.step(action)
            total += reward * alive
            alive &= ~(terminated | truncated)
            if not alive.any():
                break
        return total.reshape(self.shape)

    def close(self) -> None:
        self.env.close()


def curve_rows(seeds: list[int], step: int, name: str, returns: np.ndarray) -> list[tuple]:
    """Rows of a curve (`state.CURVE`) from the `returns (S, N, episodes)` of the policies called `name`."""
    return [(seed, step, name, task, float(x.mean()), float(x.std()), len(x))
            for seed, tasks in zip(seeds, returns, strict=True) for task, x in enumerate(tasks)]  # fmt: skip


def evaluate(run: Run, evaluator: Evaluator) -> None:
    """Append the returns of the learner's policies, and the last update's losses, to the run's tables."""
    for name, actor in run.learner.deployed(run.agent).items():
        run.rows += curve_rows(run.seeds, run.step, name, evaluator.returns(partial(run.mode, actor), run.step))
    if run.last:
        alpha, last = run.agent.log_alpha.exp(), run.last
        columns = (last["critic_loss"], last["actor_loss"], -last["log_prob"], alpha)
        run.add_losses(torch.stack([x.view(alpha.shape).cpu() for x in columns], -1))
