"""Independent SAC: one agent a task, nothing shared. The reference that sharing has to beat.

It is pMeta with `lam = 0`, and the definition of 1 in the normalised score.
"""

from dataclasses import dataclass
from typing import ClassVar

from pmeta_lib.sac.learners.base import Learner


@dataclass(frozen=True)
class Independent(Learner):
    name: ClassVar[str] = "independent"

    def phase(self, updates: int) -> str:
        return "update"
