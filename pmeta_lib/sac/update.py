"""One soft actor-critic update of every slot: the losses of `losses.py`, differentiated by hand.

The gradients are short enough to write down, and writing them down saves the graph: an update is then about as fast
as its matrix products. A test holds them against autograd on `losses.py`. With q = Q(s, a), y the target, n
transitions, u = mean + std noise, a = tanh(u):

    d critic_loss / d q       = (q - y) / n
    d temperature_loss / d log alpha = -(mean log pi + target entropy)
    d log pi / d u            = 2 a                          (the tanh correction's derivative; noise held fixed)
    d actor_loss / d u        = (2 alpha a - dq/da (1 - a^2)) / n        with q the smaller critic
    d actor_loss / d log std  = (d actor_loss / d u) std noise - alpha / n,   zero where log std is clamped

Shapes: B slots, n transitions a slot; the rest as in `pmeta_lib.sac.agent`."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pmeta_lib.sac import losses
from pmeta_lib.sac.agent import Agent
from pmeta_lib.sac.networks import LOG_STD_MAX, LOG_STD_MIN, Layers, backward, forward_saved, gaussian, squash
from pmeta_lib.sac.replay import Batch

# derivatives of tanh, from its value, and of clamp; as one operation each
tanh_backward, clamp_backward = torch.ops.aten.tanh_backward, torch.ops.aten.hardtanh_backward
HeadGradient = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] | None
Change = Callable[[Tensor], Tensor] | None


class Sampled(NamedTuple):
    """What the policy does in a batch, drawn once before anything changes; a pair is (here, at the next step)."""

    action: tuple[Tensor, Tensor]  # (B, n, a)
    log_prob: tuple[Tensor, Tensor]  # (B, n)
    alpha: Tensor  # (B, 1), the temperature
    heads: Tensor  # (B, n, 2a), the actor's output here
    noise: Tensor  # (B, n, a), here
    saved: list[Tensor]  # the actor's layers' inputs here


@torch.no_grad()
def sac_update(
    agent: Agent, batch: Batch, head_gradient: HeadGradient = None, actor_gradient: Change = None,
    critic_gradient: Change = None, context: slice | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """One gradient step of temperature, critics, actor and targets, for all slots at once.

    `batch` has leading axes (S, N, n); tasks that share a policy are put together. A learner may add a term to the
    actor's loss through its gradient at the actor's output, `head_gradient(observation, mean, log_std) -> (d mean, d
    log_std)`, each (B, n, a), and may change the parameters' gradients, (S, G, P) and (S, G, 2, Q), before the
    optimizer sees them. The order (temperature, critics, actor; the actor's action drawn once, before) is that of
    Stable-Baselines3. Returns the losses and the mean log density, (B,), still on the device; with `context`, columns
    of the critics' input, also "context" (B, n, ·), the critic loss's gradient there."""
    noise = agent.noise(2, *batch.action.shape[1:]).unflatten(2, (agent.actor.shape[1], -1)).transpose(1, 2)
    noise = noise.flatten(0, 1).flatten(2, 3)  # (B, 2, n, a)
    batch = Batch(*(x.reshape(agent.slots, -1, *x.shape[3:]) for x in batch))
    agent.cast("actor", "critic", "target")
    policy = sample(agent, batch, noise)
    out = {"log_prob": policy.log_prob[0].mean(-1)}
    out["temperature_loss"] = update_temperature(agent, out["log_prob"])
    out["critic_loss"], of_input = update_critics(agent, batch, policy, critic_gradient, context)
    out["actor_loss"] = update_actor(agent, batch, policy, head_gradient, actor_gradient)
    agent.target.lerp_(agent.critic, agent.polyak)
    agent.updates += 1
    return out if context is None else out | {"context": of_input}


def sample(agent: Agent, batch: Batch, noise: Tensor) -> Sampled:
    """The policy at both observations in one pass; what it does at the next one needs no gradient."""
    n, alpha = batch.reward.shape[1], agent.log_alpha.exp().view(-1, 1)
    heads, saved = forward_saved(agent.layers["actor"], torch.cat((batch.observation, batch.next_observation), 1))
    actions, log_probs = squash(*gaussian(heads), noise.flatten(1, 2))
    heads, saved = heads[:, :n], [x[:, :n] for x in saved]
    return Sampled(actions.split(n, 1), log_probs.split(n, 1), alpha, heads, noise[:, 0], saved)


def update_temperature(agent: Agent, mean_log_prob: Tensor) -> Tensor:
    """One step of log alpha; the loss (B,), which is linear in it."""
    gradient = torch.rsub(mean_log_prob, -agent.target_entropy)
    loss = agent.log_alpha.flatten() * gradient
    agent.optimizers["log_alpha"].step(gradient)
    return loss


def critics(layers: Layers, *parts: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Values (B, 2, n) of the twin critics with `layers` of 2B rows at `parts (B, n, ·)` side by side; saved inputs."""
    twice = torch.cat([x.unsqueeze(1).expand(-1, 2, -1, -1) for x in parts], -1)
    q, saved = forward_saved(layers, twice.flatten(0, 1))
    return q.unflatten(0, twice.shape[:2]).squeeze(-1), saved


def update_critics(
    agent: Agent, batch: Batch, policy: Sampled, change: Change, columns: slice | None
) -> tuple[Tensor, Tensor | None]:
    """One step of the twin critics towards the target; the loss (B,) and its gradient at the input's `columns`."""
    next_q, _ = critics(agent.layers["target"], batch.next_observation, policy.action[1])
    target = losses.td_target(batch.reward, batch.terminated, next_q, policy.log_prob[1], policy.alpha, agent.discount)
    q, saved = critics(agent.layers["critic"], batch.pair)
    dq = (q - target.unsqueeze(1)).div_(q.shape[-1]).flatten(0, 1).unsqueeze(-1)
    gradient, into = agent.gradients["critic"]
    of_input = backward(agent.layers["critic"], saved, dq, into, columns)
    agent.optimizers["critic"].step(change(gradient.view_as(agent.critic)) if change else gradient)
    agent.cast("critic")
    return losses.critic_loss(q, target), None if of_input is None else of_input.unflatten(0, (-1, 2)).sum(1)


def update_actor(agent: Agent, batch: Batch, policy: Sampled, head_gradient: HeadGradient, change: Change) -> Tensor:
    """One step of the actor up the smaller critic, the entropy's share included; the loss (B,)."""
    action, n = policy.action[0], batch.reward.shape[1]
    q, saved = critics(agent.layers["critic"], batch.observation, action)
    dq = torch.empty_like(q)  # of -min_k q_k / n
    torch.le(q[:, 0], q[:, 1], out=dq[:, 0])
    torch.gt(q[:, 0], q[:, 1], out=dq[:, 1])
    dq = dq.mul_(-1.0 / n).flatten(0, 1).unsqueeze(-1)
    of_action = slice(batch.observation.shape[-1], None)
    dq_da = backward(agent.layers["critic"], saved, dq, columns=of_action).unflatten(0, (-1, 2)).sum(1)

    mean, log_std = gaussian(policy.heads)
    share = policy.alpha.unsqueeze(-1) / n
    at_head = torch.empty_like(policy.heads)
    du, dlog_std = at_head.chunk(2, -1)
    torch.addcmul(tanh_backward(dq_da, action), share, action, value=2.0, out=du)
    torch.sub(log_std.exp().mul_(policy.noise).mul_(du), share, out=dlog_std)
    if head_gradient is not None:
        at_head += torch.cat(head_gradient(batch.observation, mean, log_std), -1)
    clamp_backward.grad_input(dlog_std, policy.heads.chunk(2, -1)[1], LOG_STD_MIN, LOG_STD_MAX, grad_input=dlog_std)
    gradient, into = agent.gradients["actor"]
    backward(agent.layers["actor"], policy.saved, at_head, into)
    agent.optimizers["actor"].step(change(gradient.view_as(agent.actor)) if change else gradient)
    return losses.actor_loss(q, policy.log_prob[0], policy.alpha)
