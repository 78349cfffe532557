"""PCGrad on SAC: `joint` whose tasks' gradients are projected off each other where they conflict.

Yu et al., "Gradient Surgery for Multi-Task Learning" (NeurIPS 2020, arXiv 2001.06782), algorithm 1: for every task
i, starting at g_i' = g_i, for the other tasks j in random order

    if g_i' . g_j < 0:   g_i' <- g_i' - (g_i' . g_j / |g_j|^2) g_j

with the unprojected g_j, and the shared parameters move along sum_i g_i' (here the mean, as in `joint`; Adam does not
see the difference). Actor and critics are projected, each as one vector, the twin critics together.

Simplified: the temperature is shared and its scalar gradient averaged, which makes the learner `joint` wherever no two
gradients conflict. The authors' multi-task SAC knows the task and has a temperature for each, and they combine the
projection with such networks; here, as in `joint`, tasks are unlabelled, so that the two differ in the projection only.
"""

import torch
from torch import Tensor

from pmeta_lib.sac.agent import Agent
from pmeta_lib.sac.learners.base import Learner, tie
from pmeta_lib.sac.replay import Batch
from pmeta_lib.sac.update import sac_update


def project_conflicts(gradients: Tensor, order: Tensor) -> Tensor:
    """`gradients (S, N, D)`, each projected off those it conflicts with; `order (S, N, N - 1)`: for each task, the
    other tasks in the order in which they are met.

    Every projected gradient is a combination of the N given ones, so that the sequential part of the algorithm runs on
    their N x N products, never on D-long vectors."""
    products = gradients @ gradients.mT
    squares = products.diagonal(dim1=1, dim2=2)
    mix = torch.diag_embed(torch.ones_like(squares))  # (S, N, N), rows: g' in terms of g
    for j in order.unbind(-1):  # one after the other, as published: each sees what the one before has left
        column = j.unsqueeze(-1)
        dot = (mix * products.gather(1, column.expand_as(mix))).sum(-1)
        square = squares.gather(1, j)
        share = torch.where((dot < 0) & (square > 0), dot / square, 0.0)
        mix.scatter_add_(2, column, -share.unsqueeze(-1))
    return mix @ gradients


class PCGrad(Learner):
    """Each task's slot holds a copy of the shared parameters, because that is how its own gradient is had."""

    name = "pcgrad"
    cost = 1.4
    one_phase = True

    def start(self, agent: Agent, tasks: int) -> None:
        tie(agent, "actor", "critic", "log_alpha")

    def update(self, agent: Agent, batch: Batch) -> dict[str, Tensor]:
        def project(gradient: Tensor) -> Tensor:
            return project_conflicts(gradient.flatten(2), self.order(agent)).view_as(gradient)

        return sac_update(agent, batch, actor_gradient=project, critic_gradient=project)

    def order(self, agent: Agent) -> Tensor:
        """(S, N, N - 1): every task's others in random order, every seed from its own generator."""
        tasks = agent.actor.shape[1]
        keys = [torch.rand(tasks, tasks - 1, generator=g, device=g.device) for g in agent.generators["learner"]]
        own = torch.arange(tasks, device=agent.actor.device).unsqueeze(-1)
        return (torch.stack(keys).argsort(-1) + 1 + own) % tasks

    def deployed(self, agent: Agent) -> dict[str, Tensor]:
        return {"deployed": agent.actor}  # what is shared is no meta-policy
