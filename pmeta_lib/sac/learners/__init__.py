"""One file per algorithm. `learner(name, **options)` makes one; `LEARNERS` says where each is."""

import pkgutil
from typing import TYPE_CHECKING

from pmeta_lib.files import known

if TYPE_CHECKING:
    from pmeta_lib.sac.learners.base import Learner

LEARNERS = {  # name -> module:Class, imported when it is used
    "pmeta": "pmeta_lib.sac.learners.pmeta:PMeta",
    "independent": "pmeta_lib.sac.learners.independent:Independent",
    "joint": "pmeta_lib.sac.learners.joint:Joint",
    "joint-onehot": "pmeta_lib.sac.learners.joint_onehot:JointOnehot",
    "pcgrad": "pmeta_lib.sac.learners.pcgrad:PCGrad",
    "maml": "pmeta_lib.sac.learners.maml:MAML",
    "reptile": "pmeta_lib.sac.learners.reptile:Reptile",
    "distral": "pmeta_lib.sac.learners.distral:Distral",
    "pearl": "pmeta_lib.sac.learners.pearl:Pearl",
}


def learner(name: str, **options) -> "Learner":
    """The learner called `name` with its hyper-parameters; `UserError` for an unknown name, option or bad value."""
    return find(name, LEARNERS)(**options)


def find(name: str, table: dict[str, str]) -> type:
    """The class of a learner; `UserError` for a name that is not in the table."""
    return pkgutil.resolve_name(table[known("learner", name, list(table))])
