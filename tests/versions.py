"""Which numbers depend on the versions that pyproject.toml allows: everything below, in one environment after another.

python tests/versions.py roll FILE.npz            in each environment: rolls all families, trains a little
python tests/versions.py compare A.npz B.npz …    what is another number in B than in A, a line each

No test: an environment for each version takes gigabytes. What it found: docs/versions.md.
"""

import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
LIBRARIES = ("gymnasium", "mujoco", "numpy", "scipy", "torch", "pandas", "pyarrow")
STEPS = 450  # beyond every time limit


def deep(name: str, preset: str) -> dict:
    """Three slots under fixed random actions, and the single environment that gymnasium makes."""
    import gymnasium

    from pmeta_lib.envs import TaskVectorEnv, family

    f = family(name, preset)
    tasks = np.resize(f.test_tasks, (3, f.test_tasks.shape[1]))
    env = TaskVectorEnv(f, tasks, [0, 1, 2], dtype=np.float64)
    rng = np.random.Generator(np.random.PCG64(5))
    found = {"tasks": np.concatenate([f.train_tasks, f.test_tasks]), "reset": env.reset()[0]}
    seen = []
    for _ in range(STEPS):
        *step, info = env.step(rng.uniform(f.action_low, f.action_high, (3, f.action_size)))
        seen.append((info["final_obs"], *step))
    names = ("observations", "next", "rewards", "terminated", "truncated")
    found |= {key: np.stack(parts) for key, parts in zip(names, zip(*seen))}
    one = gymnasium.make(f.env_id, task=tasks[0], preset=preset)
    observation, _ = one.reset(seed=0)
    found["single reset"] = observation
    words = (one.observation_space, one.action_space, observation.dtype, one.spec.max_episode_steps, f.horizon)
    found["spaces"] = np.array("; ".join(map(str, words)))
    return found


def tabular(name: str) -> dict:
    from pmeta_lib.tabular.families import FAMILIES

    f = FAMILIES[name]()
    return {f"{part} {key}": getattr(getattr(f, part), key) for part in ("train", "test") for key in ("P", "r", "rho")}


def streams() -> dict:
    """numpy's and torch's generators, as we draw from them."""
    import torch

    def rng():
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(3).spawn(2)[1]))

    found = {
        "uniform": rng().uniform(-1, 2, 99), "normal": rng().standard_normal(99), "integers": rng().integers(0, 7, 99),
        "dirichlet": rng().dirichlet(np.ones(3), 9), "permutation": rng().permutation(99), "random": rng().random(99),
        "permuted": rng().permuted(np.tile(np.arange(9), (9, 1)), axis=-1),
        "choice": rng().choice(99, 9, replace=False), "multinomial": rng().multinomial(99, [0.2, 0.3, 0.5], 9),
    }  # fmt: skip
    for name in ("rand", "randn"):
        found[name] = getattr(torch, name)(99, generator=torch.Generator().manual_seed(3)).numpy()
    found["randint"] = torch.randint(99, (99,), generator=torch.Generator().manual_seed(3)).numpy()
    return found


def trained(name: str, learner: str) -> dict:
    """A short training: what it evaluates, and its final policy."""
    from pmeta_lib.experiments.learners import trainer
    from pmeta_lib.experiments.spec import RunSpec

    small = {"steps": 800, "warm_up": 40, "hidden": [16, 16], "batch_size": 16, "evaluations": 3}
    spec = RunSpec(name, learner, settings=small | {"evaluation_episodes": 1})
    run = trainer(spec.make_learner())(spec.make_family(), spec.make_learner(), spec.settings, [0])
    tensors, _ = run.final(0)
    return {"curve": run.curve["return"].to_numpy()} | {key: x.numpy() for key, x in tensors.items()}


def learned(name: str) -> dict:
    from pmeta_lib.tabular import pmeta
    from pmeta_lib.tabular.families import FAMILIES

    f = FAMILIES[name]()
    S, A = f.train.r.shape[1:]
    history = pmeta(f.train, np.zeros((S, A)), rounds=20, lam=1.0, eta=0.5, inner_steps=5, inner_step_size=0.5)
    return {"theta": history.theta}


def roll(target: str) -> None:
    from pmeta_lib.envs.families import _PRESETS, FAMILIES
    from pmeta_lib.tabular.families import FAMILIES as TABULAR

    work = {("streams",): streams} | {("table", name): lambda name=name: tabular(name) for name in TABULAR}
    work |= {("learn", name): lambda name=name: learned(name) for name in TABULAR}
    for name in FAMILIES:
        for preset, (_, changed) in _PRESETS.items():
            if name in changed.get("tasks", [name]):
                work["roll", name, preset] = lambda name=name, preset=preset: deep(name, preset)
    for name, learner in (("pendulum-params", "pmeta"), ("hopper-params", "pmeta"), ("point-robot", "pg-joint")):
        work["train", name, learner] = lambda name=name, learner=learner: trained(name, learner)
    found = {"versions": np.array(", ".join(f"{name} {version(name)}" for name in LIBRARIES))}
    for words, make in work.items():
        found |= {f"{' '.join(words)}: {key}": value for key, value in make().items()}
    np.savez_compressed(target, **found)


def difference(a: np.ndarray, b: np.ndarray) -> str:
    """ "" where equal, to the bit and in type; else how they differ."""
    if a.dtype.kind in "US" or a.dtype != b.dtype or a.shape != b.shape:
        return "" if a.dtype == b.dtype and np.array_equal(a, b) else f"{a.dtype}{a.shape} {b.dtype}{b.shape} {a} | {b}"
    apart = ~((a == b) | ((a != a) & (b != b)))
    if not apart.any():
        return ""
    first = np.argwhere(apart)[0]
    gap = np.abs(a.astype(float) - b.astype(float))[apart].max() / max(1.0, np.abs(a.astype(float)).max())
    return f"{apart.mean():.1%} of the entries, first at {first.tolist()}, largest gap {gap:.1e} of the largest entry"


def compare(first: str, *others: str) -> None:
    a = np.load(first)
    for other in others:
        b = np.load(other)
        print(f"{other}: {b['versions']} (against {a['versions']})")
        for key in sorted({*a, *b} - {"versions"}):
            text = difference(a[key], b[key]) if key in a and key in b else f"only in {first if key in a else other}"
            if text:
                print(f"  {key}: {text[:300]}")


if __name__ == "__main__":
    {"roll": roll, "compare": compare}[sys.argv[1]](*sys.argv[2:])
