"""examples:
pmeta bench cost                         the table behind `pmeta sweep --dry-run`, for this machine (three minutes)
"""

import itertools
import json
import time
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls

from pmeta_lib.envs.families import FAMILIES, family
from pmeta_lib.experiments.cost import UPDATE, sizes
from pmeta_lib.sac.learners import learner
from pmeta_lib.sac.networks import hidden_type
from pmeta_lib.sac.settings import Settings
from pmeta_lib.sac.training import advance, start, update


def configure(parser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")


def main(args) -> int:
    found = measure()
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    return 0


def measure() -> dict:
    """The table for this machine, printed: CPU time, one thread, medians."""
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
    here = [p for p in UPDATE if p in ("float32", str(hidden_type("auto", "cpu"))[6:])]  # "torch.bfloat16"
    rows, times = {p: [] for p in here}, {p: [] for p in here}
    for precision, (name, seeds, hidden, batch) in itertools.product(here, (
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
            size = sizes(place, (hidden, hidden), seeds * tasks * batch, seeds * run.learner.policies(tasks))
            rows[precision].append(size)
    found: dict = {}
    for precision in here:
        x, y = np.array(rows[precision]), np.array(times[precision])
        fit = nnls(x / y[:, None], np.ones(len(y)))[0]  # relative errors count
        off = np.abs(x @ fit / y - 1).max()
        found[precision] = fit.tolist()
        print(f"UPDATE[{precision!r}] = ({', '.join(f'{v:.3g}' for v in fit)})  # off by {off:.0%} at most")
    found |= {"step": float(max(np.median(step), 0)), "families": {k: float(f"{v:.2g}") for k, v in env.items()}}
    print(f"STEP = {found['step']:.2g}\nseconds of the families: {found['families']}")
    return found
