"""The one training loop: act, store, update, evaluate, log, checkpoint. It knows no algorithm by name.

All tasks of all seeds advance together: one environment step for S x N slots, one stacked update. Every seed has
its own streams of randomness, so its curve does not depend on which seeds it was stacked with.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from pmeta_lib import signals
from pmeta_lib.envs.families import TaskFamily
from pmeta_lib.envs.vector import TaskVectorEnv
from pmeta_lib.files import UserError
from pmeta_lib.sac import checkpoint
from pmeta_lib.sac.agent import Agent, act, new_agent, seed_sequence
from pmeta_lib.sac.evaluation import Evaluator, to_env
from pmeta_lib.sac.graphs import Graphed, use_tensor_cores
from pmeta_lib.sac.learners.base import Learner
from pmeta_lib.sac.memory import check_size, keep_freed_memory
from pmeta_lib.sac.networks import hidden_type
from pmeta_lib.sac.replay import Replay
from pmeta_lib.sac.settings import Settings


class Stopped(UserError):
    """Training could not go on (a number that is not finite); the last good checkpoint is kept."""


@dataclass
class Run:
    """A run in progress, or finished: everything a checkpoint holds."""

    family: TaskFamily
    learner: Learner
    settings: Settings
    seeds: list[int]
    agent: Agent
    replay: Replay
    env: TaskVectorEnv
    observation: Tensor  # (S, N, E, o)
    uniform: bool = True  # whether actions are uniform until `warm_up`; False: the policy's own from the start
    step: int = 0
    seconds: float = 0.0  # spent in `train`, over all its starts
    last: dict[str, Tensor] = field(default_factory=dict)  # the last update's losses, (B,) each
    rows: list[tuple] = field(default_factory=list)
    metrics: list[tuple] = field(default_factory=list)

    CURVE = ("seed", "step", "policy", "task", "return", "return_std", "episodes")
    METRICS = ("seed", "step", "slot", "critic_loss", "actor_loss", "entropy", "temperature")

    @property
    def curve(self) -> pd.DataFrame:
        """One row a seed, evaluated step, policy and training task; `return` is the episodes' mean."""
        return pd.DataFrame(self.rows, columns=list(self.CURVE))

    @property
    def losses(self) -> pd.DataFrame:
        """One row a seed, evaluated step and policy slot: the last update's losses, entropy and temperature."""
        return pd.DataFrame(self.metrics, columns=list(self.METRICS))

    @property
    def updates(self) -> int:
        """How many updates there were."""
        return self.agent.updates

    def final(self, position: int) -> tuple[dict[str, Tensor], dict]:
        """What is kept of the result of the seed at `position`: tensors, and the networks' widths."""
        agent = self.agent
        tensors = {name: getattr(agent, name)[position] for name in ("actor", "critic", "target", "log_alpha")}
        extra = {f"extra.{n}": x[position] for n, x in agent.extra.items() if x.shape[0] == len(self.seeds)}
        return tensors | extra, {"actor": agent.actor_shape.widths, "critic": agent.critic_shape.widths}

    def policy(self, name: str = "deployed") -> Callable[[Tensor], Tensor]:
        """The deterministic policy `(S, N E, o) -> (S, N E, a)` that the learner calls `name`."""
        return deterministic(self.learner, self.agent, self.learner.deployed(self.agent, self.replay)[name],
                             len(self.family.train_tasks))  # fmt: skip


def deterministic(learner: Learner, agent: Agent, actor: Tensor, tasks: int) -> Callable[[Tensor], Tensor]:
    """The mode of `actor (S, G, P)` as a function of observations (S, N E, o), inputs widened by the learner."""

    def policy(observation: Tensor) -> Tensor:
        seeds, rows, width = observation.shape
        x = learner.inputs(agent, observation.view(seeds, tasks, rows // tasks, width))
        return act(agent.actor_shape, actor, x.reshape(seeds, rows, -1))

    return policy


def start(
    family: TaskFamily, learner: Learner, settings: Settings, seeds: list[int], device="cpu", threads=1,
    initial: dict[str, Tensor] | None = None,
) -> Run:  # fmt: skip
    """A run at step 0: fresh networks, environments reset, nothing stored.

    `initial` names tensors of the agent, "actor", "critic" and "log_alpha" (S, 1, ·) or of `extra`, that begin with
    these values instead of fresh ones; then there is a policy to act with, and no action is uniform.
    """
    if not len(seeds) or len(set(seeds)) != len(seeds):
        raise UserError(f"seeds are {list(seeds)}; give one or more different ones")
    if torch.device(device).type == "cuda":
        use_tensor_cores()
    tasks = len(family.train_tasks)
    size = family.observation_size + learner.context_size(tasks)
    capacity = min(settings.replay_capacity or settings.steps, settings.steps)
    check_size(needed(family, settings, len(seeds), tasks, capacity, learner.policies(tasks), size), device)
    agent = new_agent(
        seeds, learner.policies(tasks), size, family.action_size, hidden=settings.hidden,
        learning_rate=settings.learning_rate, discount=settings.discount, polyak=settings.polyak, device=device,
        initial_temperature=settings.initial_temperature, target_entropy=settings.target_entropy,
        envs=settings.envs_per_task, product_type=hidden_type(settings.precision, device),
    )  # fmt: skip
    given = dict(initial or {})
    for name in given.keys() & {"actor", "critic", "log_alpha"}:
        getattr(agent, name).copy_(given.pop(name))
    agent.target.copy_(agent.critic)
    learner.start(agent, tasks)
    for name, x in given.items():
        agent.extra[name].copy_(x)
    replay = Replay(len(seeds), tasks, capacity, family.observation_size, family.action_size, device)
    envs = settings.envs_per_task
    children = [child for seed in seeds for child in seed_sequence(seed, "environments").spawn(tasks * envs)]
    rows = np.tile(family.train_tasks.repeat(envs, axis=0), (len(seeds), 1))
    env = TaskVectorEnv(family, rows, children, threads=threads)
    observation = torch.tensor(env.reset()[0], device=device).view(len(seeds), tasks, envs, -1)
    return Run(family, learner, settings, list(seeds), agent, replay, env, observation, initial is None)


def needed(family: TaskFamily, settings: Settings, seeds: int, tasks: int, capacity: int, policies: int, inputs: int):
    """GiB of main consumers, by the settings to lower: an estimate, made before anything is allocated."""
    widths = (inputs + family.action_size, *settings.hidden, 2 * family.action_size)
    parameters = sum((i + 1) * o for i, o in pairwise(widths))
    rows = {"replay_capacity, steps": capacity * (2 * family.observation_size + family.action_size + 2)}
    rows["batch_size, hidden"] = 5 * settings.batch_size * sum(widths)  # activations of actor and twin critics
    rows["envs_per_task"] = 4096 * settings.envs_per_task  # a simulator's state, roughly
    rows["evaluation_episodes"] = 4096 * settings.evaluation_episodes
    gib = {name: 4 * seeds * tasks * n / 2**30 for name, n in rows.items()}
    return gib | {"hidden": 4 * seeds * policies * parameters * 14 / 2**30}  # values, targets, moments, gradients


def train(
    family: TaskFamily, learner: Learner, settings: Settings, seeds: list[int], *, folder: Path | None = None,
    device: str = "cpu", threads: int = 1, progress: bool = False, checkpoint_seconds: float = 60.0,
    callback: Callable[[Run], bool | None] | None = None, initial: dict[str, Tensor] | None = None,
    evaluate_at: set[int] | None = None,
) -> Run:  # fmt: skip
    """Train `learner` on the family's training tasks, all seeds stacked; return the finished run.

    With a `folder`, the run is checkpointed there about every `checkpoint_seconds` and at its end, and goes on from
    the newest sound checkpoint if there is one; a CPU run then ends with the very numbers of an undisturbed one. A
    signal that is heeded (`signals.heeded`) asks for a checkpoint at once, and then raises `signals.Left`.
    `callback(run)` is called after each evaluation but the first (at step 0) and stops the run early by
    returning True. `initial` is as in `start`; `evaluate_at` are steps to evaluate after (0 is always one), instead of
    the settings' own. Raises `Stopped` when an environment or a network yields a number that is not finite.
    """
    keep_freed_memory()
    began = time.monotonic()
    run = start(family, learner, settings, seeds, device, threads, initial)
    identity = repr((family.name, family.preset, family.train_tasks.tolist(), learner, asdict(settings), run.seeds,
                     str(run.agent.product_type), *([sorted(evaluate_at)] if evaluate_at else [])))  # fmt: skip
    if folder is not None and (saved := checkpoint.load(Path(folder), identity)) is not None:
        restore(run, *saved)
        began -= run.seconds
        print(f"going on from the checkpoint of step {run.step:,} in {folder}")
    one_update = Graphed(update) if torch.device(device).type == "cuda" else update
    evaluator = Evaluator(family, family.train_tasks, run.seeds, settings.evaluation_episodes, device, threads)
    evaluate_at = {settings.whole(s) for s in evaluate_at} if evaluate_at else settings.evaluation_steps()
    last_saved = time.monotonic()
    bar = tqdm(total=settings.steps, initial=run.step, disable=None if progress else True, unit="step", file=sys.stdout,
               desc=f"{learner.name} on {family.name}", mininterval=1.0, leave=False)  # fmt: skip
    try:
        if run.step == 0:
            evaluate(run, evaluator)
        while run.step < settings.steps:
            advance(run)
            while run.agent.updates < settings.updates_until(run.step):
                run.last = one_update(run)
            bar.update(settings.envs_per_task)
            if run.step in evaluate_at:
                evaluate(run, evaluator)
                bar.set_postfix_str(f"return {np.mean([r[4] for r in run.rows if r[1] == run.step]):.1f}")
                if callback is not None and callback(run):
                    break
            run.seconds = time.monotonic() - began
            if folder is not None and (signals.asked() or time.monotonic() - last_saved > checkpoint_seconds):
                save(run, Path(folder), identity)
                last_saved = time.monotonic()
                signals.answer()
        if folder is not None:
            save(run, Path(folder), identity)
    except FloatingPointError as error:
        raise Stopped(
            f"{learner.name} on {family.name} stopped at step {run.step}: {error}; {_last_good(folder)}"
        ) from error
    finally:
        bar.close()
        evaluator.close()
    return run


def advance(run: Run) -> None:
    """One step of every environment, with the policies' own (or, at first, uniform) actions, stored."""
    agent, shape = run.agent, run.observation.shape[:3]
    noise = agent.noise(*shape[1:], run.family.action_size)
    if run.uniform and run.step < run.settings.warm_up:
        action = torch.erf(noise / 2**0.5)  # uniform on (-1, 1): the normal's own distribution function
    else:
        inputs = run.learner.inputs(agent, run.observation)
        action = act(agent.actor_shape, agent.actor, inputs, None if run.learner.by_mode else noise)
    env_action = to_env(run.family, action)
    if not np.isfinite(env_action).all():
        raise FloatingPointError(
            f"the policy's action is not finite for {_where(run, ~np.isfinite(env_action).all(1))}"
        )
    observation, reward, terminated, truncated, info = run.env.step(env_action)
    finite = np.isfinite(observation).all(1) & np.isfinite(reward)
    if not finite.all():
        raise FloatingPointError(f"the environment's observation or reward is not finite for {_where(run, ~finite)}")

    def tensor(x):
        return torch.tensor(x, dtype=torch.float32, device=run.observation.device).view(*shape, *x.shape[1:])

    run.replay.add(run.observation, action, tensor(reward), tensor(terminated), tensor(info["final_obs"]))
    run.learner.stepped(agent, run.replay, terminated | truncated)
    run.observation = tensor(observation)
    run.step += shape[2]


def update(run: Run) -> dict[str, Tensor]:
    """One gradient update of every slot from a fresh batch; the learner's losses, (B,) each."""
    return run.learner.update(run.agent, run.replay.sample(run.settings.batch_size, run.agent.generators["replay"]))


def evaluate(run: Run, evaluator: Evaluator) -> None:
    """Append the returns of the learner's policies, and the last update's losses, to the run's tables."""
    for name, actor in run.learner.deployed(run.agent, run.replay).items():
        policy = deterministic(run.learner, run.agent, actor, len(run.family.train_tasks))
        returns = evaluator.returns(policy, run.step)
        for s, seed in enumerate(run.seeds):
            for i, episodes in enumerate(returns[s]):
                run.rows.append((seed, run.step, name, i, float(episodes.mean()), float(episodes.std()), len(episodes)))
    if run.last:
        seeds, slots = run.agent.log_alpha.shape
        columns = {k: v.view(seeds, slots).tolist() for k, v in run.last.items()}
        temperature = run.agent.log_alpha.exp().tolist()
        for s, seed in enumerate(run.seeds):
            for g in range(slots):
                run.metrics.append((seed, run.step, g, columns["critic_loss"][s][g], columns["actor_loss"][s][g],
                                    -columns["log_prob"][s][g], temperature[s][g]))  # fmt: skip


def _where(run: Run, slots: np.ndarray) -> str:
    of = np.argwhere(slots.reshape(run.observation.shape[:3]))[:4]
    return ", ".join(dict.fromkeys(f"task {task} of seed {run.seeds[seed]}" for seed, task, _ in of))


def _last_good(folder: Path | None) -> str:
    steps = checkpoint.steps(Path(folder)) if folder is not None else []
    return f"the last good checkpoint is that of step {steps[0]} in {folder}" if steps else "there is no checkpoint"


def state_tensors(run: Run) -> dict[str, Tensor]:
    """Every tensor the continuation depends on, by name."""
    agent = run.agent
    tensors = {n: getattr(agent, n) for n in ("actor", "critic", "target", "log_alpha")}
    tensors |= {f"extra.{name}": x for name, x in agent.extra.items()}
    for name, optimizer in agent.optimizers.items():
        tensors |= {f"adam.{name}.{key}": getattr(optimizer, key) for key in ("first", "second", "steps")}
    tensors["replay"] = run.replay.rows[:, :, : len(run.replay)]
    tensors["observation"] = run.observation
    tensors |= {f"last.{name}": x for name, x in run.last.items()}
    tensors |= {f"env.{name}": torch.from_numpy(x) for name, x in run.env.state_dict().items()}
    return tensors | checkpoint.generator_tensors(agent.generators)


def save(run: Run, folder: Path, identity: str) -> None:
    """Checkpoint the run; refuses (`FloatingPointError`) to store parameters that are not finite."""
    tensors = state_tensors(run)
    for name in ("actor", "critic", "log_alpha"):
        if not torch.isfinite(tensors[name]).all():
            raise FloatingPointError(f"the {name} parameters are not finite")
    checkpoint.save(folder, run.step, tensors, {
        "identity": identity, "updates": run.agent.updates, "added": run.replay.added, "seconds": run.seconds,
        "rows": run.rows, "metrics": run.metrics})  # fmt: skip


def restore(run: Run, tensors: dict[str, Tensor], record: dict) -> None:
    """Put a fresh run into the state that `save` stored."""
    agent = run.agent
    for name in ("actor", "critic", "target", "log_alpha"):
        getattr(agent, name).copy_(tensors[name])
    for key, x in tensors.items():
        if key.startswith("extra."):  # in place, or anew where the learner makes it at its first update
            agent.extra.setdefault(key.removeprefix("extra."), x.to(agent.actor.device)).copy_(x)
    for name, optimizer in agent.optimizers.items():
        for key in ("first", "second", "steps"):
            getattr(optimizer, key).copy_(tensors[f"adam.{name}.{key}"])
    checkpoint.restore_generators(agent.generators, tensors)
    run.replay.restore(tensors["replay"], record["added"])
    run.observation = tensors["observation"].to(run.observation.device)
    run.env.load_state_dict({k.removeprefix("env."): x.numpy() for k, x in tensors.items() if k.startswith("env.")})
    run.last = {k.removeprefix("last."): x for k, x in tensors.items() if k.startswith("last.")}
    run.step, agent.updates, run.seconds = record["step"], record["updates"], record["seconds"]
    run.rows, run.metrics = [tuple(r) for r in record["rows"]], [tuple(r) for r in record["metrics"]]
