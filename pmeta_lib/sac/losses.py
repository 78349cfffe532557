"""The three losses of soft actor-critic, as pure functions of stacked tensors: one number a slot.

Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications" (arXiv 1812.05905), equations 5, 7 and 18.
Shapes: B slots, n transitions a slot; `alpha (B, 1)` is the temperature. The sum over slots gives each its gradient."""

import torch
from torch import Tensor


def td_target(
    reward: Tensor, terminated: Tensor, next_q: Tensor, next_log_prob: Tensor, alpha: Tensor, discount: float
) -> Tensor:
    """(B, n): `r + discount (1 - terminated) (min_k Q'_k - alpha log pi)`; `next_q (B, 2, n)` of the target critics.

    A time limit is no termination: the value behind it still counts."""
    soft_value = torch.addcmul(next_q.amin(1), alpha, next_log_prob, value=-1.0)
    return torch.addcmul(reward, 1.0 - terminated, soft_value, value=discount)


def critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """(B,): half the squared error of both critics `q (B, 2, n)`, mean over the batch (equation 5)."""
    return (q - target.unsqueeze(1)).square().sum((1, 2)) * (0.5 / q.shape[-1])


def actor_loss(q: Tensor, log_prob: Tensor, alpha: Tensor) -> Tensor:
    """(B,): `mean(alpha log pi(a|s) - min_k Q_k(s, a))` with a reparametrized action (equation 7)."""
    return (alpha * log_prob - torch.minimum(q[:, 0], q[:, 1])).mean(-1)


def temperature_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """(B,): raises the temperature where the policy's entropy is below its target (equation 18, in log alpha)."""
    return -(log_alpha * (log_prob.detach() + target_entropy).mean(-1))
