"""Meta-test of finished runs: the folder of a run becomes a table of returns on tasks it has never seen."""

import json
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from pmeta_lib.envs.families import TaskFamily
from pmeta_lib.experiments.results import compact, stored_run
from pmeta_lib.experiments.spec import RunSpec, digest
from pmeta_lib.files import UserError, json_text, locking, provenance, read_table, sha256, writable
from pmeta_lib.policy_gradient.learner import OnPolicy
from pmeta_lib.policy_gradient.training import adapt as adapt_on_policy
from pmeta_lib.sac.adaptation import Plan, adapt, references
from pmeta_lib.sac.agent import Agent, new_agent
from pmeta_lib.sac.settings import Settings

TABLE = "adaptation.parquet"
OF_THE_PLAN = {"steps", "warm_up", "evaluations", "hidden", "envs_per_task", "replay_capacity"}  # or the networks'


def adapt_packed(
    folders: list[Path], plan: Plan, *, family: str | None = None, out: Path | None = None, changes: dict | None = None,
    alone: dict | None = None, shared: Path | None = None, device: str = "cpu", threads: int = 1, progress: bool = False
) -> list[Path]:  # fmt: skip
    """Adapt finished runs that differ only in their seed, stacked: one `adaptation.parquet` each, its path returned, in
    the run's folder or `out/<run>/`; at once if that was asked before; a killed call goes on. Others stay, renamed.
    `family` names another family than the run's; `changes` are settings other than the run's, `alone` those of learning
    from scratch (the same, if not given); `shared` is a folder that keeps the references, which runs of equal settings
    have in common, for other calls, of other processes too. Raises `UserError` as `trained` and `target` do."""
    specs, tensors, widths = trained(folders, device)
    goal, learner = target(specs[0], family, folders[0]), specs[0].make_learner()
    base, changes, seeds = asdict(specs[0].settings), changes or {}, [s.seed for s in specs]
    settings, scratchs = (plan.settings(Settings(**base | x), goal.horizon)
                          for x in (changes, changes if alone is None else alone))  # fmt: skip
    tasks = [goal.name, goal.preset, goal.test_tasks.tolist()]
    asked = json_text([*tasks, asdict(plan), asdict(settings), asdict(scratchs)])
    checksums = [sha256(folder / "checkpoint.safetensors") for folder in folders]
    keys = [digest(f"{spec.key} {checksum} {asked}") for spec, checksum in zip(specs, checksums)]
    paths = [(out / s.key if out else folder) / TABLE for s, folder in zip(specs, folders)]
    if (there := [_key(path) for path in paths]) == keys:
        return paths
    if isinstance(learner, OnPolicy) and (plan.every_way or plan.critics == "learned"):
        raise UserError(f"{learner.name} has one way to adapt and no critics to bring: leave every_way and critics out")
    began, scratch = time.monotonic(), paths[0].parent / f"adaptation-{digest(''.join(keys))}"
    shared = shared or scratch
    for folder in {*(path.parent for path in paths), shared}:  # before any long work
        writable(folder, "--out")
    how = {"device": device, "threads": threads, "progress": progress, "folder": scratch}
    if isinstance(learner, OnPolicy):
        own = adapt_on_policy(goal, learner, tensors["policy"], settings, seeds, plan, threads)
    else:
        agent = stacked_agent(specs, tensors, widths, device)
        own = adapt(goal, learner, agent, specs[0].train_tasks, settings, seeds, plan, **how)
    about = provenance()
    same = json_text([*tasks, plan.steps, plan.episodes, asdict(scratchs), seeds, device, about["versions"]])
    kept = shared / f"references-{digest(same)}.parquet"
    with locking(kept.with_suffix(".lock")):  # whoever comes first computes them
        if not kept.exists():
            compact(references(goal, scratchs, seeds, plan, **how), kept)
        known = read_table(kept)
    parts = (own.assign(settings=json_text(asdict(settings))), known.assign(settings=json_text(asdict(scratchs))))
    table = pd.concat([part for part in parts if len(part)], ignore_index=True)
    spent = round((time.monotonic() - began) / len(specs), 3)
    for spec, path, key, checksum, other in zip(specs, paths, keys, checksums, there):
        rows = table[table["seed"] == spec.seed].reset_index(drop=True).assign(
            run=spec.key, family=goal.name, trained_on=spec.family, preset=goal.preset, learner=spec.learner,
            options=json_text(spec.options, sort_keys=True), train_tasks=spec.train_tasks, critics=plan.critics,
            held_out=goal.name != spec.family or goal.held_out, adaptation=key, packed=len(specs), device=device,
            **about["versions"], env=goal.versions["env"], base=goal.versions["base"], machine=about["machine"],
            commit=about["commit"], checkpoint_sha256=checksum, seconds=spent,
        )  # fmt: skip
        if other not in (None, key):  # what was asked before is kept
            path.rename(path.with_name(f"adaptation-{other}.parquet"))
        compact(rows, path)
    shutil.rmtree(scratch, ignore_errors=True)
    return paths


def trained(folders: list[Path], device: str = "cpu") -> tuple[list[RunSpec], dict[str, Tensor], list[int]]:
    """The specs of finished runs of one cell, their final tensors stacked over seeds, and the actor's widths. Raises
    `UserError` for a folder without a sound finished run, and for specs that differ in more than their seed."""
    specs, rows = zip(*map(stored_run, folders))
    if len({replace(spec, seed=0).key for spec in specs}) != 1:
        raise UserError("only runs that differ in nothing but their seed can be adapted together")
    paths = [folder / "checkpoint.safetensors" for folder in folders]
    for path, row in zip(paths, rows):
        try:
            found = sha256(path)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); mend that, or train it again") from error
        if found != row["checkpoint_sha256"]:
            raise UserError(f"{path} is not the file that the run wrote; delete its folder and run it again")
    with safe_open(paths[0], "pt") as file:
        widths = json.loads(file.metadata()["actor"])
    tensors = [load_file(path, device) for path in paths]
    return list(specs), {name: torch.stack([t[name] for t in tensors]) for name in tensors[0]}, widths


def stacked_agent(specs: list[RunSpec], stacked: dict[str, Tensor], widths: list[int], device: str) -> Agent:
    """The final SAC agent of runs of one cell, without optimizer moments."""
    (inputs, *hidden, head), base = widths, specs[0].settings
    agent = new_agent(
        [s.seed for s in specs], stacked["actor"].shape[1], inputs, head // 2, hidden=tuple(hidden), device=device,
        learning_rate=base.learning_rate, discount=base.discount, polyak=base.polyak,
    )  # fmt: skip
    for name in ("actor", "critic", "target", "log_alpha"):
        getattr(agent, name).copy_(stacked[name])
    agent.extra = {n.removeprefix("extra."): x for n, x in stacked.items() if n.startswith("extra.")}
    return agent


def target(spec: RunSpec, name: str | None, folder: Path) -> TaskFamily:
    """The family to adapt to, the run's own where `name` is None; `UserError` if its sizes are not the networks'."""
    home, goal = spec.make_family(), RunSpec(name or spec.family, preset=spec.preset).make_family()
    need, have = ((family.observation_size, family.action_size) for family in (home, goal))
    if need != have:
        sizes = f"take {need[0]} observations and give {need[1]} actions; {goal.name} has {have[0]} and {have[1]}"
        raise UserError(f"the networks in {folder}, trained on {spec.family}, {sizes}; the sizes must be equal")
    return goal


def _key(path: Path) -> str | None:
    """What an existing table answers, None if there is none that can be read."""
    try:
        return read_table(path, ["adaptation"])["adaptation"][0]
    except (UserError, KeyError):
        return None


def means(table: pd.DataFrame, policy: str, by: str) -> pd.DataFrame:
    """Mean return of `policy` by `by` (columns), over tasks first and then seeds; a row a family, learner with options,
    and way. The references, which know no learner, are rows of "(any)"."""
    shared = table["way"].isin(["scratch", "random"])
    name = table["learner"].where(~shared, "(any)") + table["options"].where(~shared, "").replace("{}", "")
    rows = table.assign(learner=name)[table["policy"] == policy].astype({by: int})
    keys = ["family", "learner", "way", by]
    return rows.groupby([*keys, "seed"])["return"].mean().groupby(level=keys).mean().unstack(by)
