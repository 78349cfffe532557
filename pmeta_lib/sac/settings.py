"""What all learners of a comparison share: the budget, the networks, soft actor-critic's own numbers."""

import math
from dataclasses import dataclass, fields

from pmeta_lib.files import UserError, unknown
from pmeta_lib.sac.networks import PRECISIONS


@dataclass(frozen=True)
class Settings:
    """What all learners share: budget, networks, soft actor-critic. Steps are transitions *per task*.

    With E environments a task (`envs_per_task`) every step of them counts E; where E divides neither the steps nor
    those of an evaluation, the next multiple of E is meant.
    """

    steps: int = 40_000
    envs_per_task: int = 1  # E, stepped together
    hidden: tuple[int, ...] = (128, 128)
    batch_size: int = 128  # transitions of each task in an update
    learning_rate: float = 3e-4  # Adam, for actors, critics and temperatures
    discount: float = 0.99
    polyak: float = 0.005  # share of the critic that enters its target at each update
    warm_up: int = 1_000  # steps of uniform actions before updates begin
    updates_per_step: float = 1.0  # update-to-data ratio; below 1, an update every 1/ratio steps
    precision: str = "float32"  # of the updates' hidden products; "bfloat16", or "auto": that where it is fast
    replay_capacity: int = 0  # transitions a task; 0 keeps all
    initial_temperature: float = 1.0
    target_entropy: float | None = None  # None: minus the number of action dimensions
    evaluations: int = 40  # evenly over the steps, besides one before training
    evaluation_episodes: int = 5

    def __post_init__(self):
        for f in fields(self):
            object.__setattr__(self, f.name, _typed(f.name, getattr(self, f.name), f.default))
        positive = ("steps", "envs_per_task", "batch_size", "learning_rate", "updates_per_step", "evaluations",
                    "evaluation_episodes", "initial_temperature")  # fmt: skip
        for name in positive:
            if not getattr(self, name) > 0:
                raise UserError(f"setting {name} is {getattr(self, name)}; it must be greater than 0")
        if not self.hidden or any(not isinstance(h, int) or isinstance(h, bool) or h < 1 for h in self.hidden):
            raise UserError(f"setting hidden is {list(self.hidden)}; give one or more layer widths, e.g. [128, 128]")
        for name, low, high in (("discount", 0.0, 1.0), ("polyak", 0.0, 1.0)):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"setting {name} is {getattr(self, name)}; it must lie in [{low:g}, {high:g}]")
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        if not 0 <= self.warm_up < self.steps:
            raise UserError(f"setting warm_up is {self.warm_up}; it must be at least 0 and below steps ({self.steps})")
        if self.replay_capacity < 0:
            raise UserError(f"setting replay_capacity is {self.replay_capacity}; give 0 (keep all) or more")
        if self.evaluations > self.steps:
            raise UserError(f"setting evaluations is {self.evaluations}, more than steps ({self.steps})")
        envs, stored = self.envs_per_task, min(self.replay_capacity or self.steps, self.steps)
        if envs > stored:
            raise UserError(f"setting envs_per_task is {envs}, but the replay of a task holds {stored} transitions")
        if not self.updates_until(self.whole(self.steps)):
            raise UserError(f"setting updates_per_step is {self.updates_per_step:g}: no update is ever reached in "
                            f"{self.steps} steps, {self.warm_up} of them warm-up; raise it or steps")  # fmt: skip

    def evaluation_steps(self) -> set[int]:
        """The steps after which policies are evaluated: 0, then evenly spaced up to the last."""
        return {self.whole(round(k * self.steps / self.evaluations)) for k in range(self.evaluations + 1)}

    def whole(self, step: int) -> int:
        """The first multiple of `envs_per_task` that is not below `step`."""
        return -(-step // self.envs_per_task) * self.envs_per_task

    def updates_until(self, step: int) -> int:
        """How many updates belong to the first `step` transitions; fractions of one wait for the rest."""
        return int(max(0, step - self.warm_up) * self.updates_per_step + 1e-9)


# The field's scale: what `Settings` differ in from a desk's, besides `steps`; equal for all learners.
FIELD = {
    "envs_per_task": 16, "updates_per_step": 0.125, "batch_size": 256, "learning_rate": 1e-3, "polyak": 0.01,
    "hidden": (128, 128), "precision": "auto",
}  # fmt: skip


def _typed(name: str, value, default):
    """`value` in the type of the setting's default (1 is taken for 1.0), or one clear error."""
    if name == "target_entropy":  # None or a number
        default = 0.0 if value is not None else None
    wanted = {float: (int, float), tuple: (tuple, list)}.get(type(default), type(default))
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise UserError(f"setting {name} is {value!r}; give a value like the default, {default!r}")
    if isinstance(default, float) and not math.isfinite(value):
        raise UserError(f"setting {name} is {value!r}; it must be a finite number")
    return default if default is None else type(default)(value)
