"""The two controls, by TRPO on returns before any inner step: one shares nothing, the other everything."""

from pmeta_lib.policy_gradient.maml import TrustRegion


class Independent(TrustRegion):
    """A policy for each task, by its own return. It brings nothing along to a new task and takes no inner steps."""

    name = "pg-independent"
    one_policy = False
    training_steps = False


class Joint(TrustRegion):
    """One policy for all tasks, by their mean return. Inner steps at meta-test only: policy-gradient fine-tuning."""

    name = "pg-joint"
    training_steps = False
