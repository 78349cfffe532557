"""Independent SAC: one agent a task, nothing shared. The reference that sharing has to beat.

It is pMeta with `lam = 0`, and the definition of 1 in the normalised score.
"""

from typing import ClassVar

from pmeta_lib.options import options
from pmeta_lib.sac.learners.base import Learner


@options
class Independent(Learner):
    name: ClassVar[str] = "independent"
    one_phase: ClassVar[bool] = True
