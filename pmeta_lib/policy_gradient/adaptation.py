"""Meta-test of on-policy learners: the table that `pmeta_lib.sac.adaptation` makes for the others."""

from contextlib import closing

import numpy as np
import pandas as pd
from torch import Tensor

from pmeta_lib.envs.families import TaskFamily
from pmeta_lib.files import UserError
from pmeta_lib.policy_gradient.learner import OnPolicy
from pmeta_lib.policy_gradient.training import Judge
from pmeta_lib.sac.adaptation import Plan, of_way
from pmeta_lib.sac.evaluation import curve_rows
from pmeta_lib.sac.settings import Settings
from pmeta_lib.sac.training import Stopped


def adapt(
    family: TaskFamily, learner: OnPolicy, theta: Tensor, settings: Settings, seeds: list[int], plan: Plan, threads=1
) -> pd.DataFrame:
    """What `learner` makes of the trained parameters `theta (S, G, P)` on the family's test tasks.

    "acting" are the first episodes as lived, by policies that sample; "deployed" the policy after so many steps (the
    plan's, and the first three updates of the learner's own), by its mean. Policy gradients sample `episodes` episodes
    before each inner step; RL2 goes on with its memory, and an episode's return is the mean of as many tries.
    """
    if not len(family.test_tasks):
        raise UserError(f"{family.name} has no test tasks to adapt to; choose another family")
    unit, updates = learner.schedule(plan, family.horizon)
    try:
        with closing(Judge(family, family.test_tasks, seeds, learner.episodes, settings, threads)) as judge:
            path = list(learner.path(judge, theta, 0, updates)) if learner.policies(2) == 1 else []
    except FloatingPointError as error:
        raise Stopped(f"{learner.name} on the test tasks of {family.name}: {error}") from error
    steps = [s for s in sorted({0, unit, 2 * unit, 3 * unit, *plan.steps}) if s // unit < len(path)]
    rows = [row for s in steps for row in curve_rows(seeds, s, "deployed", path[s // unit][0])]
    lived = [tries for _, acting in path if acting is not None for tries in np.moveaxis(acting, 2, 0)]
    for number, tries in enumerate(lived[: plan.episodes], 1):
        rows += curve_rows(seeds, number * family.horizon, "acting", tries)
    return of_way(learner.name, rows)
