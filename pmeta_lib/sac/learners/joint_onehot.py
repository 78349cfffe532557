"""Joint SAC that is told which task it is in: the multi-task baseline of Meta-World.

Yu et al., CoRL 2019, arXiv 1910.10897, "multi-task SAC": with x = (s, e_i), e_i the i-th unit vector, the losses are
SAC's own on (x, a). It can solve tasks that contradict each other, in one network, but has no answer to a task without
an index. Simplified against Meta-World's experiments: one temperature a seed (there one a task is learned); the
networks have every learner's hidden layers, so that only the first layer is wider, by N rows."""

import torch
from torch import Tensor

from pmeta_lib.sac.agent import Agent
from pmeta_lib.sac.learners.base import FineTune, Ways, appended, brought
from pmeta_lib.sac.learners.joint import Joint
from pmeta_lib.sac.networks import fold


class JointOnehot(Joint):
    """`Joint` with the task's index, one-hot, appended to what actor and critics see."""

    name = "joint-onehot"

    def context_size(self, tasks: int) -> int:
        return tasks

    def inputs(self, agent: Agent, observation: Tensor) -> Tensor:
        return appended(observation, torch.eye(observation.shape[1], device=observation.device)[None, :, None])

    def adapt_from(self, agent: Agent, tasks: int) -> Ways:
        """SAC from what the networks do at the mean of all indices: a new task has none of its own."""
        start, at = brought(agent), agent.actor_shape.widths[0] - tasks
        anyone = torch.full((len(agent.actor), 2, tasks), 1.0 / tasks, device=agent.actor.device)
        critic = fold(agent.critic_shape, start["critic"].flatten(1, 2), at, anyone).view_as(start["critic"])
        actor = fold(agent.actor_shape, start["actor"], at, anyone[:, :1])
        return {"sac": (FineTune(tasks), start | {"actor": actor, "critic": critic})}
