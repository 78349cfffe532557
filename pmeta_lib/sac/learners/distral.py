"""Distral on SAC: task policies pi_i held together by their KL divergence to a distilled policy pi_0.

Teh et al. (NeurIPS 2017, arXiv 1707.04175), equation 1: maximize over all policies, with weights c_KL and c_Ent,

    sum_i E[ sum_t gamma^t (r_i - c_KL log(pi_i(a|s) / pi_0(a|s)) - c_Ent log pi_i(a|s)) ]

SAC is the solver: its entropy term is the one of c_Ent, its critics learn the regularized value. With c = `kl_weight`
and KL_i(s) = KL(pi_i(.|s) || pi_0(.|s)), which is that of the Gaussians before tanh,

    value      target = r + gamma (1 - done) (min_k Q'_k(s', a') - alpha_i log pi_i(a'|s') - c KL_i(s'))
    task       d actor_loss_i / d mean    += (c/n) (mean - mean_0) / std_0^2
               d actor_loss_i / d log std += (c/n) (std^2 / std_0^2 - 1)
    distilled  minimize mean_i E_s[KL_i(s)], by   d / d mean_0    = (mean_0 - mean) / std_0^2
                                                  d / d log std_0 = 1 - (std^2 + (mean - mean_0)^2) / std_0^2

Simplified, or other than in the paper: policies are networks of their own (the paper's variant "KL+ent 1col"), not
pi_0^alpha exp(beta f_i) with f_i a second column; c_Ent is SAC's temperature, tuned to the entropy target for each
task, not constant; states come from the replay, those that the tasks' updates drew, not from the current policies.
Theirs is actor-critic on discrete actions with asynchronous workers; its code is not published.

Deployed on a training task, and acting there: pi_i. "meta" is pi_0, one network more than in `independent`.
`kl_weight = 0` is independent learning, and distillation."""

import torch
from torch import Tensor

from pmeta_lib.options import NotNegative, options
from pmeta_lib.sac.agent import Adam, Agent
from pmeta_lib.sac.learners.base import Learner, Ways, brought
from pmeta_lib.sac.networks import LOG_STD_MAX, LOG_STD_MIN, backward, forward, forward_saved, gaussian
from pmeta_lib.sac.replay import Batch
from pmeta_lib.sac.update import sac_update


def kl(mean: Tensor, log_std: Tensor, mean_0: Tensor, log_std_0: Tensor) -> Tensor:
    """KL(pi || pi_0) of diagonal Gaussians (..., a), summed over the action: (...)."""
    difference = (mean - mean_0) / log_std_0.exp()
    ratio = (2.0 * (log_std - log_std_0)).exp()
    return (log_std_0 - log_std + 0.5 * (ratio + difference.square() - 1.0)).sum(-1)


def kl_gradients(mean: Tensor, log_std: Tensor, mean_0: Tensor, log_std_0: Tensor) -> tuple[Tensor, ...]:
    """`kl` differentiated by mean, log_std, mean_0, log_std_0: each (..., a)."""
    variance_0 = (2.0 * log_std_0).exp()
    ratio = (2.0 * (log_std - log_std_0)).exp()
    by_mean = (mean - mean_0) / variance_0
    return by_mean, ratio - 1.0, -by_mean, 1.0 - ratio - (mean - mean_0) * by_mean


@options
class Distral(Learner):
    name = "distral"
    cost = 1.3
    one_phase = True

    kl_weight: NotNegative = 0.1  # c, return per nat

    def start(self, agent: Agent, tasks: int) -> None:
        agent.extra["theta"] = agent.actor.mean(1, keepdim=True)  # (S, 1, P): pi_0
        agent.optimizers["theta"] = Adam(agent.extra["theta"], agent.optimizers["actor"].learning_rate)

    @torch.no_grad()
    def update(self, agent: Agent, batch: Batch) -> dict[str, Tensor]:
        seeds, tasks, n, _ = batch.observation.shape
        theta, c, shape = agent.extra["theta"], self.kl_weight, agent.actor_shape
        layers = shape.layers(theta.view(seeds, -1))
        head_0, saved = forward_saved(layers, batch.observation.reshape(seeds, tasks * n, -1))
        gradient_0 = None

        def pull(_, mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
            """The KL's gradient at the task policies' outputs; what it is at pi_0's is kept for pi_0's own step."""
            nonlocal gradient_0
            mean_0, log_std_0 = (x.reshape(mean.shape) for x in gaussian(head_0))
            by_mean, by_log_std, *by_0 = kl_gradients(mean, log_std, mean_0, log_std_0)
            gradient_0 = torch.cat(by_0, -1).reshape(head_0.shape) / (tasks * n)
            return by_mean * (c / n), by_log_std * (c / n)

        metrics = sac_update(agent, self.regularized(agent, batch) if c else batch, head_gradient=pull)
        raw = head_0.chunk(2, dim=-1)[1]
        gradient_0.chunk(2, dim=-1)[1].mul_((raw >= LOG_STD_MIN) & (raw <= LOG_STD_MAX))
        gradient = torch.zeros_like(theta)
        backward(layers, saved, gradient_0, shape.layers(gradient.view(seeds, -1)))
        agent.optimizers["theta"].step(gradient)
        return metrics

    def regularized(self, agent: Agent, batch: Batch) -> Batch:
        """The batch with `- gamma (1 - done) c KL_i(s')` in the reward, which puts it into the value's target."""
        x, shape = batch.next_observation, agent.actor_shape
        policy = gaussian(forward(shape, agent.actor.flatten(0, 1), x.flatten(0, 1)))
        prior = gaussian(forward(shape, agent.extra["theta"].squeeze(1), x.flatten(1, 2)))
        divergence = kl(*(y.reshape(batch.action.shape) for y in (*policy, *prior)))
        left = agent.discount * (1.0 - batch.terminated)
        return batch._replace(reward=batch.reward - left * self.kl_weight * divergence)

    def adapt_from(self, agent: Agent, tasks: int) -> Ways:
        """The way "kl": tied to pi_0, which rests, by the same KL."""
        return {"kl": (_Distilled(self.kl_weight), brought(agent))} | super().adapt_from(agent, tasks)


class _Distilled(Distral):
    """Distral with the distilled policy that `adapt_from` brings along, no longer trained."""

    def start(self, agent: Agent, tasks: int) -> None:
        super().start(agent, tasks)
        agent.optimizers["theta"] = Adam(agent.extra["theta"], 0.0)
