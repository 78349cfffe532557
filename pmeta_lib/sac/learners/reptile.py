"""Reptile on SAC: every task runs K SAC updates from the meta-actor, which then moves towards their mean.

Nichol, Achiam, Schulman, "On First-Order Meta-Learning Algorithms" (2018, arXiv 1803.02999), algorithm 2, parallel
version. With U the optimizer's update on task i's replay,

    theta_i = U^K(theta),    theta <- theta + epsilon mean_i (theta_i - theta),    then every task restarts from theta.

It is pMeta with lam = 0, a cold start, eta lam = 1, R = 1 and beta = epsilon, and a test holds it to that.

Simplified: the actor alone is meta-learned. Critics, targets and temperatures are each task's own and never restart
(a value function K updates old could steer nothing); an untried task's critics are the adaptation's affair. epsilon is
constant, where the authors' code anneals it to 0. As in their code the inner optimizer's moments outlive a restart,
but it is Adam with the default beta1 of every learner here, where theirs has beta1 = 0. A round takes all tasks, not a
sample. Their reinforcement learning was not published; SAC as the inner learner is ours.

Deployed on a training task: theta_i as the last finished round left it, after all its K updates. "meta" is theta."""

from torch import Tensor

from pmeta_lib import moreau
from pmeta_lib.options import AMetaStep, Count, options
from pmeta_lib.sac.agent import Agent
from pmeta_lib.sac.learners.base import Learner
from pmeta_lib.sac.replay import Batch
from pmeta_lib.sac.update import sac_update


@options
class Reptile(Learner):
    name = "reptile"

    inner_steps: Count = 50  # K, gradient updates of every task between two meta steps
    epsilon: AMetaStep = 1.0  # the meta step's size; 1 puts theta on the mean of the tasks' actors

    def start(self, agent: Agent, tasks: int) -> None:
        agent.extra["theta"] = agent.actor.mean(1, keepdim=True)  # (S, 1, P)
        agent.extra["adapted"] = agent.actor.clone()  # (S, N, P), at the end of the last round

    def update(self, agent: Agent, batch: Batch) -> dict[str, Tensor]:
        metrics = sac_update(agent, batch)
        if agent.updates % self.inner_steps == 0:
            theta = agent.extra["theta"]
            agent.extra["adapted"].copy_(agent.actor)
            theta.copy_(moreau.meta_step(theta, agent.actor.mean(1, keepdim=True), self.epsilon))
            agent.actor.copy_(theta)
        return metrics

    def phase(self, updates: int) -> bool:
        return (updates + 1) % self.inner_steps == 0
