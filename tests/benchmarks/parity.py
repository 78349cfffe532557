"""Learning curves beside Stable-Baselines3's: the same task, networks, batch, rates, warm-up and evaluation."""

import dataclasses
from importlib.metadata import version

import gymnasium
import numpy as np
from scipy import stats
from tqdm import tqdm

from pmeta_lib.envs.families import family
from pmeta_lib.sac.learners import learner
from pmeta_lib.sac.settings import Settings
from pmeta_lib.sac.training import train


def parity(steps: int, seeds: list[int], hidden: int = 128, batch: int = 128, evaluations: int = 10) -> dict:
    """Train both on half-cheetah running forward (horizon 200), print and return the curves.

    Two 95 % intervals (Student's) from Stable-Baselines3's n seeds: of its mean, and, wider by sqrt(2), for the mean
    of n further runs of it, since ours, trained stacked, is a mean of n noisy curves as well: two samples of one
    algorithm leave the first at about one evaluation in six, the second at one in twenty. With few seeds both are
    wide: this finds a wrong algorithm, not a small difference.
    """
    made = family("half-cheetah-dir")
    made = dataclasses.replace(made, train_tasks=made.train_tasks[:1])
    settings = Settings(steps=steps, hidden=(hidden, hidden), batch_size=batch, evaluations=evaluations,
                        evaluation_episodes=5)  # fmt: skip
    at = sorted(settings.evaluation_steps())
    curve = train(made, learner("independent"), settings, seeds).curve
    ours = curve.pivot_table(index="step", columns="seed", values="return").to_numpy()
    bar = tqdm(seeds, disable=None, leave=False, desc="Stable-Baselines3", unit="seed")
    theirs = np.stack([peer_curve(made, settings, seed, at) for seed in bar], axis=1)
    n = len(seeds)
    half = stats.t.ppf(0.975, max(n - 1, 1)) * theirs.std(1, ddof=min(n - 1, 1)) / n**0.5
    rows = []
    print(f"{made.name}, forward, {n} seeds, {hidden} x {hidden}, batch {batch}: mean return of 5 episodes")
    print(f"{'step':>8}{'ours':>9}{'theirs':>9}   their mean, 95 %       mean of {n} further runs")
    for step, our, their, h in zip(at, ours.mean(1), theirs.mean(1), half):
        intervals = [(their - w, their + w) for w in (h, h * 2**0.5)]
        inside = [bool(low <= our <= high) for low, high in intervals]
        shown = "".join(f"   [{low:7.1f}, {high:7.1f}]{' ' if i else '!'}" for (low, high), i in zip(intervals, inside))
        print(f"{step:>8,}{our:>9.1f}{their:>9.1f}{shown}")
        rows.append({"step": step, "ours": our, "theirs": their, "mean_interval": intervals[0],
                     "further_interval": intervals[1], "inside": inside})  # fmt: skip
    print("! ours is outside")
    return {"parity": rows, "ours": ours.tolist(), "theirs": theirs.tolist(), "seeds": list(seeds),
            "family": made.name, "task": made.train_tasks[0].tolist(), "settings": dataclasses.asdict(settings),
            "stable_baselines3": version("stable_baselines3")}  # fmt: skip


def peer_curve(made, settings: Settings, seed: int, at: list[int]) -> np.ndarray:
    """Returns of Stable-Baselines3's SAC at the steps `at`, on our single environment of the first training task."""
    from stable_baselines3 import SAC
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor

    def env():
        return Monitor(gymnasium.make(f"pmeta_lib.envs:{made.env_id}", task=made.train_tasks[0]))

    model = SAC(
        "MlpPolicy", env(), learning_rate=settings.learning_rate, buffer_size=settings.steps, gamma=settings.discount,
        learning_starts=settings.warm_up, batch_size=settings.batch_size, tau=settings.polyak, seed=seed, device="cpu",
        policy_kwargs={"net_arch": list(settings.hidden)}, verbose=0,
    )  # fmt: skip
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
