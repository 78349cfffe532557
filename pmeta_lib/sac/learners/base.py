"""What the training loop asks of a learner. The defaults are soft actor-critic on every task alone."""

import math
from collections.abc import Hashable
from dataclasses import dataclass, fields
from typing import ClassVar

from torch import Tensor

from pmeta_lib.errors import UserError, unknown
from pmeta_lib.sac.agent import Agent
from pmeta_lib.sac.replay import Batch, Replay
from pmeta_lib.sac.update import sac_update


@dataclass(frozen=True)
class Learner:
    """Hyper-parameters as fields, behaviour as a few small methods over an `Agent`; it holds no state itself.

    Shapes as in `pmeta_lib.sac.agent`: S seeds, N tasks, G policies a seed, P parameters of an actor.
    """

    name: ClassVar[str] = ""

    def policies(self, tasks: int) -> int:
        """G: `tasks` for one policy each, 1 for a shared one."""
        return tasks

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
        return sac_update(agent, batch)

    def phase(self, updates: int) -> Hashable | None:
        """What kind of update follows `updates` updates: those of equal phase do the very same operations on the
        same tensors, so that a GPU may replay one for the other. None: never replay."""
        return None

    def deployed(self, agent: Agent, replay: Replay | None = None) -> dict[str, Tensor]:
        """The policies worth evaluating on the training tasks: name -> actors (S, G, P). "deployed" is the
        learner's answer to each task; "meta" a meta-policy, where there is one."""
        return {"deployed": agent.actor}


def check_options(cls: type[Learner], options: dict) -> dict:
    """`options` in their fields' types (1 is taken for 1.0), if each is a field of `cls`; else one clear error."""
    typed, known = {}, {f.name: f for f in fields(cls)}
    for name, value in options.items():
        if name not in known:
            raise unknown(f"option of learner {cls.name}", name, known or ["(it has none)"])
        default = known[name].default
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"option {name} of learner {cls.name} is {value}; it must be a finite number")
        wanted = (int, float) if isinstance(default, float) else type(default)
        if default is not None and (
            not isinstance(value, wanted) or isinstance(value, bool) != isinstance(default, bool)
        ):
            raise UserError(
                f"option {name} of learner {cls.name}: {value!r} is a {type(value).__name__}; "
                f"give a {type(default).__name__}, like the default {default!r}"
            )
        typed[name] = float(value) if isinstance(default, float) else value
    return typed
