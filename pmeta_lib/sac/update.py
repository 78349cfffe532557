"""One soft actor-critic update of every slot: the losses of `losses.py`, differentiated by hand.

The gradients are short enough to write down, and writing them down saves the graph: an update is then about as fast
as its matrix products. A test holds them against autograd on `losses.py`. With q = Q(s, a), y the target, n
transitions, u = mean + std noise, a = tanh(u):

    d critic_loss / d q       = (q - y) / n
    d temperature_loss / d log alpha = -(mean log pi + target entropy)
    d log pi / d u            = 2 a                          (the tanh correction's derivative; noise held fixed)
    d actor_loss / d u        = (2 alpha a - dq/da (1 - a^2)) / n        with q the smaller critic
    d actor_loss / d log std  = (d actor_loss / d u) std noise - alpha / n,   zero where log std is clamped
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pmeta_lib.sac import losses
from pmeta_lib.sac.agent import Agent
from pmeta_lib.sac.networks import (
    LOG_STD_MAX,
    LOG_STD_MIN,
    Layers,
    backward,
    forward_saved,
    gaussian,
    squash,
)  # fmt: skip
from pmeta_lib.sac.replay import Batch

# derivatives of tanh, from its value, and of clamp; as one operation each
tanh_backward, clamp_backward = torch.ops.aten.tanh_backward, torch.ops.aten.hardtanh_backward
HeadGradient = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def critics(layers: Layers, *parts: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Values (B, 2, n) of the twin critics with `layers` of 2B rows at `parts (B, n, ·)` side by side; saved inputs."""
    twice = torch.cat([x.unsqueeze(1).expand(-1, 2, -1, -1) for x in parts], -1)
    q, saved = forward_saved(layers, twice.flatten(0, 1))
    return q.unflatten(0, twice.shape[:2]).squeeze(-1), saved


@torch.no_grad()
def sac_update(
    agent: Agent,
    batch: Batch,
    head_gradient: HeadGradient | None = None,
    actor_gradient: Callable[[Tensor], Tensor] | None = None,
    critic_gradient: Callable[[Tensor], Tensor] | None = None,
    context: slice | None = None,
) -> dict[str, Tensor]:
    """One gradient step of temperature, critics, actor and targets, for all slots at once.

    `batch` has leading axes (S, N, n); tasks that share a policy are put together, M transitions a slot. A learner
    may add a term to the actor's loss through its gradient at the actor's output, `head_gradient(observation, mean,
    log_std) -> (d mean, d log_std)`, each (B, M, a), and may change the parameters' gradients, (S, G, P) and (S, G,
    2, Q), before the optimizer sees them. The order (temperature, critics, actor; the actor's action drawn once,
    before) is that of Stable-Baselines3. Returns the losses and the mean log density, (B,), still on the device; with
    `context`, columns of the critics' input, also "context" (B, M, ·), the critic loss's gradient there.
    """
    seeds, tasks, n = batch.reward.shape
    slots, policies = agent.slots, agent.actor.shape[1]
    noise = agent.noise(2, tasks, n, batch.action.shape[-1])
    noise = noise.reshape(seeds, 2, policies, -1, noise.shape[-1]).transpose(1, 2).reshape(slots, -1, noise.shape[-1])
    batch = Batch(*(x.reshape(slots, -1, *x.shape[3:]) for x in batch))
    actor, critic = agent.layers["actor"], agent.layers["critic"]
    alpha = agent.log_alpha.exp().view(slots, 1)
    n = batch.reward.shape[1]

    # the policy at both observations in one pass; what it does at the next one needs no gradient
    heads, saved = forward_saved(actor, torch.cat((batch.observation, batch.next_observation), 1))
    actor_saved = [x[:, :n] for x in saved]
    actions, log_probs = squash(*gaussian(heads), noise)
    (action, next_action), (log_prob, next_log_prob) = actions.split(n, 1), log_probs.split(n, 1)
    mean_log_prob = log_prob.mean(-1)
    gradient = torch.rsub(mean_log_prob, -agent.target_entropy)
    temperature_loss = agent.log_alpha.view(slots) * gradient  # `losses.temperature_loss` is linear in log alpha
    agent.optimizers["log_alpha"].step(gradient)

    next_q, _ = critics(agent.layers["target"], batch.next_observation, next_action)
    target = losses.td_target(batch.reward, batch.terminated, next_q, next_log_prob, alpha, agent.discount)
    q, saved = critics(critic, batch.pair)
    critic_loss = losses.critic_loss(q, target)
    dq = (q - target.unsqueeze(1)).div_(n).view(2 * slots, n, 1)
    gradient, into = agent.gradients["critic"]
    of_context = backward(critic, saved, dq, into, context)
    gradient = gradient.view_as(agent.critic)
    agent.optimizers["critic"].step(critic_gradient(gradient) if critic_gradient else gradient)

    q, saved = critics(critic, batch.observation, action)
    actor_loss = losses.actor_loss(q, log_prob, alpha)
    dq = torch.empty_like(q)  # of -min_k q_k / n
    torch.le(q[:, 0], q[:, 1], out=dq[:, 0])
    torch.gt(q[:, 0], q[:, 1], out=dq[:, 1])
    dq = dq.mul_(-1.0 / n).view(2 * slots, n, 1)
    of_action = slice(batch.observation.shape[-1], None)
    dq_da = backward(critic, saved, dq, columns=of_action).unflatten(0, (slots, 2)).sum(1)
    mean, log_std = gaussian(heads[:, :n])
    share = alpha.unsqueeze(-1) / n
    gradient_at_head = torch.empty_like(heads[:, :n])
    du, dlog_std = gradient_at_head.chunk(2, -1)
    torch.addcmul(tanh_backward(dq_da, action), share, action, value=2.0, out=du)
    torch.sub(log_std.exp().mul_(noise[:, :n]).mul_(du), share, out=dlog_std)
    if head_gradient is not None:
        extra_mean, extra_log_std = head_gradient(batch.observation, mean, log_std)
        du.add_(extra_mean), dlog_std.add_(extra_log_std)
    raw = heads[:, :n].chunk(2, dim=-1)[1]
    clamp_backward.grad_input(dlog_std, raw, LOG_STD_MIN, LOG_STD_MAX, grad_input=dlog_std)
    gradient, into = agent.gradients["actor"]
    backward(actor, actor_saved, gradient_at_head, into)
    gradient = gradient.view_as(agent.actor)
    agent.optimizers["actor"].step(actor_gradient(gradient) if actor_gradient else gradient)

    agent.target.lerp_(agent.critic, agent.polyak)
    agent.updates += 1
    extra = {} if context is None else {"context": of_context.unflatten(0, (slots, 2)).sum(1)}
    return {"critic_loss": critic_loss, "actor_loss": actor_loss, "temperature_loss": temperature_loss,
            "log_prob": mean_log_prob, **extra}  # fmt: skip
