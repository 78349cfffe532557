"""Every learner that a run can name: those on soft actor-critic, and the on-policy rivals. One file and one line each."""

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
from pmeta_lib.sac.learners import learner as on_sac
from pmeta_lib.sac.learners.base import check_options
from pmeta_lib.sac.training import train

ON_POLICY = {cls.name: cls for cls in (MAML, ProMP, RL2, Independent, Joint)}
LEARNERS: tuple[str, ...] = (*ON_SAC, *ON_POLICY)


def learner(name: str, **options) -> Learner:
    """The learner called `name` with its hyper-parameters; `UserError` for an unknown name, option or bad value."""
    if name not in LEARNERS:
        raise unknown("learner", name, LEARNERS)
    return ON_POLICY[name](**check_options(ON_POLICY[name], options)) if name in ON_POLICY else on_sac(name, **options)


def trainer(learner: Learner) -> Callable:
    """The training loop of a learner: `train(family, learner, settings, seeds, folder=…, …) -> Run`."""
    return train_on_policy if isinstance(learner, OnPolicy) else train
