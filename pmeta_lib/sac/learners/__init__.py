"""One file per algorithm. `learner(name, **options)` makes one; `LEARNERS` lists the names."""

from pmeta_lib.files import unknown
from pmeta_lib.sac.learners.base import Learner, check_options
from pmeta_lib.sac.learners.distral import Distral
from pmeta_lib.sac.learners.independent import Independent
from pmeta_lib.sac.learners.joint import Joint
from pmeta_lib.sac.learners.joint_onehot import JointOnehot
from pmeta_lib.sac.learners.maml import MAML
from pmeta_lib.sac.learners.pcgrad import PCGrad
from pmeta_lib.sac.learners.pearl import Pearl
from pmeta_lib.sac.learners.pmeta import PMeta
from pmeta_lib.sac.learners.reptile import Reptile

LEARNERS: dict[str, type[Learner]] = {
    cls.name: cls for cls in (PMeta, Independent, Joint, JointOnehot, PCGrad, MAML, Reptile, Distral, Pearl)
}


def learner(name: str, **options) -> Learner:
    """The learner called `name` with its hyper-parameters; `UserError` for an unknown name, option or bad value."""
    if name not in LEARNERS:
        raise unknown("learner", name, LEARNERS)
    return LEARNERS[name](**check_options(LEARNERS[name], options))


__all__ = ["LEARNERS", "Learner", "learner"]
