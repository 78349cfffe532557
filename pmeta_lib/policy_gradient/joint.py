"""One policy for all tasks, by TRPO on their mean return: the control that shares everything and never adapts."""

from typing import ClassVar

from pmeta_lib.options import options
from pmeta_lib.policy_gradient.maml import TrustRegion


@options
class Joint(TrustRegion):
    """Inner steps are taken at meta-test only: policy-gradient fine-tuning of the one policy."""

    name: ClassVar[str] = "pg-joint"
    training_steps: ClassVar[bool] = False
