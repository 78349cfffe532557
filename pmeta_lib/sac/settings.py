"""What all learners of a comparison share, in one object."""

from typing import ClassVar

from pmeta_lib.files import UserError
from pmeta_lib.options import Count, Positive, Precision, Share, Whole, Widths, options


@options
class Settings:
    """Budget, networks, soft actor-critic. Steps are transitions *per task*: one of E environments counts E. Where E
    (`envs_per_task`) divides neither the steps nor those of an evaluation, its next multiple is meant."""

    noun: ClassVar[str] = "setting"

    steps: Count = 40_000
    envs_per_task: Count = 1  # E, stepped together
    hidden: Widths = (128, 128)  # widths of the networks' hidden layers
    batch_size: Count = 128  # transitions of each task in an update
    learning_rate: Positive = 3e-4  # Adam, for actors, critics and temperatures
    discount: Share = 0.99
    polyak: Share = 0.005  # share of the critic that enters its target at each update
    warm_up: Whole = 1_000  # steps of uniform actions before updates begin
    updates_per_step: Positive = 1.0  # update-to-data ratio; below 1, an update every 1/ratio steps
    precision: Precision = "float32"  # of the updates' hidden products; or "bfloat16"; "auto": what is fast here
    replay_capacity: Whole = 0  # transitions a task; 0 keeps all
    initial_temperature: Positive = 1.0
    target_entropy: float | None = None  # None: minus the number of action dimensions
    evaluations: Count = 40  # evenly over the steps, besides one before training
    evaluation_episodes: Count = 5

    def __post_init__(self):
        wrong = {
            f"setting warm_up is {self.warm_up}; it must be below steps ({self.steps})": self.warm_up >= self.steps,
            f"setting evaluations is {self.evaluations}, more than steps ({self.steps})": self.evaluations > self.steps,
            f"setting envs_per_task is {self.envs_per_task}; a task's replay holds {self.stored} transitions":
                self.envs_per_task > self.stored,
            f"setting updates_per_step is {self.updates_per_step:g}: no update is ever reached; raise it or steps":
                self.warm_up < self.steps and not self.updates_until(self.whole(self.steps)),
        }  # fmt: skip
        if any(wrong.values()):
            raise UserError("; ".join(text for text, holds in wrong.items() if holds))

    @property
    def stored(self) -> int:
        """How many transitions of a task the replay holds at most."""
        return min(self.replay_capacity or self.steps, self.steps)

    def evaluation_steps(self) -> set[int]:
        """The steps after which policies are evaluated: 0, then evenly spaced up to the last."""
        return {self.whole(round(k * self.steps / self.evaluations)) for k in range(self.evaluations + 1)}

    def whole(self, step: int) -> int:
        """The first multiple of `envs_per_task` that is not below `step`."""
        return -(-step // self.envs_per_task) * self.envs_per_task

    def updates_until(self, step: int) -> int:
        """How many updates belong to the first `step` transitions; fractions of one wait for the rest."""
        return int(max(0, step - self.warm_up) * self.updates_per_step + 1e-9)
