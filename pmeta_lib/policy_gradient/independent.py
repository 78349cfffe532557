"""A policy for each task, by TRPO on its own return: the control that shares nothing."""

from typing import ClassVar

from pmeta_lib.options import options
from pmeta_lib.policy_gradient.maml import TrustRegion


@options
class Independent(TrustRegion):
    """It brings nothing along to a new task; inner steps are not taken anywhere."""

    name: ClassVar[str] = "pg-independent"
    training_steps: ClassVar[bool] = False

    def policies(self, tasks: int) -> int:
        return tasks
