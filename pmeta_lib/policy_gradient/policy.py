"""Gaussian policies, B of them at once: a tanh perceptron gives the mean, the spread is a parameter of its own.

Shapes here and beside: S seeds, N tasks, B = S N rows, E slots a task, H steps, o observation, a action, P parameters
of a policy (a perceptron's, laid out by `pmeta_lib.sac.networks.Shape`, then a log standard deviations).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pmeta_lib.sac.networks import Shape, forward


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
