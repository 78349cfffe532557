"""A run's state: everything a checkpoint holds, and how it begins."""

from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pmeta_lib.envs.families import TaskFamily
from pmeta_lib.envs.vector import TaskVectorEnv
from pmeta_lib.sac.agent import Agent, act, children
from pmeta_lib.sac.checkpoint import part
from pmeta_lib.sac.graphs import use_tensor_cores
from pmeta_lib.sac.learners.base import Learner
from pmeta_lib.sac.memory import check_size, needed
from pmeta_lib.sac.networks import hidden_type
from pmeta_lib.sac.replay import Replay
from pmeta_lib.sac.settings import Settings


@dataclass
class Progress:
    """What every run is of, where it stands, and its tables so far."""

    family: TaskFamily
    learner: Learner
    settings: Settings
    seeds: list[int]
    env: TaskVectorEnv
    generators: dict[str, list[torch.Generator]]  # stream -> one a seed
    _: KW_ONLY
    step: int = 0
    seconds: float = 0.0  # spent in `train`, over all its starts
    last: dict[str, Tensor] = field(default_factory=dict)  # the last update's losses, one a slot each
    rows: list[tuple] = field(default_factory=list)
    metrics: list[tuple] = field(default_factory=list)

    CURVE: ClassVar = ("seed", "step", "policy", "task", "return", "return_std", "episodes")
    METRICS: ClassVar[tuple[str, ...]]

    @property
    def curve(self) -> pd.DataFrame:
        """One row a seed, evaluated step, policy and training task; `return` is the episodes' mean."""
        return pd.DataFrame(self.rows, columns=list(self.CURVE))

    @property
    def losses(self) -> pd.DataFrame:
        """One row a seed, evaluated step and policy slot: the last update's losses, and what else is in `METRICS`."""
        return pd.DataFrame(self.metrics, columns=list(self.METRICS))

    def add_losses(self, columns: Tensor, *more: float) -> None:
        """Rows of this step, with numbers for `METRICS` behind the first three: `columns (S, G, ·)`, then `more`."""
        for seed, slots in zip(self.seeds, columns.tolist(), strict=True):
            self.metrics += [(seed, self.step, slot, *row, *more) for slot, row in enumerate(slots)]


@dataclass
class Run(Progress):
    """A run in progress, or finished: everything a checkpoint holds."""

    agent: Agent
    replay: Replay
    observation: Tensor  # (S, N, E, o)
    uniform: bool = True  # whether actions are uniform until `warm_up`; False: the policy's own from the start

    METRICS = ("seed", "step", "slot", "critic_loss", "actor_loss", "entropy", "temperature")

    @property
    def updates(self) -> int:
        """How many updates there were."""
        return self.agent.updates

    def kept(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """What a checkpoint holds of this kind of run alone: tensors and counters."""
        own = {"replay": self.replay.rows[:, :, : len(self.replay)], "observation": self.observation}
        return self.agent.tensors() | own, {"updates": self.agent.updates, "added": self.replay.added}

    def put_back(self, tensors: dict[str, Tensor], record: dict) -> None:
        """Take over from a checkpoint what `kept` gave it."""
        for name, x in part(tensors, "extra.").items():  # a learner may make one at its first update
            self.agent.extra.setdefault(name, x.to(self.agent.actor.device))
        for name, x in self.agent.tensors().items():
            x.copy_(tensors[name])
        self.replay.restore(tensors["replay"], record["added"])
        self.observation = tensors["observation"].to(self.observation.device)
        self.agent.updates = record["updates"]

    def final(self, position: int) -> tuple[dict[str, Tensor], dict]:
        """What is kept of the result of the seed at `position`: tensors, and the networks' widths."""
        kept = {name: x for name, x in self.agent.tensors().items() if not name.startswith("adam.")}
        tensors = {name: x[position] for name, x in kept.items() if len(x) == len(self.seeds)}
        return tensors, {"actor": self.agent.actor_shape.widths, "critic": self.agent.critic_shape.widths}

    def mode(self, actor: Tensor, observation: Tensor) -> Tensor:
        """The mode of `actor (S, G, P)` at `observation (S, N E, o)` of the training tasks, widened by the learner."""
        apart = observation.unflatten(1, (len(self.family.train_tasks), -1))
        return act(self.agent.actor_shape, actor, self.learner.inputs(self.agent, apart).flatten(1, 2))


def start(
    family: TaskFamily, learner: Learner, settings: Settings, seeds: list[int], device="cpu", threads=1,
    initial: dict[str, Tensor] | None = None,
) -> Run:  # fmt: skip
    """A run at step 0: fresh networks, environments reset, nothing stored. `initial` names tensors of the agent,
    "actor", "critic" and "log_alpha" (S, 1, ·) or of `extra`, that begin with these values instead of fresh ones; then
    there is a policy to act with, and no action is uniform."""
    if torch.device(device).type == "cuda":
        use_tensor_cores()
    check_size(needed(family, learner, settings, len(seeds)), device)
    tasks, envs = len(family.train_tasks), settings.envs_per_task
    rows = np.tile(family.train_tasks.repeat(envs, axis=0), (len(seeds), 1))
    env = TaskVectorEnv(family, rows, children(seeds, tasks * envs, "environments"), threads=threads)
    sizes = family.observation_size, family.action_size
    agent = Agent(
        seeds, learner.policies(tasks), sizes[0] + learner.context_size(tasks), sizes[1], hidden=settings.hidden,
        learning_rate=settings.learning_rate, discount=settings.discount, polyak=settings.polyak, device=device,
        initial_temperature=settings.initial_temperature, target_entropy=settings.target_entropy, envs=envs,
        product_type=hidden_type(settings.precision, device),
    )  # fmt: skip
    given = dict(initial or {})
    for name in given.keys() & {"actor", "critic", "log_alpha"}:
        getattr(agent, name).copy_(given.pop(name))
    agent.target.copy_(agent.critic)
    learner.start(agent, tasks)
    for name, x in given.items():
        agent.extra[name].copy_(x)
    replay = Replay(len(seeds), tasks, settings.stored, *sizes, device)
    seen = torch.tensor(env.reset()[0], device=device).view(len(seeds), tasks, envs, -1)
    return Run(family, learner, settings, list(seeds), env, agent.generators, agent, replay, seen, initial is None)
