"""The outer step: a trust region held by a line search (TRPO), or Adam on a penalised gain (PPO), drawn back alike.

Everything is stacked over S seeds and G policies a seed: each row has its own direction, step and verdict."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from pmeta_lib.sac.agent import Adam


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


@torch.no_grad()
def trust_region_step(
    theta: Tensor, gradient: Tensor, fisher: Callable[[Tensor], Tensor], scored: Callable[[Tensor], tuple], limit: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The parameters (S, G, P) after one TRPO step from `theta`, and losses (Schulman et al., 2015).

    The natural gradient, as long as the quadratic model of the divergence allows, halved until the true divergence is
    at most `limit` and the objective better, which `scored` gives, (S, G) each; else a row stays where it is."""
    if not torch.isfinite(gradient).all():  # the line search below would hide it
        raise FloatingPointError("the gradient of the outer objective is not finite")
    direction = conjugate_gradient(fisher, gradient)
    curvature = (direction * fisher(direction)).sum(-1, keepdim=True).clamp(min=1e-20)
    step = direction * (2.0 * limit / curvature).sqrt()
    before, _ = scored(theta)

    def sound(x: Tensor) -> Tensor:
        objective, divergence = scored(x)
        return (divergence <= limit) & (objective > before)

    new = within(theta, theta + step, sound)
    return new, dict(zip(("objective", "kl"), scored(new)))


def new_state(policies: Tensor, weight: float) -> dict[str, Tensor]:
    """What `penalised_step` changes, before its first: parameters (S, G, P), Adam's state, the penalty's weight."""
    adam = {f"adam.{name}": torch.zeros_like(policies) for name in ("first", "second")}
    return {"policy": policies, "weight": torch.full(policies.shape[:2], weight), "adam.steps": torch.zeros(()), **adam}


def penalised_step(
    run, objective: Callable[[Tensor, Any], tuple[Tensor, Tensor]], parts: Iterable,
    divergence: Callable[[Tensor], Tensor], target: float, longest: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """The parameters (S, G, P) after a step of Adam for each of `parts`, and losses (PPO; Schulman et al., 2017).

    `objective(parameters, part)` gives the gain to report (S, G) and the penalised one to climb; gradients longer than
    `longest` are cut to it. Where the `divergence` (S, G) ends beyond twice its `target`, the step is drawn back; the
    penalty's weight in the run's state follows it (`adapted_weight`), as Adam's moments there follow the gradients."""
    state, new = run.state, run.state["policy"].clone()
    optimizer = Adam(new, run.settings.learning_rate)
    optimizer.first, optimizer.second, optimizer.steps = (state[f"adam.{k}"] for k in ("first", "second", "steps"))
    for part in parts:
        x = new.detach().requires_grad_()
        gain, penalised = objective(x, part)
        (gradient,) = torch.autograd.grad(penalised.sum(), x)
        if longest is not None:
            gradient = gradient / (gradient.norm(dim=-1, keepdim=True) / longest).clamp(min=1.0)
        optimizer.step(-gradient)
    with torch.no_grad():
        new = within(state["policy"], new, lambda x: divergence(x) <= 2.0 * target)
        apart = divergence(new)
    state["weight"] = adapted_weight(state["weight"], apart, target)
    return new, {"objective": gain.detach(), "kl": apart}


def within(theta: Tensor, proposed: Tensor, sound: Callable[[Tensor], Tensor], halvings: int = 12) -> Tensor:
    """`proposed`, drawn back towards `theta` by halves, row by row, until `sound(parameters) (S, G)` is true."""
    out, found = theta, torch.zeros(*theta.shape[:2], 1, dtype=torch.bool)
    for k in range(halvings):
        candidate = torch.where(found, out, theta + (proposed - theta) * 0.5**k)
        found = found | sound(candidate).unsqueeze(-1)
        out = torch.where(found, candidate, theta)
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
