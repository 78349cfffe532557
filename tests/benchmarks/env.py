"""Speed of the stacked environments against gymnasium's SyncVectorEnv, in one run, interleaved.

examples:
  pmeta bench env                                     half-cheetah, ant, humanoid and pendulum
  pmeta bench env --families ant-dir --tasks 32       one family, 32 slots
  pmeta bench env --rounds 21 --json env.json         more rounds; every number also to a file

Both sides step the same gymnasium robots from the same seeds with the same actions, and must end in the
same observations. A ratio is the median over rounds of ours / SyncVectorEnv's, each pair measured within
one round; in brackets the smallest and largest. `mujoco.rollout` is shown as a reference: it returns
states only, without observations, contact forces or rewards, and restarts its solver on every call.
"""

import os
import platform
import time
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from tqdm import tqdm

from pmeta_lib.envs import FAMILIES, TaskVectorEnv, family
from pmeta_lib.envs.families import lookup
from pmeta_lib.files import UserError, json_text, unknown

DEFAULT = ("half-cheetah-vel", "ant-dir", "humanoid-dir", "pendulum-flip")


def configure(parser) -> None:
    parser.add_argument("--families", nargs="+", default=DEFAULT, metavar="NAME", help="default: %(default)s")
    parser.add_argument("--tasks", type=int, default=16, help="slots stepped together (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="steps per round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds per family (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")


def main(args) -> int:
    for name in args.families:
        if name not in FAMILIES or name == "point-robot":
            raise unknown("family with a gymnasium peer", name, [f for f in FAMILIES if f != "point-robot"])
    if min(args.tasks, args.steps, args.rounds) < 1:
        raise UserError("--tasks, --steps and --rounds must be above 0.")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    settings = [cores[:1], cores[:2]] if len(cores) > 1 else [cores]
    results = []
    try:
        with tqdm(total=len(args.families) * len(settings) * args.rounds, disable=None, leave=False) as bar:
            for name in args.families:
                for use in settings:
                    results.append(measure(name, args.tasks, args.steps, args.rounds, use, bar))
    finally:
        if cores:
            os.sched_setaffinity(0, cores)
    print(f"{'family':<20}{'slots':>6}{'cores':>6}{'steps/s':>10}{'x SyncVectorEnv':>24}{'x rollout':>11}")
    for r in results:
        ratio = f"{r['ratio']:.2f} [{r['ratio_low']:.2f}, {r['ratio_high']:.2f}]"
        rollout = f"{r['ratio_to_rollout']:.2f}" if r["ratio_to_rollout"] else "-"
        speed = f"{r['steps_per_second']['pmeta']:,.0f}"
        print(f"{r['family']:<20}{r['slots']:>6}{r['cores']:>6}{speed:>10}{ratio:>24}{rollout:>11}")
    if len(settings) == 1:
        print("only one core is available: two were not measured" if cores else "not pinned: unsupported here")
    if args.json:
        machine = {"processor": platform.processor() or platform.machine(), "cores": len(cores)}
        args.json.write_text(json_text({"bench": "env", "machine": machine, "results": results}, indent=2))
    return 0


def measure(name: str, slots: int, steps: int, rounds: int, cores: list[int], bar=None) -> dict:
    """Rates and ratios of one family on the given cores (all contenders run on the same ones).

    Raises `UserError` if the two sides do not end in the same observations.
    """
    f = family(name)
    tasks, seeds = np.tile(lookup(name).default, (slots, 1)), list(range(slots))
    threads = max(1, len(cores))
    if cores:
        os.sched_setaffinity(0, cores)
    options = {"disable_env_checker": True, "max_episode_steps": f.horizon}  # the fastest way to make one
    if f.name == "ant-goal":
        options["exclude_current_positions_from_observation"] = False
    if f.name == "lunar-lander-params":
        options.update(continuous=True, enable_wind=True)
    ours = TaskVectorEnv(f, tasks, seeds, threads=threads, dtype=np.float64)
    peer = SyncVectorEnv(
        [lambda: gymnasium.make(f.versions["base"], **options)] * slots, autoreset_mode=AutoresetMode.SAME_STEP
    )
    rng = np.random.Generator(np.random.PCG64(0))
    actions = rng.uniform(f.action_low, f.action_high, (steps, slots, f.action_size)).astype(np.float32)
    contenders = {"pmeta": lambda: _loop(ours, actions), "SyncVectorEnv": lambda: _loop(peer, actions)}
    if f.suite == "mujoco":
        contenders["mujoco.rollout"] = _rollout(ours, actions, threads)
    times: dict[str, list[float]] = {c: [] for c in contenders}
    for r in range(rounds + 1):  # the first warms up
        last = {}
        for contender, run in contenders.items():
            ours.reset(seed=r * slots)
            peer.reset(seed=r * slots)
            start = time.perf_counter()
            last[contender] = run()
            times[contender].append(time.perf_counter() - start)
        error = np.abs(last["pmeta"] - last["SyncVectorEnv"]).max()
        if not error < 1e-6:
            raise UserError(f"{name}: the two sides differ by {error:.1e}; a comparison would mean nothing.")
        if bar is not None and r:
            bar.update()
    ours.close()
    peer.close()
    rate = {c: slots * steps / np.array(t[1:]) for c, t in times.items()}
    ratio = rate["pmeta"] / rate["SyncVectorEnv"]
    reference = rate.get("mujoco.rollout")
    return {
        "family": name,
        "slots": slots,
        "cores": len(cores) or None,
        "threads": threads,
        "ratio": float(np.median(ratio)),
        "ratio_low": float(ratio.min()),
        "ratio_high": float(ratio.max()),
        "ratio_to_rollout": float(np.median(rate["pmeta"] / reference)) if reference is not None else None,
        "steps_per_second": {c: float(np.median(x)) for c, x in rate.items()},
        "versions": f.versions,
    }


def _loop(env, actions: np.ndarray) -> np.ndarray:
    for a in actions:
        observation = env.step(a)[0]
    return observation


def _rollout(ours: TaskVectorEnv, actions: np.ndarray, threads: int):
    """The same models and actions through `mujoco.rollout`, one call a step, states in and out."""
    import mujoco
    from mujoco.rollout import Rollout

    batch, full = ours.batch, mujoco.mjtState.mjSTATE_FULLPHYSICS
    data = [mujoco.MjData(batch.models[0]) for _ in range(threads)]
    state = np.zeros((ours.num_envs, mujoco.mj_stateSize(batch.models[0], full)))
    pool = Rollout(nthread=threads if threads > 1 else 0)
    controls = np.repeat(actions[:, :, None].astype(np.float64), batch.skip, axis=2)

    def run():
        for b in range(ours.num_envs):
            mujoco.mj_getState(batch.models[b], batch.data[b], state[b], full)
        now = state
        for c in controls:
            now = pool.rollout(batch.models, data, now, c)[0][:, -1].copy()
        return now

    return run
