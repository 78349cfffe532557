"""Meta-test of on-policy learners: the table that `pmeta_lib.sac.adaptation` makes for the others."""

from contextlib import closing

import pandas as pd
from torch import Tensor

from pmeta_lib.envs.families import TaskFamily
from pmeta_lib.files import UserError
from pmeta_lib.policy_gradient.learner import OnPolicy
from pmeta_lib.policy_gradient.training import Judge
from pmeta_lib.sac.adaptation import COLUMNS, Plan
from pmeta_lib.sac.settings import Settings
from pmeta_lib.sac.training import Stopped


def adapt(
    family: TaskFamily, learner: OnPolicy, theta: Tensor, settings: Settings, seeds: list[int], plan: Plan,
    threads: int = 1,
) -> pd.DataFrame:  # fmt: skip
    """What `learner` makes of the trained parameters `theta (S, G, P)` on the family's test tasks.

    "acting" are the first episodes as lived, by policies that sample; "deployed" the policy after so many steps (the
    plan's, and the first three updates of the learner's own), by its mean. Policy gradients sample `episodes` episodes
    before each inner step; RL2 goes on with its memory, and an episode's return is the mean of as many tries.
    """
    if not len(family.test_tasks):
        raise UserError(f"{family.name} has no test tasks to adapt to; choose another family")
    rows: list[tuple] = []
    unit = learner.unit(family.horizon)
    updates = learner.reach(plan, family.horizon)
    at = {s: s // unit for s in {0, unit, 2 * unit, 3 * unit, *plan.steps} if s // unit <= updates}
    try:
        with closing(Judge(family, family.test_tasks, seeds, learner.episodes, settings, threads)) as judge:
            path = list(learner.path(judge, theta, 0, updates)) if learner.policies(2) == 1 else []
    except FloatingPointError as error:
        raise Stopped(f"{learner.name} on the test tasks of {family.name}: {error}") from error
    for k, (deployed, acting) in enumerate(path):
        for s, seed in enumerate(seeds):
            for task in range(len(family.test_tasks)):
                x = deployed[s][task]
                rows += [(learner.name, seed, step, "deployed", None, task, x.mean(), x.std(), len(x))
                         for step in sorted(at) if at[step] == k]  # fmt: skip
                for j, tries in enumerate([] if acting is None else acting[s][task]):
                    number = k * len(acting[s][task]) + j + 1
                    if number <= plan.episodes:
                        rows.append((learner.name, seed, number * family.horizon, "acting", number, task, tries.mean(),
                                     tries.std(), len(tries)))  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"episode": "Int64", "return": float, "return_std": float})
