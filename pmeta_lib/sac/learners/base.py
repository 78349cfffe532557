"""What the training loop asks of a learner. The defaults are soft actor-critic on every task alone."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pmeta_lib.envs.families import TaskFamily
from pmeta_lib.options import Whole, options
from pmeta_lib.sac.agent import Adam, Agent
from pmeta_lib.sac.replay import Batch, Replay
from pmeta_lib.sac.update import sac_update

Ways = dict[str, tuple["Learner", dict[str, Tensor]]]  # of adapting: name -> who runs there, and from what tensors


@options
class Learner:
    """Hyper-parameters as fields (then it is `@options` as well), behaviour as a few small methods over an `Agent`,
    which holds all state. Shapes as in `pmeta_lib.sac.agent`: S seeds, N tasks, G policies a seed, P parameters."""

    name: ClassVar[str] = ""
    noun: ClassVar[str] = "option"  # what a mistake calls a field
    trained_by: ClassVar[str] = "pmeta_lib.sac.training:train"
    cost: ClassVar[float] = 1.0  # CPU time of an update, in updates of plain SAC, for what a sweep will take
    by_mode: ClassVar[bool] = False  # True: it acts by its policy's mode, without noise
    one_phase: ClassVar[bool] = False  # True: all its updates are of one phase
    one_policy: ClassVar[bool] = False  # True: all tasks of a seed share it

    def policies(self, tasks: int) -> int:
        """G: `tasks` for one policy each, 1 for a shared one."""
        return 1 if self.one_policy else tasks

    def context_size(self, tasks: int) -> int:
        """How many numbers the learner appends to an observation."""
        return 0

    def inputs(self, agent: Agent, observation: Tensor) -> Tensor:
        """What the networks see of `observation (S, N, ·, o)`: itself, or with a context appended."""
        return observation

    def start(self, agent: Agent, tasks: int) -> None:
        """Add the learner's own tensors to `agent.extra` (they are checkpointed with everything else)."""

    def update(self, agent: Agent, batch: Batch) -> dict[str, Tensor]:
        """One gradient update from `batch` with leading axes (S, N, n); returns losses, (B,) each."""
        has_context = self.context_size(batch.reward.shape[1]) > 0
        return sac_update(agent, widened(batch, lambda x: self.inputs(agent, x)) if has_context else batch)

    def stepped(self, agent: Agent, replay: Replay, ended: np.ndarray) -> None:
        """After each environment step, `replay.last (S, N, E, ·)`, which ended the episodes `ended (S N E,)`."""

    def phase(self, updates: int) -> Hashable | None:
        """What kind of update follows `updates` updates: those of equal phase do the very same operations on the same
        tensors, so that a GPU may replay one for the other. None: never replay."""
        return "update" if self.one_phase else None

    def deployed(self, agent: Agent) -> dict[str, Tensor]:
        """The policies worth evaluating on the training tasks: name -> actors (S, G, P). "deployed" is the
        learner's answer to each task; "meta" the meta-policy "theta", where `agent.extra` holds one."""
        meta = {"meta": agent.extra["theta"]} if "theta" in agent.extra else {}
        return {"deployed": agent.extra.get("adapted", agent.actor)} | meta

    def adapt_from(self, agent: Agent, tasks: int) -> Ways:
        """How the trained `agent` goes about tasks it never saw: its own way first, others to compare. The default,
        "sac", is SAC from what is `brought`; {}: nothing to start from but a fresh network."""
        return {"sac": (FineTune(), brought(agent))} if "theta" in agent.extra or agent.actor.shape[1] == 1 else {}

    def on(self, family: TaskFamily) -> "Learner":
        """This way of adapting on the tasks of `family`, where a protocol has numbers of its own for it."""
        return self


@options
class FineTune(Learner):
    """SAC on every task alone, by networks whose last `blank` inputs behind the observation are always 0."""

    name = "fine-tuning"
    one_phase = True

    blank: Whole = 0

    def context_size(self, tasks: int) -> int:
        return self.blank

    def inputs(self, agent: Agent, observation: Tensor) -> Tensor:
        return torch.nn.functional.pad(observation, (0, self.blank))


def brought(agent: Agent) -> dict[str, Tensor]:
    """What all new tasks start from (`initial` of `pmeta_lib.sac.state.start`): the meta-policy, or the only policy;
    critics and temperature that are shared, or else the mean of the tasks' own."""
    return {own: agent.extra.get(name, getattr(agent, own).mean(1, keepdim=True)) for own, name in TIED.items()}


def appended(x: Tensor, context: Tensor) -> Tensor:
    """`x (S, N, n, ·)` with `context` behind every row, (S, N, n, k) or 1 where it is the same for all."""
    return torch.cat((x, context.expand(*x.shape[:3], -1)), -1)


def widened(batch: Batch, inputs: Callable[[Tensor], Tensor]) -> Batch:
    """The batch (S, N, n, ·) as networks see it whose observations are `inputs` of the task's."""
    here, there = inputs(batch.observation), inputs(batch.next_observation)
    return batch._replace(observation=here, next_observation=there, pair=torch.cat((here, batch.action), -1))


TIED = {"actor": "theta", "critic": "meta_critic", "log_alpha": "meta_log_alpha"}  # their names in `agent.extra`


@dataclass
class Tied(Adam):
    """Adam on one set of parameters for all tasks of a seed, (S, 1, ·), moved by the mean of the tasks' gradients.
    The tasks' slots hold `copies (S, N, ·)`, which follow it, so that each task's gradient can be had apart."""

    copies: Tensor

    def step(self, gradient: Tensor) -> None:
        super().step(gradient.view_as(self.copies).mean(1, keepdim=True))
        self.copies.copy_(self.parameters)


def tie(agent: Agent, *names: str) -> None:
    """From now on a seed's tasks, equal so far, share what `names` names; it is kept in `agent.extra`, (S, 1, ·)."""
    for name in names:
        copies = getattr(agent, name)
        agent.extra[TIED[name]] = shared = copies[:, :1].clone()
        agent.optimizers[name] = Tied(shared, agent.optimizers[name].learning_rate, copies)
