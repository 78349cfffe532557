"""The outer step: a trust region held by a line search (TRPO), and what keeps PPO within its divergence.

Everything is stacked over S seeds and G policies a seed: each row has its own direction, step and verdict.
"""

from collections.abc import Callable

import torch
from torch import Tensor

HALVINGS = 12


def conjugate_gradient(product: Callable[[Tensor], Tensor], b: Tensor, steps: int = 10) -> Tensor:
    """x (S, G, P) with `product(x) = b`, row by row; `product` is positive definite. Hestenes and Stiefel, 1952."""
    x, r, p = torch.zeros_like(b), b.clone(), b.clone()
    square = (r**2).sum(-1, keepdim=True)
    for _ in range(steps):
        z = product(p)
        step = square / (p * z).sum(-1, keepdim=True).clamp(min=1e-20)
        x, r = x + step * p, r - step * z
        before, square = square, (r**2).sum(-1, keepdim=True)
        p = r + square / before.clamp(min=1e-20) * p
    return x


def trust_region_step(
    theta: Tensor, gradient: Tensor, fisher: Callable[[Tensor], Tensor], objective: Callable[[Tensor], Tensor],
    divergence: Callable[[Tensor], Tensor], limit: float,
) -> Tensor:  # fmt: skip
    """The parameters (S, G, P) after one TRPO step from `theta` (Schulman et al., 2015).

    The natural gradient, as long as the quadratic model of the divergence allows, halved until the true divergence is
    at most `limit` and the objective better, both (S, G); a row for which that never comes stays where it is.
    """
    direction = conjugate_gradient(fisher, gradient)
    curvature = (direction * fisher(direction)).sum(-1, keepdim=True).clamp(min=1e-20)
    step = direction * (2.0 * limit / curvature).sqrt()
    before = objective(theta)
    return within(theta, theta + step, lambda x: (divergence(x) <= limit) & (objective(x) > before))


def within(theta: Tensor, proposed: Tensor, sound: Callable[[Tensor], Tensor]) -> Tensor:
    """`proposed`, drawn back towards `theta` by halves, row by row, until `sound(parameters) (S, G)` is true."""
    step, found = proposed - theta, torch.zeros(theta.shape[:2], dtype=torch.bool)
    out = theta.clone()
    for k in range(HALVINGS):
        candidate = torch.where(found.unsqueeze(-1), out, theta + step * 0.5**k)
        new = sound(candidate) & ~found
        out = torch.where(new.unsqueeze(-1), candidate, out)
        found = found | new
        if found.all():
            break
    return out


def clipped(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """PPO's pessimistic surrogate, elementwise (Schulman et al., 2017)."""
    return torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage)


def adapted_weight(weight: Tensor, divergence: Tensor, target: float) -> Tensor:
    """The penalty's weight for the next iteration: doubled above 1.5 times the target, halved below two thirds."""
    up, down = divergence > 1.5 * target, divergence < target / 1.5
    return (weight * torch.where(up, 2.0, torch.where(down, 0.5, 1.0))).clamp(1e-6, 1e3)
