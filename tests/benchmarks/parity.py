"""Learning curves beside Stable-Baselines3's: the same task, networks, batch, rates, warm-up and evaluation.

Two cases: "equal" is a half-cheetah running forward, at settings of ours that both get, long enough to learn something;
"defaults" is one pendulum at what Stable-Baselines3's authors chose, which ours gets too. With `out`, every curve
is kept there, and the same call again goes on after the last one.
"""

import dataclasses
import json
from importlib.metadata import version
from pathlib import Path

import gymnasium
import numpy as np
from scipy import stats
from tqdm import tqdm

from pmeta_lib.envs.families import TaskFamily, family
from pmeta_lib.files import UserError, json_text, write_atomically
from pmeta_lib.sac.learners import learner
from pmeta_lib.sac.settings import Settings
from pmeta_lib.sac.training import train

CASES = {
    "equal": ("half-cheetah-dir", {"hidden": (128, 128), "batch_size": 128}),
    "defaults": ("pendulum-params", {"hidden": (256, 256), "batch_size": 256, "warm_up": 100}),
}


def parity(steps: int, seeds: list[int], case: str = "equal", evaluations: int = 10, out: Path | None = None) -> dict:
    """Train both on the case's first training task (horizon 200); print and return the curves.

    At each evaluation two 95 % intervals (Student's) from Stable-Baselines3's n seeds: of its mean, and, wider by
    sqrt(2), for the mean of n further runs of it, since ours is a mean of n noisy curves as well: two samples of one
    algorithm leave the first at about one evaluation in six, the second at one in twenty. Then one number: the
    difference of the means over the last quarter of the evaluations, with Welch's interval. With few seeds all are
    wide: this finds a wrong algorithm, not a small difference.
    """
    name, chosen = CASES[case]
    made = family(name)
    made = dataclasses.replace(made, train_tasks=made.train_tasks[:1])
    settings = Settings(steps=steps, evaluations=evaluations, evaluation_episodes=5, **chosen)
    at = sorted(settings.evaluation_steps())
    bar = tqdm([(who, seed) for seed in seeds for who in ("ours", "theirs")], disable=None, leave=False, unit="run")
    curves = {"ours": [], "theirs": []}
    for who, seed in bar:
        curves[who].append(kept(out, f"{case}-{who}-{seed}", made, settings, seed, at, case == "defaults"))
    ours, theirs = (np.stack(curves[who], axis=1) for who in ("ours", "theirs"))
    n = len(seeds)
    half = stats.t.ppf(0.975, max(n - 1, 1)) * theirs.std(1, ddof=min(n - 1, 1)) / n**0.5
    rows = []
    print(f"{name}, {made.describe(made.train_tasks[0])}, {n} seeds, {settings.hidden}, batch {settings.batch_size}: "
          "mean return of 5 episodes")  # fmt: skip
    print(f"{'step':>8}{'ours':>9}{'theirs':>9}   their mean, 95 %       mean of {n} further runs")
    for step, our, their, h in zip(at, ours.mean(1), theirs.mean(1), half):
        intervals = [(their - w, their + w) for w in (h, h * 2**0.5)]
        inside = [bool(low <= our <= high) for low, high in intervals]
        shown = "".join(f"   [{low:7.1f}, {high:7.1f}]{' ' if i else '!'}" for (low, high), i in zip(intervals, inside))
        print(f"{step:>8,}{our:>9.1f}{their:>9.1f}{shown}")
        rows.append({"step": step, "ours": our, "theirs": their, "mean_interval": intervals[0],
                     "further_interval": intervals[1], "inside": inside})  # fmt: skip
    print("! ours is outside")
    late = [x[np.array(at) > 0.75 * steps].mean(0) for x in (ours, theirs)]
    difference = late_difference(*late) if n > 1 else None
    if difference:
        print("last quarter, ours - theirs: {:+.1f} [{:+.1f}, {:+.1f}], of {:.1f}".format(*difference, late[1].mean()))
    return {"parity": rows, "late_difference": difference, "ours": ours.tolist(), "theirs": theirs.tolist(),
            "seeds": list(seeds), "case": case, "family": name, "task": made.train_tasks[0].tolist(),
            "settings": dataclasses.asdict(settings), "stable_baselines3": version("stable_baselines3")}  # fmt: skip


def late_difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    """Mean of `ours (n,)` minus that of `theirs (m,)`, with Welch's 95 % interval."""
    interval = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval()
    return float(ours.mean() - theirs.mean()), float(interval.low), float(interval.high)


def kept(
    out: Path | None, name: str, made: TaskFamily, settings: Settings, seed: int, at: list[int], untouched: bool
) -> np.ndarray:
    """One run's curve, from `out` where it is there: ours or theirs, as `name` says."""
    identity = json_text([dataclasses.asdict(settings), made.train_tasks.tolist(), version("stable_baselines3")])
    path = out / f"{name}.json" if out is not None else None
    if path is not None and path.exists():
        stored = json.loads(path.read_text())
        if stored["identity"] != identity:
            raise UserError(f"{path} is of other settings or another version; choose another --out")
        return np.array(stored["curve"])
    if "-ours-" in name:
        table = train(made, learner("independent"), settings, [seed]).curve
        curve = table.pivot_table(index="step", values="return")["return"].to_numpy()
    else:
        curve = peer_curve(made, settings, seed, at, untouched)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json_text({"identity": identity, "curve": curve.tolist()}).encode())
    return curve


def peer_curve(made: TaskFamily, settings: Settings, seed: int, at: list[int], untouched: bool = False) -> np.ndarray:
    """Returns of Stable-Baselines3's SAC at the steps `at`, on our single environment of the first training task;
    `untouched` leaves it at its own defaults."""
    from stable_baselines3 import SAC
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor

    def env():
        return Monitor(gymnasium.make(f"pmeta_lib.envs:{made.env_id}", task=made.train_tasks[0]))

    given = {} if untouched else {
        "learning_rate": settings.learning_rate, "buffer_size": settings.steps, "gamma": settings.discount,
        "learning_starts": settings.warm_up, "batch_size": settings.batch_size, "tau": settings.polyak,
        "policy_kwargs": {"net_arch": list(settings.hidden)},
    }  # fmt: skip
    model = SAC("MlpPolicy", env(), seed=seed, device="cpu", verbose=0, **given)
    test, returns = env(), []
    test.reset(seed=10_000 + seed)

    def evaluate() -> None:
        returns.append(evaluate_policy(model, test, settings.evaluation_episodes, deterministic=True)[0])

    class Evaluate(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps in at:  # before this step's own update, one of thousands
                evaluate()
            return True

    evaluate()
    model.learn(settings.steps, callback=Evaluate(), log_interval=10**9)
    return np.array(returns)
