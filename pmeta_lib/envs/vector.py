"""TaskVectorEnv: every task of every seed in one vector environment, one step for all of them."""

import pkgutil
from collections.abc import Sequence
from numbers import Integral

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from pmeta_lib.envs.families import TaskFamily, check_tasks, floats, lookup
from pmeta_lib.files import UserError

DIVERGED = 1e10  # MuJoCo's own limit (mjMAXVAL)


class TaskVectorEnv(gymnasium.vector.VectorEnv):
    """B slots of one family, slot b on task row b with its own generator, seeded by `seeds[b]`.

    Args:
        tasks: `(B, k)` task parameters; rows may repeat (several seeds of one task).
        seeds: B ints or `numpy.random.SeedSequence`s. A slot's episodes depend on its task, its seed and its actions
            only: not on B, on other slots or on `threads`. With an int s they equal those of the single environment
            after `reset(seed=s)`.
        threads: threads that share the slots' MuJoCo steps; the numbers do not depend on it.
        dtype: of observations and rewards as returned (physics is float64 throughout).

    `step` resets an ended slot in the same call (`AutoresetMode.SAME_STEP`): its row of the returned observation is the
    next episode's first, and `info["final_obs"] (B, o)` is every slot's true next observation. The task appears neither
    in the observation nor in `info`.

    Raises `UserError` for tasks or seeds of the wrong shape and for actions that are not finite, and
    `FloatingPointError` when the physics itself diverges, naming the slots."""

    def __init__(
        self, family: TaskFamily, tasks: np.ndarray, seeds: Sequence[int | np.random.SeedSequence], threads: int = 1,
        dtype: type = np.float32,
    ):  # fmt: skip
        self.family, self.tasks = family, check_tasks(family.name, tasks, family.preset)
        self.num_envs, self.dtype = len(self.tasks), np.dtype(dtype)
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}
        low, high = family.action_low.astype(np.float32), family.action_high.astype(np.float32)
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (family.observation_size,), self.dtype)
        self.single_action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        if int(threads) != threads or threads < 1:
            raise UserError(f"threads = {threads!r} must be a whole number above 0.")
        self._seed(seeds)
        self.batch = pkgutil.resolve_name(lookup(family.name).batch)(family, self.tasks, int(threads))
        self._name = f"{family.name} ({family.preset})".encode()
        self._steps, self._started = np.zeros(self.num_envs, np.int64), False

    def _seed(self, seeds) -> None:
        if len(seeds) != self.num_envs:
            raise UserError(f"seeds: {len(seeds)} given for {self.num_envs} task rows; give one per row.")
        for b, seed in enumerate(seeds):
            if not (isinstance(seed, np.random.SeedSequence) or (isinstance(seed, Integral) and int(seed) >= 0)):
                raise UserError(f"seeds: slot {b}: {seed!r} is neither a whole number from 0 nor a SeedSequence.")
        self._generators = [np.random.Generator(np.random.PCG64(s)) for s in seeds]

    def reset(self, *, seed: int | Sequence[int | np.random.SeedSequence] | None = None, options: dict | None = None):
        """Start an episode in every slot: `-> observations (B, o), {}`. `seed=None` goes on with the slots' streams; an
        int s reseeds slot b with s + b, as gymnasium does."""
        if seed is not None:
            self._seed([seed + b for b in range(self.num_envs)] if isinstance(seed, int | np.integer) else seed)
        self.batch.reset(np.arange(self.num_envs), self._generators)
        self._steps[:], self._started = 0, True
        return self.observations, {}

    def step(self, actions: np.ndarray):
        """`actions (B, a)` in the environment's units `-> observations (B, o), rewards (B,), terminated (B,),
        truncated (B,), {"final_obs": (B, o)}`."""
        actions = floats(actions)
        if actions.shape != self.action_space.shape:
            raise UserError(f"actions: shape {actions.shape}; this environment needs {self.action_space.shape}.")
        if not np.isfinite(actions).all():
            slots = np.flatnonzero(~np.isfinite(actions).all(1)).tolist()
            raise UserError(f"actions: not finite in slots {slots} of {self.family.name}; has the actor diverged?")
        if not self._started:
            raise UserError("step was called before reset: call reset() first.")
        reward, terminated = self.batch.step(actions)
        observation = self.batch.observe()
        sound = np.isfinite(reward) & (np.abs(observation) < DIVERGED).all(1)
        if not sound.all():
            slots = np.flatnonzero(~sound).tolist()
            raise FloatingPointError(f"the physics of {self.family.name} diverged in slots {slots}.")
        self._steps += 1
        truncated = self._steps >= self.family.horizon
        final = observation = observation.astype(self.dtype)
        ended = terminated | truncated
        if ended.any():
            self.batch.reset(np.flatnonzero(ended), self._generators)
            self._steps[ended] = 0
            observation = self.observations
        return observation, reward.astype(self.dtype), terminated, truncated, {"final_obs": final, "_final_obs": ended}

    def state_dict(self) -> dict[str, np.ndarray]:
        """Everything the continuation depends on, as plain arrays; see `load_state_dict`."""
        return {f"batch.{name}": array for name, array in self.batch.state().items()} | {
            "steps": self._steps.copy(),
            "started": np.array([self._started], np.uint8),
            "generators": np.stack([pack(g) for g in self._generators]),
            "tasks": self.tasks.copy(),
            "family": np.frombuffer(self._name, np.uint8).copy(),
        }

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Continue bit for bit where `state_dict` was taken, in this or another process. Raises `UserError` if the
        state is of another family, preset or set of tasks."""
        stored = bytes(np.asarray(state["family"], np.uint8))
        if stored != self._name:
            raise UserError(f"this environment state is of {stored.decode()}, not of {self._name.decode()}.")
        if not np.array_equal(state["tasks"], self.tasks):
            raise UserError("this environment state was saved with other tasks; build it with the same ones.")
        batch = {n.removeprefix("batch."): a for n, a in state.items() if n.startswith("batch.")}
        self.batch.load(batch, self._generators)
        for generator, packed in zip(self._generators, state["generators"]):
            unpack(generator, packed)
        self._steps[:], self._started = state["steps"], bool(state["started"][0])

    @property
    def observations(self) -> np.ndarray:
        """The observations `(B, o)` that the next actions answer to; after `load_state_dict` too."""
        return self.batch.observe().astype(self.dtype)

    def close_extras(self, **kwargs) -> None:
        self.batch.close()


class Batch:
    """What the physics of B slots have in common: all that their continuation depends on are the arrays `kept`. Theirs
    are `observe() (B, o)`, `reset(slots, generators)` and `step(actions) -> reward (B,), terminated (B,)`."""

    kept: tuple[str, ...]

    def state(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name).copy() for name in self.kept}

    def load(self, state: dict[str, np.ndarray], generators: list[np.random.Generator]) -> None:
        for name in self.kept:
            getattr(self, name)[:] = state[name]

    def close(self) -> None:
        """Nothing is open, unless a batch says so."""


def pack(generator: np.random.Generator) -> np.ndarray:
    """A PCG64 generator as six uint64: state (high, low), increment (high, low), spare half-draw."""
    s = generator.bit_generator.state
    state, increment = (divmod(s["state"][name], 1 << 64) for name in ("state", "inc"))
    return np.array([*state, *increment, s["has_uint32"], s["uinteger"]], np.uint64)


def unpack(generator: np.random.Generator, words: np.ndarray) -> None:
    high, low, inc_high, inc_low, has_half, half = (int(x) for x in words)
    state = {"state": (high << 64) | low, "inc": (inc_high << 64) | inc_low}
    generator.bit_generator.state = {"bit_generator": "PCG64", "state": state, "has_uint32": has_half, "uinteger": half}
