"""examples:
pmeta bench pg                               half-cheetah at 40 slots, point-robot at 400: all five, beside SB3's PPO
pmeta bench pg --rounds 9 --json pg.json     longer; every number also to a file

Whole training loops (act, step, advantages, update) in environment steps per CPU second on one core, alternately. The
peer is Stable-Baselines3's PPO on as many environments of the same family, networks of the same size, twice: with as
many passes over its data as ProMP (5), in one batch, and at its own defaults (10 passes in batches of 64). A ratio is
the median over rounds, in brackets the smallest and largest. One of PPO's iterations is as long as one of ours.
"""

import os
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import torch
from tqdm import tqdm

from benchmarks.sac import alternate, spread, summary
from pmeta_lib.envs.families import family
from pmeta_lib.experiments.learners import LEARNERS, learner
from pmeta_lib.files import UserError, json_text, provenance
from pmeta_lib.policy_gradient.learner import OnPolicy
from pmeta_lib.policy_gradient.training import iterate, start
from pmeta_lib.sac.learners import find
from pmeta_lib.sac.settings import Settings

SLOTS = {"half-cheetah-dir": 40, "point-robot": 400}
HIDDEN = (64, 64)
PEERS = {"SB3 PPO, 5 passes": {"n_epochs": 5, "whole": True}, "SB3 PPO, its defaults": {"n_epochs": 10, "whole": False}}


def configure(parser) -> None:
    parser.add_argument("--families", nargs="+", default=list(SLOTS), metavar="NAME", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="rounds a comparison (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="CPU seconds a side and round (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")


def main(args) -> int:
    if args.rounds < 1 or args.seconds <= 0:
        raise UserError("--rounds and --seconds must be above 0.")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    threads, report = torch.get_num_threads(), []
    try:
        if cores:
            os.sched_setaffinity(0, cores[-1:])
        torch.set_num_threads(1)
        with tqdm(total=args.rounds * len(args.families), disable=None, leave=False, unit="round") as bar:
            for name in args.families:
                report.append(compare(name, args.rounds, args.seconds, bar))
    finally:
        torch.set_num_threads(threads)
        if cores:
            os.sched_setaffinity(0, cores)
    for r in report:
        print(f"{r['family']}, {r['slots']} slots, one core: environment steps per CPU second, whole training loop")
        for side, rate in r["steps_per_second"].items():
            ratios = [f"x {spread(r['ratio'][side][peer])} of {peer}" for peer in PEERS if side in r["ratio"]]
            print(f"  {side:<22}{rate:>9,.0f}  {'; '.join(ratios)}")
    if args.json:
        args.json.write_text(json_text({"bench": "pg", **provenance(), "comparisons": report}, indent=2))
    return 0


def compare(name: str, rounds: int, seconds: float, bar=None) -> dict:
    """Rates and ratios of one family."""
    place = family(name)
    slots = SLOTS.get(name, 40)
    sides = {who: ours(place, who, slots) for who in LEARNERS if issubclass(find(who, LEARNERS), OnPolicy)}
    sides |= {who: peer(place, slots, **how) for who, how in PEERS.items()}
    rates = alternate(sides, rounds, seconds, bar or tqdm(disable=True))
    ratio = {who: {p: summary(rates[who] / rates[p]) for p in PEERS} for who in sides if who not in PEERS}
    return {"family": name, "slots": slots, "steps_per_second": {n: float(np.median(r)) for n, r in rates.items()},
            "ratio": ratio}  # fmt: skip


def ours(place, name: str, slots: int) -> Callable[[], float]:
    tasks = len(place.train_tasks)
    run = start(place, learner(name, episodes=slots // tasks), Settings(steps=10**9, hidden=HIDDEN), [0])

    def work() -> float:
        before = run.step
        iterate(run)
        return (run.step - before) * tasks

    return work


def peer(place, slots: int, n_epochs: int, whole: bool) -> Callable[[], float]:
    """PPO's own loop on `slots` single environments of the family, its tasks in turn."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv

    tasks = np.resize(place.train_tasks, (slots, place.train_tasks.shape[1]))
    envs = DummyVecEnv([lambda t=t: gymnasium.make(place.env_id, task=t, disable_env_checker=True) for t in tasks])
    steps = place.horizon
    model = PPO("MlpPolicy", envs, n_steps=steps, n_epochs=n_epochs, batch_size=steps * slots if whole else 64,
                policy_kwargs={"net_arch": list(HIDDEN)}, seed=0, device="cpu", verbose=0)  # fmt: skip

    def work() -> float:
        model.learn(steps * slots, reset_num_timesteps=False, log_interval=10**9)
        return steps * slots

    return work
