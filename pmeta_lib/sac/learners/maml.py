"""MAML on SAC: a meta-actor whose parameters are good *after* a few gradient steps on a task.

Finn, Abbeel, Levine (ICML 2017, arXiv 1703.03400), equation 1 and algorithm 1, with SAC's actor loss L_i (arXiv
1812.05905, equation 7) under the task's own critics and temperature. With s = `inner_step_size`, y^0 = theta,

    y^{k+1} = y^k - s grad L_i(y^k; support),     theta_i = y^K,     k = 0..K-1
    outer gradient   mean_i D_i^T grad L_i(theta_i; query),     D_i = d theta_i / d theta = prod_k (I - s H_i(y^k))

taken by Adam. By default the Jacobian D_i is exact (autograd through the steps); `first_order` puts the identity in its
place. Support and query are independent draws: the support is the batch of the update before, with noise of its own.

Who acts: on a training task its adapted policy theta_i, both in the environment and as "deployed"; each update ends
with the K steps from the new theta, on the batch just used. "meta" is theta.

Simplified, or other than by the authors: off-policy, since every learner here shares one replay per task (their
reinforcement learning collects fresh trajectories before and after adapting, and its outer optimizer is TRPO); critics,
targets and temperatures are not meta-learned: they are each task's own, trained as in `independent` on the adapted
policy, because critics that all tasks share do not know the task, and neither would the inner gradient. With
`shared_critics` they are shared as in `joint`; then `inner_steps = 0` is `joint`. The inner step size is constant."""

from dataclasses import asdict

import torch
from torch import Tensor

from pmeta_lib.options import Positive, Whole, options
from pmeta_lib.sac import losses
from pmeta_lib.sac.agent import Agent
from pmeta_lib.sac.learners.base import Learner, Ways, brought, tie
from pmeta_lib.sac.networks import forward, fused, gaussian, squash
from pmeta_lib.sac.replay import Batch
from pmeta_lib.sac.update import sac_update


def actor_loss(agent: Agent, actor: Tensor, critic: Tensor, observation: Tensor, noise: Tensor, net) -> Tensor:
    """SAC's actor loss (S N,) of `actor (S, N, P)` at `observation (S, N, n, o)`; `net` evaluates the networks."""
    x = observation.flatten(0, 1)
    action, log_prob = squash(*gaussian(net(agent.actor_shape, actor.flatten(0, 1), x)), noise.flatten(0, 1))
    pair = torch.cat((x, action), -1).repeat_interleave(2, 0)
    q = net(agent.critic_shape, critic.flatten(0, 2), pair).view(len(x), 2, -1)
    return losses.actor_loss(q, log_prob, agent.log_alpha.exp().view(-1, 1))


@torch.enable_grad()
def inner_steps(agent: Agent, start: Tensor, support: Tensor, noise: Tensor, size: float) -> Tensor:
    """`start (S, N, P)` after one gradient step of `size` on the tasks' actor losses for each of `noise (S, N, K, n,
    a)`, at observations `support (S, N, n, o)`. Where `start` requires a gradient the result can be differentiated."""
    y, graph = start, start.requires_grad
    net, critic = (forward, agent.critic.clone()) if graph else (fused, agent.critic)  # it changes while a graph lives
    for e in noise.unbind(2):
        y = y if graph else y.detach().requires_grad_()
        loss = actor_loss(agent, y, critic, support, e, net).sum()
        y = y - size * torch.autograd.grad(loss, y, create_graph=graph)[0]
    return y if graph else y.detach()


@options
class MAML(Learner):
    name = "maml"
    cost = 3.0
    one_phase = True

    inner_steps: Whole = 1  # K
    inner_step_size: Positive = 0.01  # s, of plain gradient descent on the actor's loss
    first_order: bool = False  # True: the Jacobian of the inner steps is taken for the identity
    shared_critics: bool = False  # True: critics and temperature as in `joint`

    def start(self, agent: Agent, tasks: int) -> None:
        tie(agent, "actor", *(("critic", "log_alpha") if self.shared_critics else ()))

    def update(self, agent: Agent, batch: Batch) -> dict[str, Tensor]:
        theta, outer = agent.extra["theta"], None
        if self.inner_steps and not self.first_order and "support" in agent.extra:
            origin = theta.expand_as(agent.actor).clone().requires_grad_()
            support, noise = agent.extra["support"], agent.extra["support_noise"]
            adapted = inner_steps(agent, origin, support, noise, self.inner_step_size)
            outer = lambda gradient: torch.autograd.grad(adapted, origin, gradient)[0]  # noqa: E731
        metrics = sac_update(agent, batch, actor_gradient=outer)  # its gradient is taken at the adapted actors
        if self.inner_steps:
            for name, x in (("support", batch.observation), ("support_noise", self.adapt(agent, batch))):
                agent.extra.setdefault(name, torch.empty_like(x)).copy_(x)
        return metrics

    def adapt(self, agent: Agent, batch: Batch) -> Tensor:
        """K inner steps of the actors on `batch`; the noise (S, N, K, n, a) that they took."""
        tasks, n, width = batch.action.shape[1:]
        noise = agent.noise(tasks, self.inner_steps, n, width)
        agent.actor.copy_(inner_steps(agent, agent.actor, batch.observation, noise, self.inner_step_size))
        return noise

    def adapt_from(self, agent: Agent, tasks: int) -> Ways:
        """The way "inner + sac": the K inner steps from theta at the first update, then SAC."""
        return {"inner + sac": (_Adapting(**asdict(self)), brought(agent))} | super().adapt_from(agent, tasks)


class _Adapting(MAML):
    """MAML on tasks it never saw, whose meta-actor rests."""

    def start(self, agent: Agent, tasks: int) -> None:
        """Nothing is shared."""

    def phase(self, updates: int) -> str | None:
        return "update" if updates else None  # the first one is another

    def update(self, agent: Agent, batch: Batch) -> dict[str, Tensor]:
        if agent.updates == 0:
            self.adapt(agent, batch)
        return sac_update(agent, batch)
