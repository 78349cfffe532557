"""What a run will cost, from stored measurements (a family's `seconds`, a learner's `cost`): good to a factor of two.

examples:
python -m pmeta_lib.experiments.cost      measure the table anew on this machine (about three minutes) and print it
"""

import itertools
import time

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
    from pmeta_lib.sac.networks import hidden_type

    settings, place = spec.settings, spec.make_family()
    tasks = len(place.train_tasks)
    if isinstance(spec.make_learner(), OnPolicy):
        return packed * tasks * settings.steps * (lookup(spec.family).seconds + ON_POLICY)
    policies = spec.make_learner().policies(tasks)
    products = UPDATE[str(hidden_type(settings.precision, "cpu")).removeprefix("torch.")]
    update = np.dot(products, _sizes(place, settings.hidden, packed * tasks * settings.batch_size, packed * policies))
    update *= spec.make_learner().cost
    slot = lookup(spec.family).seconds
    episodes = (
        (settings.evaluations + 1) * place.horizon * (STEP + packed * tasks * settings.evaluation_episodes * slot)
    )
    acting = settings.steps * (STEP / settings.envs_per_task + packed * tasks * slot)
    return float(episodes + acting + settings.updates_until(settings.steps) * update)


def _sizes(place, hidden: tuple[int, ...], transitions: int, policies: int) -> tuple[float, float, float]:
    def weights(inputs, outputs):
        widths = (inputs, *hidden, outputs)
        return sum(a * b for a, b in itertools.pairwise(widths))

    size = weights(place.observation_size, 2 * place.action_size)
    size += 2 * weights(place.observation_size + place.action_size, 1)
    return 1.0, transitions * size, policies * size


def duration(value: float) -> str:
    """Seconds for people: 42 s, 3.5 min, 12 h, 4 days."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if value >= 1.5 * size:
            return f"{value / size:,.3g} {unit}"
    return f"{value:.0f} s"


def measure() -> None:
    """Print the table for this machine: CPU time, one thread, medians."""
    import numpy as np
    import torch

    from pmeta_lib.envs.families import FAMILIES, family
    from pmeta_lib.sac.learners import learner
    from pmeta_lib.sac.settings import Settings
    from pmeta_lib.sac.training import advance, start, update

    torch.set_num_threads(1)

    def cpu(action, times=60):
        spent = []
        for _ in range(times):
            before = time.process_time()
            action()
            spent.append(time.process_time() - before)
        return float(np.median(spent[times // 6 :]))

    env, step = {}, []
    for name in FAMILIES:
        place = family(name)
        small = Settings(steps=1000, warm_up=0, hidden=(128, 128))
        one, many = (start(place, learner("independent"), small, list(range(s))) for s in (1, 5))
        slots = [len(place.train_tasks) * s for s in (1, 5)]
        low, high = (cpu(lambda r=r: advance(r)) for r in (one, many))
        env[name] = max((high - low) / (slots[1] - slots[0]), 1e-7)
        step.append(low - slots[0] * env[name])
    rows, times = {p: [] for p in UPDATE}, {p: [] for p in UPDATE}
    for precision, (name, seeds, hidden, batch) in itertools.product(UPDATE, (
        ("pendulum-flip", 1, 128, 128), ("pendulum-flip", 4, 128, 128), ("pendulum-flip", 8, 128, 128),
        ("half-cheetah-vel", 1, 128, 128), ("half-cheetah-vel", 2, 128, 128), ("half-cheetah-vel", 1, 256, 256),
        ("pendulum-flip", 4, 32, 32), ("ant-dir", 2, 256, 256),
    )):  # fmt: skip
        for who in ("independent", "joint"):
            place = family(name)
            shape = Settings(steps=1000, warm_up=0, hidden=(hidden, hidden), batch_size=batch, precision=precision)
            run = start(place, learner(who), shape, list(range(seeds)))
            for _ in range(40):
                advance(run)
            times[precision].append(cpu(lambda r=run: update(r), 40))
            tasks = len(place.train_tasks)
            sizes = _sizes(place, (hidden, hidden), seeds * tasks * batch, seeds * run.learner.policies(tasks))
            rows[precision].append(sizes)
    from scipy.optimize import nnls

    for precision in UPDATE:
        x, y = np.array(rows[precision]), np.array(times[precision])
        fit = nnls(x / y[:, None], np.ones(len(y)))[0]  # relative errors count
        off = np.abs(x @ fit / y - 1).max()
        print(f"UPDATE[{precision!r}] = ({', '.join(f'{v:.3g}' for v in fit)})  # off by {off:.0%} at most")
    print(f"STEP = {max(np.median(step), 0):.2g}")
    print("seconds of the families:", {k: float(f"{v:.2g}") for k, v in env.items()})


if __name__ == "__main__":
    measure()
