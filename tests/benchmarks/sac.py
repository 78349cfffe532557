"""examples:
pmeta bench sac                          ratios to both peers and to the matrix products' own rate
pmeta bench sac --json sac.json          every number also to a file
pmeta bench sac --rounds 15 --seconds 2  longer, for a noisy machine
pmeta bench sac --parity --seeds 5       learning curves beside Stable-Baselines3's, equal settings, 100,000 steps
pmeta bench sac --parity --case defaults --steps 10000 --out out/parity    at its own defaults; resumable
pmeta bench sac --reach 500              CPU seconds to a return on half-cheetah-dir, desk against field settings

Whole training loops at one update per environment step: acting, stepping, storing, sampling, updating, in task-updates
per second (tasks x gradient updates). Peers: Stable-Baselines3 (PyTorch) and SBX (JAX), one task at a time, which is
all they do. Everything is pinned to one core and timed in CPU seconds, alternately, so that neighbours on the machine
disturb all sides alike; a ratio is the median over rounds, in brackets the smallest and largest. "bfloat16" is ours
with hidden products in bfloat16, where the processor has it. The field's loop (16 environments a task, an update for
every 8 transitions) is compared with one environment and with both peers at equal transitions and updates. Where there
is a CUDA device, the graphed updates of 80 tasks are measured on it too; elsewhere the report says that they were not.
On an H200 they ran at 50,700 task-updates per second (PyTorch 2.11, November 2026), where the aim is 50,000; with 157
operations an update instead of 112, at 48,100, and without TF32 and the kernels of `networks.py`, at 28,800.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
import torch
from tqdm import tqdm

from pmeta_lib.envs.families import family
from pmeta_lib.files import UserError, json_text, provenance, unknown
from pmeta_lib.sac import evaluation
from pmeta_lib.sac.graphs import Graphed
from pmeta_lib.sac.learners import LEARNERS, learner
from pmeta_lib.sac.memory import keep_freed_memory
from pmeta_lib.sac.networks import hidden_type
from pmeta_lib.sac.settings import Settings
from pmeta_lib.sac.training import advance, start, train, update


@dataclass(frozen=True)
class Setting:
    """One comparison: a family of `tasks` tasks, networks of two `hidden` layers, `batch` transitions a task."""

    name: str
    family: str
    tasks: int
    hidden: int
    batch: int

    @property
    def flops(self) -> float:
        """Floating-point operations of one task's update inside matrix products; gradients nobody needs left out."""
        f = family(self.family)
        o, a, h = f.observation_size, f.action_size, self.hidden
        actor, critic = o * h + h * h + h * 2 * a, (o + a) * h + h * h + h  # forward; so many again for the weights
        actor = 2 * actor + actor + (h * h + h * 2 * a)
        critic = 3 * critic + critic + h * h + (h * h + h * a)  # of the last, one column: no product; actions only
        return 2.0 * self.batch * (actor + 2 * critic)


SETTINGS = (
    Setting("small: 64 x 64, batch 128, 20 tasks", "pendulum-params", 20, 64, 128),
    Setting("middle: 128 x 128, batch 256, 8 tasks", "half-cheetah-vel", 8, 128, 256),
    Setting("large: 256 x 256, batch 256, 8 tasks", "half-cheetah-vel", 8, 256, 256),
)
FIELDS = Setting("field: 128 x 128, batch 256, 2 tasks", "half-cheetah-dir", 2, 128, 256)
ON_GPU = Setting("device: 256 x 256, batch 256, 80 tasks", "half-cheetah-vel", 80, 256, 256)
WARM_UP = 1000
# The field's scale: what settings differ in from a desk's, besides `steps`; equal for all learners.
FIELD = {
    "envs_per_task": 16, "updates_per_step": 0.125, "batch_size": 256, "learning_rate": 1e-3, "polyak": 0.01,
    "hidden": (128, 128), "precision": "bfloat16",
}  # fmt: skip
PEERS = {"Stable-Baselines3": ("stable_baselines3", "stable-baselines3"), "SBX": ("sbx", "sbx-rl")}


def configure(parser) -> None:
    growth = [1, 2, 5, 10, 20, 40]
    parser.add_argument("--rounds", type=int, default=9, help="rounds a comparison (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="CPU seconds a side and round (default: %(default)s)"
    )
    parser.add_argument("--tasks", type=int, nargs="+", default=growth, help="numbers of tasks for the growth")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    parser.add_argument("--parity", action="store_true", help="compare learning curves with Stable-Baselines3 instead")
    parser.add_argument("--case", default="equal", help="of --parity: equal (half-cheetah) or defaults (pendulum)")
    parser.add_argument("--steps", type=int, default=100_000, help="steps of --parity (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of --parity, --reach (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep every seed of --parity there, and go on from it")
    parser.add_argument("--reach", type=float, metavar="RETURN", help="measure the CPU seconds to this return instead")


def main(args) -> int:
    if args.rounds < 1 or args.seconds <= 0 or min(args.tasks) < 1 or args.steps < 2000 or args.seeds < 1:
        raise UserError("--rounds, --seconds, --tasks and --seeds must be above 0, --steps at least 2000.")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    threads = torch.get_num_threads()
    try:
        if cores:
            os.sched_setaffinity(0, cores[-1:])  # before JAX starts, which counts the cores then
        torch.set_num_threads(1)
        keep_freed_memory()  # as training does; the peers that use PyTorch gain by it too
        if args.parity:
            from benchmarks.parity import CASES, parity

            if args.case not in CASES:
                raise unknown("--case", args.case, list(CASES))
            report = parity(args.steps, list(range(args.seeds)), args.case, out=args.out)
        elif args.reach is not None:
            report = reach(args.reach, list(range(args.seeds)))
        else:
            report = speed(args.rounds, args.seconds, args.tasks)
    finally:
        torch.set_num_threads(threads)
        if cores:
            os.sched_setaffinity(0, cores)
    if args.json:
        args.json.write_text(json_text({"bench": "sac", "cores": len(cores), **provenance(), **report}, indent=2))
    return 0


def speed(rounds: int, seconds: float, growth: list[int]) -> dict:
    """Measure and print everything; the numbers as plain JSON types."""
    peers = {name: module for name, (module, extra) in PEERS.items() if available(name, module, extra)}
    report: dict = {"comparisons": [], "growth": [], "learners": []}
    with tqdm(total=rounds * (len(SETTINGS) + 3), disable=None, leave=False, unit="round") as bar:
        for setting in SETTINGS:
            report["comparisons"].append(compare(setting, peers, rounds, seconds, bar))
        report["field"] = field(peers, rounds, seconds, bar)
        small = SETTINGS[0]
        sizes = {n: ours(Setting("", small.family, n, small.hidden, small.batch)) for n in sorted(set(growth))}
        rates = alternate(sizes, rounds, seconds / 2, bar)
        report["growth"] = [{"tasks": n, "task_updates_per_second": float(np.median(r))} for n, r in rates.items()]
        contenders = {name: ours(small, name) for name in LEARNERS}
        rates = alternate(contenders, rounds, seconds / 2, bar)
        report["learners"] = [{"learner": n, "cost": summary(rates["independent"] / r)} for n, r in rates.items()]
        report["gpu"] = on_device(ON_GPU, "cuda", 2000) if torch.cuda.is_available() else None
    for c in report["comparisons"]:
        print(c["setting"])
        for side, rate in c["task_updates_per_second"].items():
            ratio = c["ratio"].get(side)
            print(f"  {side:<20}{rate:>9,.0f} task-updates/s" + (f"   ours x {spread(ratio)}" if ratio else ""))
        print(
            f"  updates alone: {spread(c['gemm_share'])} of the batched products' rate ({c['gemm_gflops']:.0f} GFLOP/s)"
        )
    print(f"{FIELDS.name}: transitions a CPU second, all tasks together, an update for every 8")
    for side, rate in report["field"]["transitions_per_second"].items():
        print(f"  {side:<20}{rate:>9,.0f}   field x {spread(report['field']['ratio'][side])}")
    first = report["growth"][0]["task_updates_per_second"] / report["growth"][0]["tasks"]
    print(f"growth with the number of tasks ({small.family}, {small.hidden} x {small.hidden})")
    for row in report["growth"]:
        rate = row["task_updates_per_second"]
        print(f"  {row['tasks']:>4} tasks {rate:>9,.0f} task-updates/s   x {rate / first:.1f} of one update at a time")
    print("cost of a learner, in training loops of independent SAC")
    for row in report["learners"]:
        print(f"  {row['learner']:<20}{spread(row['cost'])}")
    rate = report["gpu"]
    print(ON_GPU.name + (f": {rate:,.0f} task-updates/s" if rate else ": not measured, there is no CUDA device here"))
    return report


def on_device(setting: Setting, device: str, updates: int) -> float:
    """Task-updates per second of wall time: a device works while Python waits, so CPU seconds would say nothing."""
    run, gpu = trained(setting, device=device), device != "cpu"
    one, wait = (Graphed(update), torch.cuda.synchronize) if gpu else (update, lambda: None)
    for count in (10, updates):  # the first are eager, and the recording
        wait()
        began = time.perf_counter()
        for _ in range(count):
            one(run)
        wait()
    return setting.tasks * updates / (time.perf_counter() - began)


def available(name: str, module: str, distribution: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        print(f"{name} is not installed and left out: pip install {distribution}")
        return False
    return True


def compare(setting: Setting, peers: dict[str, str], rounds: int, seconds: float, bar) -> dict:
    """Ours, the peers and the bare matrix products, alternately."""
    run = trained(setting)
    sides = {"pmeta": loop(run)} | {name: peer(module, setting) for name, module in peers.items()}
    if hidden_type("auto", "cpu") == torch.bfloat16:
        sides["bfloat16"] = loop(trained(setting, precision="bfloat16"))
    sides |= {"updates alone": lambda: update(run) and setting.tasks, "products": products(setting)}
    rates = alternate(sides, rounds, seconds, bar)
    share = rates["updates alone"] * setting.flops / rates["products"]
    return {
        "setting": setting.name, "family": setting.family, "tasks": setting.tasks, "hidden": setting.hidden,
        "batch": setting.batch, "gemm_gflops": float(np.median(rates["products"]) / 1e9), "gemm_share": summary(share),
        "task_updates_per_second": {n: float(np.median(r)) for n, r in rates.items() if n != "products"},
        "ratio": {name: summary(rates["pmeta"] / rates[name]) for name in sides.keys() & {*peers, "bfloat16"}},
    }  # fmt: skip


def field(peers: dict[str, str], rounds: int, seconds: float, bar) -> dict:
    """The field's loop against one environment a task, and against the peers at equal transitions and updates."""
    same = {k: FIELD[k] for k in ("updates_per_step", "learning_rate", "polyak")}
    sides = {"field": loop(trained(FIELDS, **same, envs_per_task=16, precision="auto"))}
    sides["float32"] = loop(trained(FIELDS, **same, envs_per_task=16))
    sides["one environment"] = loop(trained(FIELDS, **same, precision="auto"))
    sides |= {name: peer(module, FIELDS, 16, 2) for name, module in peers.items()}
    rates = alternate(sides, rounds, seconds, bar)
    return {
        "setting": FIELDS.name, "transitions_per_second": {n: float(np.median(r)) for n, r in rates.items()},
        "ratio": {name: summary(rates["field"] / r) for name, r in rates.items()},
    }  # fmt: skip


def reach(wanted: float, seeds: list[int], family_name: str = "half-cheetah-dir", **changes) -> dict:
    """CPU seconds of training, evaluations left out, until the seeds' mean return is `wanted`; a side that is not there
    after its budget has None. Desk: one environment and one update a step; both have 128 x 128 networks."""
    sides = {"desk": {"steps": 40_000, "hidden": (128, 128)}, "field": {"steps": 400_000, **FIELD, "precision": "auto"}}
    report: dict = {"family": family_name, "return": wanted, "seeds": seeds, "seconds": {}, "steps": {}}
    for name, settings in sides.items():
        clock = {"evaluating": 0.0, "began": time.process_time()}
        evaluating = evaluation.Evaluator.returns

        def timed(self, *args, clock=clock, evaluating=evaluating):
            began = time.process_time()
            found = evaluating(self, *args)
            clock["evaluating"] += time.process_time() - began
            return found

        def there(run, name=name, clock=clock) -> bool:
            spent = time.process_time() - clock["began"] - clock["evaluating"]
            mean = float(np.mean([row[4] for row in run.rows if row[1] == run.step]))
            print(f"  {name:<8}{run.step:>9,} steps{spent:>8.0f} CPU s   return {mean:.0f}", flush=True)
            if mean >= wanted:
                report["seconds"][name], report["steps"][name] = spent, run.step
            return mean >= wanted

        evaluation.Evaluator.returns = timed
        try:
            train(family(family_name), learner("independent"), Settings(**settings | changes), seeds, callback=there)
        finally:
            evaluation.Evaluator.returns = evaluating
    found = [report["seconds"].setdefault(name, None) for name in sides]
    report["ratio"] = found[0] / found[1] if None not in found else None
    print(f"desk needs {report['ratio']:.1f} times the CPU" if report["ratio"] else "more than a budget is needed")
    return report


def alternate(sides: dict[str, Callable[[], float]], rounds: int, seconds: float, bar) -> dict[str, np.ndarray]:
    """Work per CPU second of every side, (rounds,): sides take turns; a first turn warms up and is not counted.

    A side does a little work when called and says how much. CPU seconds of the process, since what neighbours take
    from the wall clock is no property of the code; all sides have one core, so none can hide work in threads.
    """
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for r in range(rounds + 1):
        for name, work in sides.items():
            done, began = 0.0, time.process_time()
            while (spent := time.process_time() - began) < (seconds if r else seconds / 4) or not done:
                done += work()
            if r:
                rates[name].append(done / spent)
        if r:
            bar.update()
    return {name: np.array(x) for name, x in rates.items()}


def trained(setting: Setting, name: str = "independent", device: str = "cpu", **changes):
    """A run past its warm-up, on the caller's one thread."""
    f = family(setting.family, train=None if setting is FIELDS else setting.tasks)
    hidden = (setting.hidden, setting.hidden)
    settings = {"steps": 10**6, "hidden": hidden, "batch_size": setting.batch, "warm_up": WARM_UP,
                "replay_capacity": 20_000}  # fmt: skip
    settings = Settings(**settings | changes)
    run = start(f, learner(name), settings, [0], device)
    while run.step < WARM_UP:
        advance(run)
    return run


def loop(run) -> Callable[[], float]:
    """One step of all environments and the updates that belong to it; the work is counted in tasks x transitions,
    which is task-updates at one update a step."""

    def step() -> float:
        before = run.step
        advance(run)
        for _ in range(run.settings.updates_until(run.step) - run.settings.updates_until(before)):
            update(run)
        return float(np.prod(run.observation.shape[:3]))

    return step


def ours(setting: Setting, name: str = "independent") -> Callable[[], float]:
    return loop(trained(setting, name))


def peer(module: str, setting: Setting, envs: int = 1, updates: int = 1) -> Callable[[], float]:
    """A peer's own loop on gymnasium's own environment; the same networks, batch, rates and replay size, and as many
    environments and updates a step."""
    import importlib

    from stable_baselines3.common.vec_env import DummyVecEnv

    f = family(setting.family)
    env = DummyVecEnv([lambda: gymnasium.make(f.versions["base"], max_episode_steps=f.horizon,
                                              disable_env_checker=True)] * envs)  # fmt: skip
    where = {} if module == "sbx" else {"device": "cpu"}
    model = importlib.import_module(module).SAC(
        "MlpPolicy", env, learning_rate=3e-4, buffer_size=20_000, learning_starts=WARM_UP, batch_size=setting.batch,
        policy_kwargs={"net_arch": [setting.hidden] * 2}, seed=0, verbose=0, train_freq=1, gradient_steps=updates,
        **where,
    )  # fmt: skip
    model.learn(WARM_UP + 20, log_interval=10**9)

    def work(steps: int = 100 * envs) -> float:
        model.learn(steps, reset_num_timesteps=False, log_interval=10**9)
        return steps

    return work


def products(setting: Setting) -> Callable[[], float]:
    """The limit: the update's largest product (all twin critics' hidden layers), nothing else."""
    b, n, h = 2 * setting.tasks, setting.batch, setting.hidden
    x, w, out = torch.randn(b, n, h), torch.randn(b, h, h), torch.empty(b, n, h)

    def work() -> float:
        torch.bmm(x, w, out=out)
        return 2.0 * b * n * h * h

    return work


def summary(x: np.ndarray) -> dict[str, float]:
    return {"median": float(np.median(x)), "low": float(x.min()), "high": float(x.max())}


def spread(s: dict[str, float]) -> str:
    return f"{s['median']:.2f} [{s['low']:.2f}, {s['high']:.2f}]"
