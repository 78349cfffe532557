"""Every learner that a run can name. Each is a file of its own and one line: those on soft actor-critic have it in
`pmeta_lib.sac.learners`, the on-policy rivals here, and those of other packages in an entry point
`name = "module:Class"` of the group "pmeta.learners"."""

import pkgutil
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from pmeta_lib.sac.learners import LEARNERS as ON_SAC
from pmeta_lib.sac.learners import find

if TYPE_CHECKING:
    from pmeta_lib.sac.learners.base import Learner

LEARNERS = ON_SAC | {
    "pg-maml": "pmeta_lib.policy_gradient.maml:MAML",
    "promp": "pmeta_lib.policy_gradient.promp:ProMP",
    "rl2": "pmeta_lib.policy_gradient.rl2:RL2",
    "pg-independent": "pmeta_lib.policy_gradient.maml:Independent",
    "pg-joint": "pmeta_lib.policy_gradient.maml:Joint",
}
LEARNERS |= {found.name: found.value for found in entry_points(group="pmeta.learners")}


def learner(name: str, **options) -> "Learner":
    """The learner called `name` with its hyper-parameters; `UserError` for an unknown name, option or bad value."""
    return find(name, LEARNERS)(**options)


def trainer(learner: "Learner") -> Callable:
    """The training loop of a learner: `train(family, learner, settings, seeds, folder=…, …) -> Run`."""
    return pkgutil.resolve_name(learner.trained_by)
