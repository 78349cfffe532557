"""pMeta-SAC: personalized actors tied to a meta-actor by a proximal term, and averaged into it.

The paper (arXiv 2209.10072) claims the scheme and its SAC version; only its abstract is known to us. The objective
(a Moreau envelope, in the line of pFedMe, Dinh et al. 2020) and every switch below are our formulation. The lines
that are the algorithm are `local_step` and `meta_step` of `pmeta_lib.moreau`, which the tabular learner uses too.

Deployed on a training task: the personal actor; with a cold start, which puts it back on w, as the last local step
found it, after all its K updates. "meta" is theta."""

import sys
from dataclasses import replace

import torch
from torch import Tensor

from pmeta_lib import moreau
from pmeta_lib.files import UserError
from pmeta_lib.options import Aggregate, Count, MetaStep, NotNegative, Whole, options
from pmeta_lib.sac.agent import Agent
from pmeta_lib.sac.learners.base import Learner, Ways, brought
from pmeta_lib.sac.replay import Batch
from pmeta_lib.sac.update import sac_update


@options
class PMeta(Learner):
    """K inner SAC updates of the personal actors, a local step of w; after R of those a meta step of theta."""

    name = "pmeta"

    lam: NotNegative = 0.01  # strength of the proximal term, return per squared parameter
    inner_steps: Count = 20  # K, gradient updates between two local steps
    local_steps: Count = 1  # R, local steps between two meta steps; above 1 the fixed point is biased (T7)
    eta_lam: NotNegative = 1.0  # eta * lam; 1 puts w on the personal actor
    beta: MetaStep = 1.0  # aggregation; 1 puts theta on the mean of the w
    decoupled: bool = False  # False: penalty in the actor's loss; True: implicit step after the optimizer's
    warm_start: bool = True  # False: the personal actors restart from w at every local step
    critic_lam: NotNegative = 0.0  # above 0, critics are tied to a meta-critic too (implicit steps)
    shared_temperature: bool = False  # True: one temperature a seed, the mean over its tasks
    tasks_per_round: Whole = 0  # tasks drawn a round; 0 means all
    aggregate: Aggregate = "drawn"  # the meta step's mean: over the drawn tasks, or "all", absent ones as they are (T5)

    def start(self, agent: Agent, tasks: int) -> None:
        per_round = self.tasks_per_round
        if per_round > tasks:
            raise UserError(f"option tasks_per_round of learner pmeta is {per_round}; there are {tasks} tasks")
        agent.extra["theta"] = agent.actor.mean(1, keepdim=True)  # (S, 1, P)
        agent.extra["w"] = agent.actor.clone()  # (S, N, P)
        if not self.warm_start:
            agent.extra["adapted"] = agent.actor.clone()  # (S, N, P), at the last local step
        if self.critic_lam:
            agent.extra["meta_critic"] = agent.critic.mean(1, keepdim=True)
        if per_round:
            agent.extra["drawn"] = self._draw(agent)

    def update(self, agent: Agent, batch: Batch) -> dict[str, Tensor]:
        lam, w, rate = self.lam, agent.extra["w"], agent.optimizers["actor"].learning_rate
        coupled = lam > 0 and not self.decoupled
        undrawn = self._undrawn(agent) if self.tasks_per_round else []
        pull = (lambda gradient: gradient + moreau.proximal_pull(agent.actor, w, lam)) if coupled else None
        metrics = sac_update(agent, batch, actor_gradient=pull)
        if lam > 0 and self.decoupled:
            agent.actor.copy_(moreau.implicit_step(agent.actor, w, lam, rate))
        if self.critic_lam:
            agent.critic.copy_(moreau.implicit_step(agent.critic, agent.extra["meta_critic"], self.critic_lam, rate))
        if self.shared_temperature:
            agent.log_alpha.copy_(agent.log_alpha.mean(1, keepdim=True))
        for x, absent, before in undrawn:
            x[absent] = before
        if agent.updates % self.inner_steps == 0:
            self.local_step(agent)
        if agent.updates % (self.inner_steps * self.local_steps) == 0:
            self.meta_step(agent)
        return metrics

    def phase(self, updates: int) -> tuple[bool, ...] | None:
        if self.tasks_per_round:
            return None
        return tuple((updates + 1) % k == 0 for k in (self.inner_steps, self.inner_steps * self.local_steps))

    def local_step(self, agent: Agent) -> None:
        """w_i <- w_i - eta lam (w_i - theta_i), for all tasks at once."""
        w = agent.extra["w"]
        w.copy_(moreau.local_step(w, agent.actor, self.eta_lam))
        if not self.warm_start:
            drawn = agent.extra["drawn"] > 0 if self.tasks_per_round else slice(None)
            agent.extra["adapted"][drawn] = agent.actor[drawn]
            agent.actor.copy_(w)

    def meta_step(self, agent: Agent) -> None:
        """theta <- (1 - beta) theta + beta mean_i w_i over the drawn tasks, or over all; then w_i <- theta."""
        w, theta = agent.extra["w"], agent.extra["theta"]
        theta.copy_(moreau.meta_step(theta, self._mean(agent, w), self.beta))
        w.copy_(theta)
        if not self.warm_start:
            agent.actor.copy_(w)
        if self.critic_lam:
            agent.extra["meta_critic"].copy_(self._mean(agent, agent.critic))
        if self.tasks_per_round:
            agent.extra["drawn"].copy_(self._draw(agent))

    def adapt_from(self, agent: Agent, tasks: int) -> Ways:
        """The way "proximal": the inner problem at theta, which rests: no round ever ends, no task hears of another."""
        resting = replace(self, inner_steps=sys.maxsize, warm_start=True, tasks_per_round=0, shared_temperature=False)
        return {"proximal": (resting, brought(agent))} | super().adapt_from(agent, tasks)

    def _undrawn(self, agent: Agent) -> list[tuple[Tensor, Tensor, Tensor]]:
        """What an update must leave as it is: (tensor, tasks that are not drawn, their rows), moments included."""
        absent = agent.extra["drawn"] == 0
        own = [x for name, x in agent.tensors().items() if x.dim() and not name.startswith("extra.")]
        return [(x, absent, x[absent]) for x in own]

    def _mean(self, agent: Agent, x: Tensor) -> Tensor:
        if not self.tasks_per_round or self.aggregate == "all":
            return x.mean(1, keepdim=True)
        drawn = agent.extra["drawn"].view(*x.shape[:2], *[1] * (x.dim() - 2))
        return (x * drawn).sum(1, keepdim=True) / self.tasks_per_round

    def _draw(self, agent: Agent) -> Tensor:
        """(S, N) of 0 and 1: `tasks_per_round` tasks without replacement, every seed from its own generator."""
        drawn = torch.zeros_like(agent.log_alpha)
        for row, g in zip(drawn, agent.generators["learner"], strict=True):
            row[torch.randperm(len(row), generator=g, device=g.device)[: self.tasks_per_round]] = 1.0
        return drawn
