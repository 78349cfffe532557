"""What a run will cost, good to a factor of two, by a table that `pmeta bench cost` measures anew."""

from operator import mul

MACHINE = "one core of an AMD EPYC virtual machine, November 2026"
TABLE = f"a guess from stored measurements ({MACHINE}), good to a factor of two; GPUs were not measured"
# Seconds of an update, by its products' type: a constant, a part in proportion to (transitions x weights), one in
# proportion to weights. The fastest of 25 updates of seven sizes, fitted to 17 %.
UPDATE: dict = {"float32": (0.0019, 1.15e-10, 1.6e-08), "bfloat16": (0.0021, 4.9e-11, 1.63e-08)}
ON_POLICY = 2.5e-05  # seconds a slot and step of an on-policy learner, its updates included
STEP = 0.00071  # seconds of an environment step of any number of slots: acting, storing


def seconds(spec, packed: int) -> float:
    """Seconds of CPU for `packed` seeds of `spec` stacked in one process."""
    import numpy as np

    from pmeta_lib.envs.families import lookup  # gymnasium and PyTorch, which `--help` need not wait for
    from pmeta_lib.policy_gradient.learner import OnPolicy

    settings, family, learner = spec.settings, spec.make_family(), spec.make_learner()
    tasks, slot = packed * spec.train_tasks, lookup(spec.family).seconds
    if isinstance(learner, OnPolicy):
        return tasks * settings.steps * (slot + ON_POLICY)
    policies = packed * learner.policies(spec.train_tasks)
    size = sizes(family, settings.hidden, tasks * settings.batch_size, policies)
    update = learner.cost * np.dot(UPDATE[settings.precision], size)
    evaluating = (settings.evaluations + 1) * family.horizon * (STEP + tasks * settings.evaluation_episodes * slot)
    acting = settings.steps * (STEP / settings.envs_per_task + tasks * slot)
    return float(evaluating + acting + settings.updates_until(settings.steps) * update)


def sizes(family, hidden: tuple[int, ...], transitions: int, policies: int) -> tuple[float, float, float]:
    actor = (family.observation_size, *hidden, 2 * family.action_size)
    critic = (family.observation_size + family.action_size, *hidden, 1)
    size = sum(map(mul, actor, actor[1:])) + 2 * sum(map(mul, critic, critic[1:]))
    return 1.0, transitions * size, policies * size


def duration(value: float) -> str:
    """Seconds for people: 42 s, 3.5 min, 12 h, 4 days."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if value >= 1.5 * size:
            return f"{value / size:,.3g} {unit}"
    return f"{value:.0f} s"
