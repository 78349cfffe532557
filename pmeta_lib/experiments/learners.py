"""Every learner that a run can name: those on soft actor-critic and the on-policy rivals. One file, one line each."""

from collections.abc import Callable

from pmeta_lib.files import unknown
from pmeta_lib.policy_gradient.independent import Independent
from pmeta_lib.policy_gradient.joint import Joint
from pmeta_lib.policy_gradient.learner import OnPolicy
from pmeta_lib.policy_gradient.maml import MAML
from pmeta_lib.policy_gradient.promp import ProMP
from pmeta_lib.policy_gradient.rl2 import RL2
from pmeta_lib.policy_gradient.training import train as train_on_policy
from pmeta_lib.sac.learners import LEARNERS as ON_SAC
from pmeta_lib.sac.learners import Learner
from pmeta_lib.sac.learners.base import check_options
from pmeta_lib.sac.training import train

LEARNERS: dict[str, type[Learner]] = ON_SAC | {c.name: c for c in (MAML, ProMP, RL2, Independent, Joint)}


def learner(name: str, **options) -> Learner:
    """The learner called `name` with its hyper-parameters; `UserError` for an unknown name, option or bad value."""
    if name not in LEARNERS:
        raise unknown("learner", name, LEARNERS)
    return LEARNERS[name](**check_options(LEARNERS[name], options))


def trainer(learner: Learner) -> Callable:
    """The training loop of a learner: `train(family, learner, settings, seeds, folder=…, …) -> Run`."""
    return train_on_policy if isinstance(learner, OnPolicy) else train
