"""The one training loop: act, store, update, evaluate, log, checkpoint. It knows no algorithm by name.

All tasks of all seeds advance together: one environment step for S x N slots, one stacked update. Every seed has
streams of randomness of its own, so its curve does not depend on which seeds it was stacked with."""

import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pmeta_lib import signals
from pmeta_lib.envs.families import TaskFamily
from pmeta_lib.files import UserError
from pmeta_lib.sac import checkpoint
from pmeta_lib.sac.agent import act
from pmeta_lib.sac.evaluation import Evaluator, evaluate, to_env
from pmeta_lib.sac.graphs import Graphed
from pmeta_lib.sac.learners.base import Learner
from pmeta_lib.sac.memory import keep_freed_memory
from pmeta_lib.sac.settings import Settings
from pmeta_lib.sac.state import Run, start


class Stopped(UserError):
    """Training could not go on (a number that is not finite); the last good checkpoint is kept."""


def train(
    family: TaskFamily, learner: Learner, settings: Settings, seeds: list[int], *, device="cpu", threads=1,
    initial: dict[str, Tensor] | None = None, evaluate_at: set[int] | None = None, **how,
) -> Run:  # fmt: skip
    """Train `learner` on the family's training tasks, all seeds stacked; return the finished run.

    `initial` is as in `start`; `evaluate_at` are steps to evaluate after (0 is always one), instead of the settings'
    own. `how`: `folder`, `progress`, `checkpoint_seconds` and `callback` of `follow`."""
    keep_freed_memory()
    began = time.monotonic()
    run = start(family, learner, settings, seeds, device, threads, initial)
    about = (str(run.agent.product_type), *([sorted(evaluate_at)] if evaluate_at else []))
    one_update = Graphed(update) if torch.device(device).type == "cuda" else update
    due = {settings.whole(s) for s in evaluate_at} if evaluate_at else settings.evaluation_steps()

    def step() -> None:
        advance(run)
        while run.agent.updates < settings.updates_until(run.step):
            run.last = one_update(run)

    judge = Evaluator(family, family.train_tasks, run.seeds, settings.evaluation_episodes, device, threads)
    with closing(judge):
        follow(run, step, lambda: evaluate(run, judge), due, settings.whole(settings.steps), about, began=began, **how)
    return run


def follow(
    run, step: Callable[[], None], judge: Callable[[], None], due: set[int], last: int, about: tuple, *, began: float,
    clock: Callable[[], float] = time.monotonic, folder: Path | None = None, progress: bool = False,
    checkpoint_seconds: float = 60.0, callback: Callable | None = None,
) -> None:  # fmt: skip
    """The loop itself, which on-policy training shares: `step()` up to step `last`, `judge()` at the steps `due`.

    With a `folder`, the run is checkpointed there about every `checkpoint_seconds` and at its end, and goes on from the
    newest sound checkpoint of the same family, learner, settings, seeds and `about`; a CPU run then ends with the very
    numbers of an undisturbed one. A heeded signal (`signals.heeded`) asks for a checkpoint at once, then raises
    `signals.Left`. `callback(run)`, after each evaluation but that of step 0, stops the run early by returning True.
    Raises `Stopped` when an environment or a network yields a number that is not finite."""
    family, name = run.family, run.learner.name
    tasks = family.train_tasks.tolist()
    identity = repr((family.name, family.preset, tasks, run.learner, asdict(run.settings), run.seeds, *about))
    if folder is not None and (saved := checkpoint.load(folder := Path(folder), identity)) is not None:
        checkpoint.restore_run(run, *saved)
        began -= run.seconds
        print(f"going on from the checkpoint of step {run.step:,} in {folder}")
    saved_at = time.monotonic()
    bar = tqdm(total=run.settings.steps, initial=run.step, disable=None if progress else True, unit="step",
               file=sys.stdout, desc=f"{name} on {family.name}", mininterval=1.0, leave=False)  # fmt: skip
    try:
        if run.step == 0:
            judge()
        while run.step < last:
            step()
            bar.update(run.step - bar.n)
            run.seconds = clock() - began
            if run.step in due:
                judge()
                run.seconds = clock() - began
                bar.set_postfix_str(f"return {np.mean([r[4] for r in run.rows if r[1] == run.step]):.1f}")
                if callback is not None and callback(run):
                    break
            if folder is not None and (signals.asked() or time.monotonic() - saved_at > checkpoint_seconds):
                checkpoint.save_run(run, folder, identity)
                saved_at = time.monotonic()
                signals.answer()
        if folder is not None:
            checkpoint.save_run(run, folder, identity)
    except FloatingPointError as error:
        there = checkpoint.steps(folder) if folder is not None else []
        kept = f"the last good checkpoint is that of step {there[0]} in {folder}" if there else "there is no checkpoint"
        raise Stopped(f"{name} on {family.name} stopped at step {run.step}: {error}; {kept}") from error
    finally:
        bar.close()


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
    if len(bad := np.argwhere(~np.isfinite(env_action).all(1).reshape(shape))):
        where = ", ".join(dict.fromkeys(f"task {task} of seed {run.seeds[seed]}" for seed, task, _ in bad[:4]))
        raise FloatingPointError(f"the policy's action is not finite for {where}")
    observation, reward, terminated, truncated, info = run.env.step(env_action)

    def tensor(x):
        return torch.tensor(x, dtype=torch.float32, device=run.observation.device).view(*shape, *x.shape[1:])

    run.replay.add(run.observation, action, tensor(reward), tensor(terminated), tensor(info["final_obs"]))
    run.learner.stepped(agent, run.replay, terminated | truncated)
    run.observation = tensor(observation)
    run.step += shape[2]


def update(run: Run) -> dict[str, Tensor]:
    """One gradient update of every slot from a fresh batch; the learner's losses, (B,) each."""
    return run.learner.update(run.agent, run.replay.sample(run.settings.batch_size, run.agent.generators["replay"]))
