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

HeadGradient = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def critics(layers: Layers, pair: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Values (B, 2, n) of the twin critics with `layers` of 2B rows at `pair (B, n, o + a)`; saved inputs."""
    slots, n, width = pair.shape
    twice = pair.unsqueeze(1).expand(slots, 2, n, width).reshape(2 * slots, n, width)
    q, saved = forward_saved(layers, twice)
    return q.view(slots, 2, n), saved


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
    _, tasks, n = batch.reward.shape
    slots = agent.slots
    noise = agent.noise(2, tasks, n, batch.action.shape[-1])
    batch = Batch(*(x.reshape(slots, -1, *x.shape[3:]) for x in batch))
    noise, noise_next = (e.reshape(slots, -1, e.shape[-1]) for e in noise.unbind(1))
    actor, critic = agent.layers["actor"], agent.layers["critic"]
    alpha = agent.log_alpha.exp().view(slots, 1)
    n = batch.reward.shape[1]

    head, actor_saved = forward_saved(actor, batch.observation)
    mean, log_std = gaussian(head)
    action, log_prob = squash(mean, log_std, noise)
    temperature_loss = losses.temperature_loss(agent.log_alpha.view(slots), log_prob, agent.target_entropy)
    agent.optimizers["log_alpha"].step(-(log_prob.mean(-1) + agent.target_entropy))

    next_head, _ = forward_saved(actor, batch.next_observation)
    next_action, next_log_prob = squash(*gaussian(next_head), noise_next)
    next_q, _ = critics(agent.layers["target"], torch.cat((batch.next_observation, next_action), -1))
    target = losses.td_target(batch.reward, batch.terminated, next_q, next_log_prob, alpha, agent.discount)
    q, saved = critics(critic, batch.pair)
    critic_loss = losses.critic_loss(q, target)
    dq = (q - target.unsqueeze(1)).div_(n).view(2 * slots, n, 1)
    gradient, into = agent.gradients["critic"]
    of_context = backward(critic, saved, dq, into, context)
    gradient = gradient.view_as(agent.critic)
    agent.optimizers["critic"].step(critic_gradient(gradient) if critic_gradient else gradient)

    q, saved = critics(critic, torch.cat((batch.observation, action), -1))
    actor_loss = losses.actor_loss(q, log_prob, alpha)
    smaller = torch.stack((q[:, 0] <= q[:, 1], q[:, 0] > q[:, 1]), 1).to(q.dtype)
    of_action = slice(batch.observation.shape[-1], None)
    dq_da = backward(critic, saved, smaller.view(2 * slots, n, 1), columns=of_action).unflatten(0, (slots, 2)).sum(1)
    alpha = alpha.unsqueeze(-1)
    du = (2.0 * alpha * action - dq_da * (1.0 - action.square())).div_(n)
    dlog_std = du * (log_std.exp() * noise) - alpha / n
    if head_gradient is not None:
        extra_mean, extra_log_std = head_gradient(batch.observation, mean, log_std)
        du, dlog_std = du + extra_mean, dlog_std + extra_log_std
    raw = head.chunk(2, dim=-1)[1]
    dlog_std = dlog_std * ((raw >= LOG_STD_MIN) & (raw <= LOG_STD_MAX))
    gradient, into = agent.gradients["actor"]
    backward(actor, actor_saved, torch.cat((du, dlog_std), -1), into)
    gradient = gradient.view_as(agent.actor)
    agent.optimizers["actor"].step(actor_gradient(gradient) if actor_gradient else gradient)

    agent.target.lerp_(agent.critic, agent.polyak)
    agent.updates += 1
    extra = {} if context is None else {"context": of_context.unflatten(0, (slots, 2)).sum(1)}
    return {"critic_loss": critic_loss, "actor_loss": actor_loss, "temperature_loss": temperature_loss,
            "log_prob": log_prob.mean(-1), **extra}  # fmt: skip
