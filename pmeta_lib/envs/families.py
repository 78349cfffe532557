"""Task families: what differs between tasks, which tasks train and which test, under which protocol.

A task is a row of k float64 numbers; a family is a distribution over such rows plus a fixed draw of meta-train and
meta-test tasks. The draw depends on the family's name only, so every run and every machine sees the same tasks; the
tasks of a larger set begin with those of a smaller one.

The same name means different things in different papers. A *preset* fixes horizon, ranges, split and evaluation rule:
`modern` (default; gymnasium v5, held-out tasks) and the protocols of PEARL (Rakelly et al., ICML 2019), ProMP (Rothfuss
et al., ICLR 2019) and VariBAD (Zintgraf et al., ICLR 2020) as read from their published code. A preset changes the
protocol, not the physics, which is always gymnasium's v5: numbers of those papers, measured on older robots and older
MuJoCo, are not comparable to ours. Every run is evaluated by `modern`'s rule; its record names the paper's, too."""

import pkgutil
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import metadata
from typing import Any

import numpy as np

from pmeta_lib.envs.heterogeneity import KNOBS
from pmeta_lib.files import UserError, known, unknown

MOST_TASKS = 100_000  # beyond what any machine trains; refused before they are drawn
version = cache(metadata.version)  # reads a file of the package at each call


# ------------------------------------------------------------------------------------ task distributions
def _uniform(low: tuple[float, ...], high: tuple[float, ...]) -> Callable:
    return lambda n, rng: rng.uniform(low, high, (n, len(low)))


def _polar(radius, angle: np.ndarray) -> np.ndarray:
    return np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1)


def _disc(n: int, rng: np.random.Generator) -> np.ndarray:
    u = rng.random((n, 2))  # uniform in area over the disc of radius 3, as ProMP and PEARL
    return _polar(3.0 * np.sqrt(u[:, 0]), 2.0 * np.pi * u[:, 1])


def _multipliers(bodies: int, dofs: int, geoms: int, damping_base: float = 1.5) -> Callable:
    """`base^u, u ~ U[-3, 3]`, independently for every mass, inertia axis, joint damping and friction. The elements are
    those of rand_param_envs, whose base for damping is 1.3 (the papers' presets); `modern` uses 1.5 for all. Axes of an
    inertia vary independently there too, which no rigid body would do."""
    base = np.repeat((1.5, damping_base, 1.5), (4 * bodies, dofs, 3 * geoms))
    return lambda n, rng: base ** rng.uniform(-3.0, 3.0, (n, len(base)))


# --------------------------------------------------------------------------------------------- the table
@dataclass(frozen=True)
class Family:
    """All that a family is, but for its physics. A family is a file of its own and one line: in the table below or, in
    another package, an entry point `name = "module:FAMILY"` of the group "pmeta.families"."""

    env: str  # Name of pmeta/Name-v0
    entry: str  # module:callable, a single environment from family=, task=, preset=, render_mode=
    batch: str  # module:class, the physics of all slots at once from a TaskFamily, tasks (B, k) and threads
    base: str  # the environment whose physics it has
    observation_size: int
    action_size: int
    sample: Callable  # (n, generator) -> tasks (n, k)
    default: tuple[float, ...]  # the task of an environment made without one
    describe: Callable
    action_limit: float = 1.0
    tasks: tuple[int, int] = (10, 5)  # meta-train, meta-test
    horizon: int = 200
    fixed: tuple[float, ...] | None = None  # all tasks there are: nothing can be held out
    domain: tuple[str, Callable] | None = None  # what a task must be, in words and as a test of rows
    seconds: float = 2e-4  # CPU time of a slot's step, see `pmeta_lib.experiments.cost`
    identical: bool = False  # all tasks are one task: nothing can be held out


def _only(*values: float) -> dict:
    rows = np.array(values)[:, None]
    made: dict = {"fixed": values, "tasks": (len(rows), len(rows)), "default": values[:1]}
    return made | {"sample": lambda n, rng: rows[rng.integers(0, len(rows), n)]}


def _signs(plus: str, minus: str) -> dict:
    made = _only(1.0, -1.0) | {"domain": ("+1 or -1", lambda t: np.isin(t, (1.0, -1.0)).all(1))}
    return made | {"describe": lambda t: plus if t[0] > 0 else minus}


def _params(bodies: int, dofs: int, geoms: int) -> dict:
    made: dict = {"sample": _multipliers(bodies, dofs, geoms), "default": (1.0,) * (4 * bodies + dofs + 3 * geoms)}
    words = "{} body parameters x{:.2f} to x{:.2f}"
    return made | {"describe": lambda t: words.format(len(t), t.min(), t.max()), "domain": _POSITIVE}


def _pendulum_words(t: np.ndarray) -> str:
    motor = ", torque reversed" if (t[3:] < 0).any() else ""
    return f"g = {t[0]:.1f} m/s^2, m = {t[1]:.2f} kg, l = {t[2]:.2f} m{motor}"


_CLASSIC, _MUJOCO = "pmeta_lib.envs.classic", "pmeta_lib.envs.mujoco"
_pendulum = partial(
    Family, entry=f"{_CLASSIC}:PendulumTaskEnv", batch=f"{_CLASSIC}:PendulumBatch", base="Pendulum-v1",
    observation_size=3, action_size=1, action_limit=2.0,
)  # fmt: skip
_robot = partial(Family, entry=f"{_MUJOCO}:task_env", batch=f"{_MUJOCO}:MujocoBatch")
_half_cheetah = partial(_robot, base="HalfCheetah-v5", observation_size=17, action_size=6)
_ant = partial(_robot, base="Ant-v5", observation_size=105, action_size=8)
_ANGLE: dict = {"sample": _uniform((0.0,), (2 * np.pi,)), "default": (0.0,)}
_ANGLE |= {"describe": lambda t: f"direction {np.degrees(t[0]) % 360:.0f} deg"}
_POSITIVE = ("above 0 in every entry", lambda t: (t > 0).all(1))
_WALKER, _HOPPER = (8, 9, 8), (5, 6, 5)  # bodies, degrees of freedom, geoms (world and floor included)

_TABLE: dict[str, Family | str] = {
    "point-robot": Family(
        "PointRobot", entry=f"{_CLASSIC}:PointRobotEnv", batch=f"{_CLASSIC}:PointRobotBatch", base="2-D navigation",
        observation_size=2, action_size=2, action_limit=0.1, tasks=(20, 10), horizon=20, default=(0.0, 1.0),
        sample=lambda n, rng: _polar(1.0, rng.uniform(0.0, np.pi, n)),
        describe=lambda t: f"goal ({t[0]:+.2f}, {t[1]:+.2f})", seconds=4.8e-06,
    ),
    "pendulum-params": _pendulum(
        # Wide enough that policies differ, narrow enough that pumping energy swings every one of them up
        # within its 200 steps (the heaviest, 12, 1.25, 1.25, needs about 100).
        "PendulumParams", sample=_uniform((8.0, 0.75, 0.75), (12.0, 1.25, 1.25)), default=(10.0, 1.0, 1.0),
        describe=_pendulum_words, domain=_POSITIVE, seconds=7.3e-06,
    ),
    "lunar-lander-params": Family(
        "LunarLanderParams", entry="pmeta_lib.envs.lunar:LunarLanderParamsEnv", base="LunarLander-v3",
        batch="pmeta_lib.envs.lunar:LunarBatch", observation_size=8, action_size=2, horizon=400, seconds=0.00011,
        sample=_uniform((-11.5, 0.0, 0.0), (-6.0, 15.0, 1.5)), default=(-10.0, 15.0, 1.5),
        describe=lambda t: f"gravity {t[0]:.1f} m/s^2, wind {t[1]:.1f}, turbulence {t[2]:.2f}",
        domain=("of gravity between -12 and 0, wind and turbulence not negative",
                lambda t: (t[:, 0] > -12) & (t[:, 0] < 0) & (t[:, 1:] >= 0).all(1)),
    ),
    "pendulum-flip": _pendulum("PendulumFlip", **_signs("torque as is", "torque reversed"), seconds=6.4e-06),
    "half-cheetah-dir": _half_cheetah("HalfCheetahDir", **_signs("forward", "backward"), seconds=8.2e-05),
    "half-cheetah-vel": _half_cheetah("HalfCheetahVel", sample=_uniform((0.0,), (3.0,)), default=(1.5,), seconds=0.0001,
                                      describe=lambda t: f"v = {t[0]:.2f} m/s"),
    "ant-dir": _ant("AntDir", **_ANGLE | _only(0.0, np.pi), seconds=0.00041),
    "ant-dir-graded": _ant("AntDir", **_ANGLE, seconds=0.00027),
    "ant-goal": _ant(
        "AntGoal", observation_size=107,  # with the torso's x, y: without them the goal could not be found
        sample=_disc, default=(1.5, 0.0), describe=lambda t: f"goal ({t[0]:+.2f}, {t[1]:+.2f}) m", seconds=0.00036,
    ),
    "humanoid-dir": _robot("HumanoidDir", base="Humanoid-v5", observation_size=348, action_size=17, action_limit=0.4,
                           **_ANGLE, seconds=0.00059),
    "walker2d-params": _robot("Walker2dParams", base="Walker2d-v5", observation_size=17, action_size=6,
                              **_params(*_WALKER), seconds=0.00026),
    "hopper-params": _robot("HopperParams", base="Hopper-v5", observation_size=11, action_size=3,
                            **_params(*_HOPPER), seconds=0.00021),
}  # fmt: skip
_TABLE |= {found.name: found.value for found in metadata.entry_points(group="pmeta.families")}
FAMILIES: tuple[str, ...] = tuple(_TABLE)


_RAND_PARAMS = {"walker2d-params": _multipliers(*_WALKER, 1.3), "hopper-params": _multipliers(*_HOPPER, 1.3)}
_PAIRS = dict.fromkeys(("half-cheetah-dir", "ant-dir"), (2, 2))
_DRAWN = ("half-cheetah-vel", "ant-goal", "humanoid-dir", *_RAND_PARAMS)
# The evaluation rule, and what differs from the table: field -> family -> value; "tasks" has all families of a paper.
_PRESETS: dict[str, tuple[str, dict[str, dict]]] = {
    "modern": ("mean return of 5 episodes per task with the deterministic policy", {}),
    # ant-dir as the paper says (forward, backward); its published configuration leaves the flag for that
    # unset and draws two random directions. point-robot: the dense reward of `sparse-point-robot`.
    "pearl2019": (
        "mean return of the episodes that follow two exploration episodes, whose transitions are the context",
        {"tasks": {"point-robot": (80, 20), **_PAIRS, **dict.fromkeys(_DRAWN, (100, 30)), "ant-goal": (150, 30),
                   **dict.fromkeys(_RAND_PARAMS, (40, 10))}, "sample": _RAND_PARAMS},
    ),
    # Draws tasks anew each iteration, 40 at a time: use `sample_tasks`; the fixed 40 stand for one draw.
    "promp2018": (
        "mean return after one policy-gradient step on 20 episodes per task (`Step_1`), stochastic policy",
        {"tasks": {**_PAIRS, **dict.fromkeys(("ant-dir-graded", *_DRAWN), (40, 40))}, "sample": _RAND_PARAMS,
         "horizon": dict.fromkeys(("half-cheetah-dir", "half-cheetah-vel", "ant-dir", "ant-dir-graded"), 100)},
    ),
    # Draws tasks anew too, one for each of 16 processes. ant-dir as the paper says; the published code
    # passes its +1 / -1 to cos and sin, so that its two directions are +57 and -57 degrees.
    "varibad2020": (
        "return of the first episode on a task, while acting and inferring online (2 episodes per task)",
        {"tasks": {**_PAIRS, **dict.fromkeys(_DRAWN, (16, 16))}, "sample": _RAND_PARAMS},
    ),
}  # fmt: skip
PRESETS: tuple[str, ...] = tuple(_PRESETS)


@dataclass(frozen=True, eq=False)
class TaskFamily:
    """A family under a preset. Tasks are rows of k numbers, `(N, k)` float64; see `describe`."""

    name: str
    preset: str
    suite: str  # "gym" or "mujoco"
    env_id: str
    observation_size: int
    action_size: int
    horizon: int  # steps per episode
    train_tasks: np.ndarray  # (N, k)
    test_tasks: np.ndarray  # (M, k)
    held_out: bool  # False: the test tasks are the training tasks, and `description` says so
    action_low: np.ndarray  # (a,) in the environment's own units
    action_high: np.ndarray
    evaluation: str  # the preset's evaluation rule
    description: str
    versions: dict[str, str]  # goes on every result row

    def sample_tasks(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """`n` fresh tasks `(n, k)` from the preset's distribution, drawn from the generator passed."""
        return lookup(self.name, self.preset).sample(n, rng)

    def describe(self, task: np.ndarray) -> str:
        """A task in words, with units."""
        return lookup(self.name).describe(np.asarray(task, float))


def family(name: str, preset: str = "modern", train: int | None = None, test: int | None = None) -> TaskFamily:
    """The family `name` under `preset`; `train`, `test` override the numbers of tasks (e.g. 100, 30).

    Raises `UserError` as `lookup` does, for impossible task counts, and for test tasks that should be held out."""
    row = lookup(name, preset)
    for label, n in (("train", train), ("test", test)):
        if n is not None and (int(n) != n or not 1 <= n <= MOST_TASKS):
            raise UserError(f"{label} = {n!r}: the number of tasks of {name} must be a whole number above 0, "
                            f"at most {MOST_TASKS}.")  # fmt: skip
    n_train, n_test = train or row.tasks[0], test or row.tasks[1]
    if row.fixed is not None:
        if (n_train, n_test) != row.tasks:
            raise UserError(f"{name} has exactly {len(row.fixed)} tasks, which both train and test: omit counts.")
        train_tasks = test_tasks = np.array(row.fixed)[:, None]
    else:
        # Two streams, so that the test tasks do not depend on how many train.
        streams = np.random.default_rng(zlib.crc32(name.partition("@")[0].encode())).spawn(2)
        train_tasks, test_tasks = map(row.sample, (n_train, n_test), streams)
    held_out = row.fixed is None and not row.identical
    check_held_out(train_tasks, test_tasks, allowed=not held_out, where=f"{name} ({preset})")
    split = "held out" if held_out else "NOT held out: the test tasks are the training tasks"
    env_id, limit = f"pmeta/{row.env}-v0", np.full(row.action_size, row.action_limit)
    return TaskFamily(
        name, preset, "mujoco" if row.base.endswith("-v5") else "gym", env_id, row.observation_size, row.action_size,
        row.horizon, train_tasks, test_tasks, held_out, -limit, limit, _PRESETS[preset][0],
        description=f"{name} ({preset}) on {row.base}: {n_train} training and {n_test} test tasks, {split}",
        versions={"env": env_id, "base": row.base, "gymnasium": version("gymnasium"), "mujoco": version("mujoco")},
    )  # fmt: skip


def check_held_out(train: np.ndarray, test: np.ndarray, allowed: bool = False, where: str = "tasks") -> None:
    """Refuse a meta-test set that meets the meta-train set, unless the protocol says so (`allowed`)."""
    for j, task in enumerate([] if allowed else test):  # one at a time: memory for one copy of the training tasks
        same = np.flatnonzero((np.abs(train - task) < 1e-12).all(1))
        if len(same):
            raise UserError(f"{where}: test task {j} is training task {same[0]}; meta-test tasks must be held out.")


def check_tasks(name: str, tasks: np.ndarray, preset: str = "modern") -> np.ndarray:
    """`tasks` as a float64 `(B, k)` array, or a `UserError` that says what is wrong with it."""
    row, tasks = lookup(name, preset), np.array(tasks, dtype=np.float64)
    if tasks.ndim != 2 or tasks.shape[1] != len(row.default) or not len(tasks):
        raise UserError(f"tasks of {name}: shape {tasks.shape}; needs (number of slots, {len(row.default)}).")
    finite = np.isfinite(tasks).all(1)
    if not finite.all():
        raise UserError(f"tasks of {name}: row {np.flatnonzero(~finite)[0]} is not finite.")
    if row.domain is not None and not (valid := row.domain[1](tasks)).all():
        raise UserError(f"tasks of {name}: row {np.flatnonzero(~valid)[0]} must be {row.domain[0]}.")
    return tasks


def check_task(name: str, task, preset: str = "modern") -> np.ndarray:
    """One task as `(k,)`; a bare number stands for a vector of one, None for the family's default."""
    task = lookup(name).default if task is None else task
    return check_tasks(name, np.atleast_1d(np.asarray(task, dtype=np.float64))[None], preset)[0]


def floats(action) -> np.ndarray:
    """`action` as an array in its own floating type: like gymnasium, physics sees no more digits than it has."""
    action = np.asarray(action)
    return action if np.issubdtype(action.dtype, np.floating) else action.astype(np.float64)


def check_action(name: str, action) -> np.ndarray:
    """`action` as an array of floats, or a `UserError` if an entry is not finite."""
    action = floats(action)
    if not np.isfinite(action).all():
        raise UserError(f"action {action.tolist()} of {name} is not finite; has the actor diverged?")
    return action


def lookup(name: str, preset: str = "modern") -> Family:
    """The row of the table under a preset; `NAME@H` is NAME at heterogeneity H (see `heterogeneity`). Raises
    `UserError` for a family, preset or H that is unknown, and for a family that the preset does not define."""
    base, at, h = name.partition("@")
    if base not in _TABLE:
        raise unknown("task family", base, FAMILIES)
    row: Any = _TABLE[base]
    if isinstance(row, str):
        row = _TABLE[base] = pkgutil.resolve_name(row)
    if at and base not in KNOBS:
        raise UserError(f"{base} has no knob for its tasks' heterogeneity (@{h}); these have: {', '.join(KNOBS)}.")
    if at and not re.fullmatch(r"0|1|0\.\d*[1-9]", h):  # one spelling, so one identity
        raise UserError(f"family {name}: the heterogeneity behind @ must be a number from 0 to 1, as in {base}@0.5.")
    if at:
        row = replace(row, identical=h == "0", **KNOBS[base](float(h)))
    known("preset", preset, PRESETS)
    changed = _PRESETS[preset][1]
    if changed and name not in changed["tasks"]:
        raise UserError(f"preset {preset} does not define {name}; it has: {', '.join(changed['tasks'])}.")
    return replace(row, **{key: of[name] for key, of in changed.items() if name in of})
