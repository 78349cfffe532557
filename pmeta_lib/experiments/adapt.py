"""examples:
pmeta adapt out/runs/1f0c…                                  its family's test tasks: 20 episodes, 10,000 steps
pmeta adapt out/sweeps/adaptation --steps 0,500,5000        every finished run of a sweep; the same again resumes
pmeta adapt out/runs/1f0c… --episodes 5 --every-way         plain fine-tuning beside the learner's own way
pmeta adapt out/runs/1f0c… --critics learned                an ablation: trained critics and temperature too
pmeta adapt out/runs/1f0c… --family pendulum-flip --out out/flip     a family of equal sizes
"""

import argparse
import hashlib
import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import filelock
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pmeta_lib.envs.families import TaskFamily
from pmeta_lib.experiments import results
from pmeta_lib.experiments.spec import RunSpec, stored_spec
from pmeta_lib.experiments.train import parse_pairs, use_machine
from pmeta_lib.files import UserError, provenance, read_table, sha256, write_atomically, write_table
from pmeta_lib.policy_gradient.adaptation import adapt as adapt_on_policy
from pmeta_lib.policy_gradient.learner import OnPolicy
from pmeta_lib.sac.adaptation import CRITICS, Plan, adapt, references
from pmeta_lib.sac.agent import Agent, new_agent
from pmeta_lib.sac.settings import Settings

TABLE = "adaptation.parquet"
# settings that the plan or the networks decide
OF_THE_PLAN = {"steps", "warm_up", "evaluations", "hidden", "envs_per_task", "replay_capacity"}


def adapt_run(folder: Path, plan: Plan | None = None, **how) -> Path:
    """Adapt one finished run; returns the table's path. See `adapt_packed`."""
    return adapt_packed([Path(folder)], plan or Plan(), **how)[0]


def adapt_packed(
    folders: list[Path], plan: Plan, *, family: str | None = None, out: Path | None = None, changes: dict | None = None,
    alone: dict | None = None, device: str = "cpu", threads: int = 1, progress: bool = False,
    shared: Path | None = None,
) -> list[Path]:  # fmt: skip
    """Adapt finished runs that differ only in their seed, stacked: one `adaptation.parquet` each, its path returned.

    The table goes into the run's folder, or into `out/<run>/`; it is there at once if the same was asked before, and a
    killed call goes on where it was. `family` names another family than the run's; `changes` are settings other than
    the run's, `alone` those of learning from scratch (the same, if not given); `shared` is a folder that keeps the
    references, which runs of equal settings have in common, for other calls, of other processes too. Raises `UserError`
    for a folder without a sound finished run, and for a family whose observations or actions are of another size.
    """
    specs, tensors, widths = trained(folders, device)
    place, who = target(specs[0], family, folders[0]), specs[0].make_learner()
    base, changes = asdict(specs[0].settings), changes or {}
    settings, scratchs = (plan.settings(Settings(**base | x), place.horizon)
                          for x in (changes, changes if alone is None else alone))  # fmt: skip
    about_place = [place.name, place.preset, place.test_tasks.tolist()]
    asked = json.dumps([*about_place, asdict(plan), asdict(settings), asdict(scratchs)])
    digests = [sha256(folder / "checkpoint.safetensors") for folder in folders]
    keys = [hashlib.sha256(f"{s.key} {d} {asked}".encode()).hexdigest()[:16] for s, d in zip(specs, digests)]
    paths = [(out / s.key if out else folder) / TABLE for s, folder in zip(specs, folders)]
    if all(_key(path) == key for path, key in zip(paths, keys)):
        return paths
    for place_of_files in {*(path.parent for path in paths), shared or paths[0].parent}:  # before any long work
        try:
            place_of_files.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write in {place_of_files}: {error.strerror}; choose another --out") from error
    began, seeds = time.monotonic(), [s.seed for s in specs]
    scratch = paths[0].parent / f"adaptation-{hashlib.sha256(''.join(keys).encode()).hexdigest()[:16]}"
    how = {"device": device, "threads": threads, "progress": progress, "folder": scratch}
    if isinstance(who, OnPolicy):
        own = adapt_on_policy(place, who, tensors["policy"], settings, seeds, plan, threads)
    else:
        agent = stacked_agent(specs, tensors, widths, device)
        own = adapt(place, who, agent, specs[0].train_tasks, settings, seeds, plan, **how)
    about = provenance()
    if shared is None:
        known = references(place, scratchs, seeds, plan, **how)
    else:
        same = json.dumps([*about_place, plan.steps, plan.episodes, asdict(scratchs), seeds, device, about["versions"]])
        name = hashlib.sha256(same.encode()).hexdigest()[:16]
        with filelock.FileLock(shared / f"references-{name}.lock"):  # whoever comes first computes them
            if not (kept := shared / f"references-{name}.parquet").exists():
                known = references(place, scratchs, seeds, plan, **how)
                try:
                    write_table(kept, known)
                except OSError as error:
                    raise UserError(f"cannot write {kept}: {error.strerror}; choose another --out") from error
            known = read_table(kept)
    parts = (own.assign(settings=json.dumps(asdict(settings))), known.assign(settings=json.dumps(asdict(scratchs))))
    table = pd.concat([part for part in parts if len(part)], ignore_index=True)
    for spec, path, key, digest in zip(specs, paths, keys, digests):
        rows = table[table["seed"] == spec.seed].reset_index(drop=True).assign(
            run=spec.key, family=place.name, trained_on=spec.family, preset=place.preset, learner=spec.learner,
            options=json.dumps(spec.options, sort_keys=True), train_tasks=spec.train_tasks, critics=plan.critics,
            held_out=place.name != spec.family or place.held_out, adaptation=key, packed=len(specs), device=device,
            **about["versions"], env=place.versions["env"], base=place.versions["base"], machine=about["machine"],
            commit=about["commit"], checkpoint_sha256=digest,
            seconds=round((time.monotonic() - began) / len(specs), 3),
        )  # fmt: skip
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_table(path, rows)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; choose another --out") from error
    shutil.rmtree(scratch, ignore_errors=True)
    return paths


def trained(folders: list[Path], device: str = "cpu") -> tuple[list[RunSpec], dict[str, Tensor], list[int]]:
    """The specs of finished runs of one cell, their final tensors stacked over seeds, and the actor's widths.

    Raises `UserError` for a folder that holds no finished run or a damaged one, and for specs that differ in more
    than their seed.
    """
    specs, widths, tensors = [], [], []
    for folder in folders:
        try:
            record = json.loads((folder / "result.json").read_bytes())
            specs.append(stored_spec(folder))
            if sha256(folder / "checkpoint.safetensors") != record["checkpoint_sha256"]:
                raise ValueError("checkpoint.safetensors is not the file that the run wrote")
            with safe_open(folder / "checkpoint.safetensors", "pt", device=device) as file:
                widths.append(json.loads(file.metadata()["actor"]))
                tensors.append({name: file.get_tensor(name) for name in file.keys()})
        except FileNotFoundError as error:
            raise UserError(
                f"{folder} holds no finished run (no {Path(error.filename).name}); train it first"
            ) from error
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise UserError(f"{folder} is damaged ({error}); delete it and run it again") from error
    if len({json.dumps({**s.to_json(), "seed": 0}, sort_keys=True) for s in specs}) != 1:
        raise UserError("only runs that differ in nothing but their seed can be adapted together")
    return specs, {name: torch.stack([t[name] for t in tensors]) for name in tensors[0]}, widths[0]


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
    home = spec.make_family()
    place = RunSpec(name, preset=spec.preset).make_family() if name and name != home.name else home
    sizes = home.observation_size, home.action_size
    if sizes != (place.observation_size, place.action_size):
        raise UserError(
            f"the networks in {folder}, trained on {spec.family}, take {sizes[0]} observations and give {sizes[1]} "
            f"actions; {place.name} has {place.observation_size} and {place.action_size}; the sizes must be equal"
        )
    return place


def _key(path: Path) -> str | None:
    """What an existing table answers, None if there is none that can be read."""
    try:
        return pq.read_table(path, columns=["adaptation"])["adaptation"][0].as_py()
    except (OSError, pa.ArrowException, IndexError):
        return None


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="finished runs, or sweeps of them")
    parser.add_argument("--steps", default="0,1000,2000,5000,10000", help="evaluate after these steps a task")
    parser.add_argument("--episodes", type=int, default=20, metavar="K", help="record each of the first K episodes")
    parser.add_argument("--critics", default="fresh", help=f"one of {', '.join(CRITICS)} (default: fresh)")
    parser.add_argument("--every-way", action="store_true", help="plain fine-tuning beside the learner's own way")
    parser.add_argument("--family", help="adapt to the test tasks of another family, of equal sizes")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting other than the run's"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="tables go to DIR/<run>/ (default: the run's folder)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (one is the most efficient)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the mean returns there")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def main(args: argparse.Namespace) -> int:
    use_machine(args.device, args.threads)
    steps = args.steps.split(",")
    if not all(s.strip().isdigit() for s in steps):
        raise UserError(f"--steps {args.steps!r}: give whole numbers of 0 or more, e.g. --steps 0,1000,10000")
    plan = Plan(tuple(int(s) for s in steps), args.episodes, args.critics, args.every_way)
    changes = parse_pairs(args.set, "--set")
    for name in changes.keys() & OF_THE_PLAN:
        raise UserError(f"--set {name}: the trained networks or --steps decide it here; leave it out")
    paths, shared = [], args.out or args.folders[0]
    for _, cell in results.runs(args.folders).groupby("cell", sort=False):
        folders = [Path(folder) for folder in cell["folder"]]
        for one in folders:  # before any long work
            target(trained([one])[0][0], args.family, one)
        paths += adapt_packed(folders, plan, family=args.family, out=args.out, changes=changes, device=args.device,
                              threads=args.threads, progress=not args.quiet, shared=shared)  # fmt: skip
    table = pd.concat([read_table(path) for path in paths], ignore_index=True)
    report, first = summary(table), few_shot(table)
    for family in report.index.unique(level=0):
        rows = table[table["family"] == family]
        held = "held out" if rows["held_out"].all() else "NOT held out: they are the training tasks"
        print(f"\n{family}: mean return on {rows['task'].nunique()} test tasks ({held})")
        parts = {
            "of the first episodes as they were lived, one environment a task": first,
            "after so many steps": report,
        }
        for words, of_all in parts.items():
            if family in of_all.index.get_level_values(0):
                print(f"{words}:\n" + of_all.loc[family].dropna(axis=1, how="all").to_string(
                    float_format="{:.1f}".format, na_rep=""))  # fmt: skip
    alone = table.groupby("learner")["way"].agg(lambda ways: set(ways) <= {"scratch", "random"})
    for name in alone.index[alone]:
        print(f"{name} brings nothing along to a new task: scratch is its way too")
    print("\n" + "\n".join(f"-> {path}" for path in paths))
    if args.json:
        rows = [dict(zip(report.index.names, index)) | {"returns": {str(k): v for k, v in row.dropna().items()},
                "episodes": {str(k): v for k, v in first.T.get(index, pd.Series()).dropna().items()}}
                for index, row in report.iterrows()]  # fmt: skip
        write_atomically(args.json, json.dumps({"tables": [str(p) for p in paths], "rows": rows}, indent=1).encode())
    return 0


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean return by step (columns), over tasks first and then seeds; a row a family, learner with options, and way.
    The references, which know no learner, are rows of "(any)"."""
    return _means(table[table["policy"] == "deployed"], "step")


def few_shot(table: pd.DataFrame) -> pd.DataFrame:
    """The same by episode, as lived; the last column is the mean of them all, the few-shot endpoint."""
    means = _means(table[table["policy"] == "acting"], "episode")
    return means.assign(**{f"1 to {means.columns.max()}": means.mean(axis=1, skipna=False)}) if len(means) else means


def _means(table: pd.DataFrame, by: str) -> pd.DataFrame:
    shared = table["way"].isin(["scratch", "random"])
    name = table["learner"].where(~shared, "(any)") + table["options"].where(~shared, "").replace("{}", "")
    keys = ["family", "learner", "way", "seed", by]
    seeds = table.assign(learner=name, **{by: table[by].astype(int)}).groupby(keys)["return"].mean()
    return seeds.groupby(level=["family", "learner", "way", by]).mean().unstack(by)
