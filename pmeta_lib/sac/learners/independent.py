"""Independent SAC: one agent a task, nothing shared. The reference that sharing has to beat.

It is pMeta with `lam = 0`, and the definition of 1 in the normalised score."""

from pmeta_lib.sac.learners.base import Learner


class Independent(Learner):
    name = "independent"
    one_phase = True
