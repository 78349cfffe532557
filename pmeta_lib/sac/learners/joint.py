"""Joint SAC: one actor and one pair of critics for all tasks, which it cannot tell apart.

Multi-task SAC with summed losses (Kurin et al., NeurIPS 2022, arXiv 2201.04122, show it hard to beat by methods that
edit gradients); it sees n transitions of each task an update, as every learner here does. Where tasks contradict each
other their gradients cancel: the victim of gradient conflict."""

from pmeta_lib.sac.learners.base import Learner


class Joint(Learner):
    name = "joint"
    one_phase = True
    one_policy = True
