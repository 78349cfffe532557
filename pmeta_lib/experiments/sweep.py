"""examples:
pmeta sweep data/sweeps/smoke.toml --out out/smoke             on this machine; the same command again resumes
pmeta sweep data/sweeps/gym.toml --scale desk --dry-run        the plan and what it will cost
pmeta sweep data/sweeps/gym.toml --out out/gym --engine ray --address auto --gpus-per-run 0.25 --device cuda
pmeta sweep data/sweeps/gym.toml --out /shared/gym --engine slurm --jobs 32
pmeta sweep status out/gym                                     done, running, failed and why
pmeta sweep results out/gym --out data/results/gym.parquet     all finished runs as one tidy table
"""

import argparse
import importlib
import json
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pmeta_lib.experiments import results
from pmeta_lib.experiments.cost import TABLE, duration, seconds
from pmeta_lib.experiments.engines import Local, Ray, Slurm
from pmeta_lib.experiments.spec import RunSpec, old_runs
from pmeta_lib.experiments.sweep_spec import Plan, load
from pmeta_lib.experiments.worker import complete, held, over, read_json, write_json
from pmeta_lib.files import UserError, unknown

ENGINES = ("local", "ray", "slurm")


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of `pmeta sweep`, `pmeta sweep status` and `pmeta sweep results`."""
    add = parser.add_argument
    add("what", nargs="+", metavar="SPEC.toml | status DIR | results DIR …", help="a sweep file, or a word and folders")
    add("--out", type=Path, help="the sweep's folder; for results: the Parquet file to write")
    add("--engine", default="local", help=f"{', '.join(ENGINES)} (default: local)")
    add("--scale", help="one of the file's scales, such as desk or paper (default: its first)")
    add("--jobs", type=int, help="workers at once (default: what the machine or the cluster holds; slurm: 8)")
    add("--pack", type=int, help="seeds stacked in one process (default: as the file says)")
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    add("--threads", type=int, default=1, help="CPU threads of a worker (default: 1)")
    add("--dry-run", action="store_true", help="print the plan and its estimated cost, start nothing")
    add("--retry-failed", action="store_true", help="try the runs again that failed earlier")
    add("--attempts", type=int, default=3, help="how often a run may lose its worker before it counts as failed")
    add("--checkpoint-seconds", type=float, default=60.0, help="how much work a kill may cost (default: 60)")
    add("--address", help="ray: auto, or host:port of the cluster's head (default: a Ray of its own, here)")
    add("--gpus-per-run", type=float, default=0.0, help="ray, slurm: GPUs of a worker, e.g. 0.25")
    add("--slurm-executor", default="slurm", choices=("slurm", "local"), help="local: try the job array here")
    add("--slurm-minutes", type=int, default=24 * 60, help="time limit of a job (default: a day); it requeues itself")
    add("--slurm-partition", help="partition of the jobs")
    add("--allow-mixed", action="store_true", help="results: of several versions or devices in one table")
    add("--json", type=Path, metavar="FILE", help="write the counts (or the plan) there as well")


def main(args: argparse.Namespace) -> int:
    word, *folders = args.what
    if word in ("status", "results"):
        if not folders or (word == "status" and len(folders) > 1):
            raise UserError(f"pmeta sweep {word}: name {'a' if word == 'status' else 'one or more'} sweep folder(s)")
        return _status(Path(folders[0]), args.json) if word == "status" else _results(folders, args)
    if folders:
        raise UserError(f"one sweep at a time: {word} or {folders[0]}? The words before a folder are status, results")
    for name, low in (("jobs", 1), ("pack", 1), ("threads", 1), ("attempts", 1), ("gpus_per_run", 0)):
        if (value := getattr(args, name)) is not None and value < low:
            raise UserError(f"--{name.replace('_', '-')} is {value}; it must be at least {low}")
    if args.engine not in ENGINES:
        raise unknown("engine", args.engine, ENGINES)
    plan = load(Path(word), args.scale, args.pack)
    if args.dry_run:
        return _dry_run(plan, args.json)
    if args.out is None:
        raise UserError("--out is missing: name the sweep's folder, e.g. --out out/smoke")
    if any(spec.family == "lunar-lander-params" for spec in plan.runs):
        importlib.import_module("pmeta_lib.envs.lunar")  # says how to install Box2D, now instead of at that run
    counts = sweep(
        plan, args.out, lambda: _engine(args), jobs=args.jobs, device=args.device, threads=args.threads,
        attempts=args.attempts, retry_failed=args.retry_failed, checkpoint_seconds=args.checkpoint_seconds,
    )  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(counts, indent=1))
    return 0 if counts["done"] == counts["planned"] else 1


def _engine(args: argparse.Namespace):
    if args.engine == "local":
        return Local(args.threads)
    if args.engine == "ray":
        return Ray(args.address, args.threads, args.gpus_per_run)
    folder = args.out.resolve() / ".slurm"
    return Slurm(folder, args.slurm_executor, args.threads, args.gpus_per_run, args.slurm_minutes, args.slurm_partition)


# -------------------------------------------------------------------------------------------- the driver
def packs(plan: Plan, out: Path) -> list[list[RunSpec]]:
    """What is left to do, as packs. A pack that a kill interrupted stays as it was, whatever is asked for now."""
    todo = []
    for cell in plan.cells:
        by_key = {spec.key: spec for spec in cell.runs}
        ended = ("result.json", "failure.json")
        left = {key for key in by_key if not any((out / key / name).exists() for name in ended)}
        for key in by_key:
            begun = read_json(out / key / "claim.json").get("pack", [])
            if begun and begun[0] == key and all(k in by_key for k in begun):
                todo.append([by_key[k] for k in begun])
                left -= set(begun)
        rest = [spec for key, spec in by_key.items() if key in left]
        todo += [rest[i : i + cell.pack] for i in range(0, len(rest), cell.pack)]
    return todo


def sweep(
    plan: Plan, out: Path, engine: Callable, *, jobs: int | None = None, device: str = "cpu", threads: int = 1,
    attempts: int = 3, retry_failed: bool = False, checkpoint_seconds: float = 60.0,
) -> dict[str, int]:  # fmt: skip
    """Run what `out` lacks of `plan`; returns the counts `planned`, `done`, `failed`.

    `engine()` makes the engine, if there is anything to do. Several drivers may work on one folder at once, and any
    of them may be killed: the folders are the only state. Raises `UserError` if `out` cannot be written.
    """
    out, started = Path(out).resolve(), time.monotonic()
    runs = {spec.key: spec for spec in plan.runs}
    if old := old_runs(out):
        print(f"{len(old)} runs in {out} are of an older version ({old[0].name}, …) and are left alone; none is used")
    try:
        for key, spec in runs.items():
            (out / key).mkdir(parents=True, exist_ok=True)
            if not (out / key / "spec.json").exists():
                write_json(out / key / "spec.json", spec.to_json())
            if retry_failed:
                (out / key / "failure.json").unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}; choose a folder you can write to") from error
    left = {tuple(s.key for s in pack): pack for pack in packs(plan, out)}
    left = {keys: pack for keys, pack in left.items() if not over([out / key for key in keys])}
    work = {keys: seconds(pack[0], len(pack)) for keys, pack in left.items()}
    job = {
        "out": str(out), "device": device, "threads": threads, "attempts": attempts, "session": uuid.uuid4().hex,
        "checkpoint_seconds": checkpoint_seconds,
        "packs": [[{"key": s.key, "spec": s.to_json()} for s in pack] for pack in left.values()],
    }  # fmt: skip
    board = _Board(runs, out, sum(work.values()))
    if left:
        board.show(left, set(), sum(work.values()), jobs or 1)
        workers = engine()
        try:
            _drive(workers, jobs or workers.capacity, job, left, work, board)
        finally:
            workers.stop()
    return board.finish(time.monotonic() - started)


def _drive(engine, jobs: int, job: dict, left: dict, work: dict, board: "_Board") -> None:
    """Keep `jobs` workers alive until every pack is done or failed, here or in another driver's hands."""
    out, alive, losses = Path(job["out"]), [], 0
    while True:
        looked = time.monotonic()
        before = len(left)
        for keys in list(left):
            folders = [out / key for key in keys]
            if complete(folders) or over(folders):
                del left[keys]
        losses = 0 if len(left) < before else losses
        ended = [(handle, engine.ended(handle)) for handle in alive]
        alive = [handle for handle, end in ended if end is None]
        for sound, reason in (end for _, end in ended if end is not None):
            if sound and reason:
                return board.note(f"stopped: {reason}. Mend that and run the same command again")
            if not sound:
                losses += 1
                board.note(f"{reason}; its run goes on from its last checkpoint")
        running = {keys for keys in left if (out / keys[0] / "claim.json").exists() and held(out / keys[0])}
        if not left and not alive:
            return None
        if losses > jobs * job["attempts"]:
            return board.note("stopped: workers keep dying before they get anything done; see above")
        if len(running) < len(left) and (need := min(jobs, len(left)) - len(alive)) > 0:
            alive += engine.start(
                job | {"packs": [p for p in job["packs"] if tuple(e["key"] for e in p) in left]}, need
            )
        board.show(left, running, sum(work[k] for k in left), max(1, min(len(alive), len(left))))
        time.sleep(min(2.0, max(0.2, 50 * (time.monotonic() - looked))))


# ------------------------------------------------------------------------------------- what people see
def remaining(ahead: float, total: float, spent: float, workers: int) -> float:
    """Seconds to go, with `ahead` of `total` estimated seconds of work left after `spent` seconds: by the pace so far,
    once a fiftieth is done; before that by the estimate, shared by `workers`."""
    share = 1 - ahead / total if total else 1.0
    return ahead / workers if share < 0.02 else spent * (1 - share) / share


@dataclass
class _Board:
    """Progress: a table that redraws itself on a terminal, else a line whenever there is news."""

    runs: dict[str, RunSpec]
    out: Path
    work: float  # estimated seconds of all that is to be done
    lines: int = 0
    said: str = ""
    since: float = 0.0
    begun: float = 0.0

    def show(self, left: dict, running: set, ahead: float, workers: int) -> None:
        """`ahead`: estimated seconds of one worker for all that is left, which `workers` share."""
        now = time.monotonic()
        self.begun = self.begun or now
        if self.said and now - self.since < (0.5 if sys.stdout.isatty() else 20.0):
            return
        open_runs = {key for keys in left for key in keys if not (self.out / key / "result.json").exists()}
        busy = {key for keys in running for key in keys} & open_runs
        failed = {key for key in self.runs if key not in open_runs and (self.out / key / "failure.json").exists()}
        done = len(self.runs) - len(open_runs | failed)
        rest = remaining(ahead, self.work, now - self.begun, workers)
        text = f"{done} of {len(self.runs)} runs done, {len(busy)} running, {len(failed)} failed"
        text += f", about {duration(rest)} to go" if open_runs else ""
        if text == self.said:
            return
        if sys.stdout.isatty():
            table = self._table(open_runs, busy, failed)[:30]
            print(f"\x1b[{self.lines}A\x1b[J" * bool(self.lines) + "\n".join([*table, text]), flush=True)
            self.lines = len(table) + 1
        else:
            print(text, flush=True)
        self.said, self.since = text, now

    def _table(self, open_runs: set, busy: set, failed: set) -> list[str]:
        states = Counter()
        for key, s in self.runs.items():
            name = (
                "failed" if key in failed else "running" if key in busy else "waiting" if key in open_runs else "done"
            )
            states[s.family, s.learner, name] += 1
        names = ("done", "running", "waiting", "failed")
        rows = [f"{'family':<20} {'learner':<14}" + "".join(f"{n:>9}" for n in names)]
        for f, l in dict.fromkeys(k[:2] for k in states):
            rows.append(f"{f:<20} {l:<14}" + "".join(f"{states[f, l, n] or '·':>9}" for n in names))
        return rows

    def note(self, text: str) -> None:
        print(text, flush=True)
        self.lines = 0

    def finish(self, spent: float) -> dict[str, int]:
        found = survey(self.out, self.runs)
        counts = {"planned": len(self.runs), **{k: len(found[k]) for k in ("done", "failed")}}
        _print_failures(found["failed"])
        print(f"{counts['done']} of {counts['planned']} runs done, {counts['failed']} failed, "
              f"in {duration(spent)}: {self.out}")  # fmt: skip
        if counts["failed"]:
            print("failed runs are tried again with --retry-failed")
        return counts


def survey(out: Path, keys) -> dict[str, dict[str, str]]:
    """State -> {run key: reason, where it failed}: `done`, `failed`, `running`, `waiting`. Takes nothing's lock."""
    states: dict[str, dict[str, str]] = {"done": {}, "failed": {}, "running": {}, "waiting": {}}
    for key in keys:
        folder = out / key
        if (folder / "result.json").exists():
            states["done"][key] = ""
        elif failure := read_json(folder / "failure.json"):
            states["failed"][key] = f"{failure.get('reason', '?')} (log: {failure.get('log', '?')})"
        else:
            states["running" if held(folder) else "waiting"][key] = ""
    return states


def _print_failures(failed: dict[str, str]) -> None:
    for key, reason in failed.items():
        print(f"  failed {key}: {reason}")


def _status(out: Path, target: Path | None) -> int:
    if not out.is_dir():
        raise UserError(f"{out} is not a folder; name the --out of a sweep")
    old = old_runs(out)
    keys = sorted({p.parent.name for p in out.glob("*/spec.json")} - {folder.name for folder in old})
    if old:
        print(f"{len(old)} runs are of an older version ({old[0].name}, …) and do not count")
    if not keys:
        raise UserError(f"{out} holds no runs; name the --out of a sweep")
    found = survey(out, keys)
    counts = {"planned": len(keys), **{state: len(members) for state, members in found.items()}}
    print(", ".join(f"{n} {state}" for state, n in counts.items()))
    _print_failures(found["failed"])
    if target:
        target.write_text(json.dumps(counts | {"failures": found["failed"]}, indent=1))
    return 0 if counts["done"] == counts["planned"] else 1


def _results(folders: list[str], args: argparse.Namespace) -> int:
    table = results.read(folders, allow_mixed=args.allow_mixed)
    runs = table["run"].nunique()
    if args.out is None:
        raise UserError("--out is missing: name the Parquet file to write, e.g. --out data/results/gym.parquet")
    results.compact(table, args.out)
    print(f"{runs} runs, {len(table):,} rows -> {args.out} ({args.out.stat().st_size / 1e6:.2f} MB)")
    return 0


def _dry_run(plan: Plan, target: Path | None) -> int:
    """The plan, cell by cell, and its cost."""
    print(f"{plan.name}: {len(plan.runs)} runs in {len(plan.cells)} cells"
          + (f", scale {plan.scale} (of {', '.join(plan.scales)})" if plan.scale else "")
          + (f"; {plan.merged} asked for twice and run once" if plan.merged else ""))  # fmt: skip
    print(f"{'family':<20} {'learner':<12} {'options':<34} {'steps/task':>10} {'seeds':>5} {'pack':>4} {'CPU time':>9}")
    total, rows = 0.0, []
    for cell in plan.cells:
        first, sizes = cell.runs[0], [len(cell.runs[i : i + cell.pack]) for i in range(0, len(cell.runs), cell.pack)]
        cost = sum(seconds(first, size) for size in sizes)
        total += cost
        options = " ".join(f"{k}={v}" for k, v in first.changed.items()) or "default"
        rows.append({"spec": first.to_json(), "seeds": [s.seed for s in cell.runs], "pack": cell.pack, "seconds": cost})
        print(f"{first.family:<20} {first.learner:<12} {options[:34]:<34} {first.settings.steps:>10,} "
              f"{len(cell.runs):>5} {cell.pack:>4} {duration(cost):>9}")  # fmt: skip
    print(f"estimated {duration(total)} of one CPU core, {duration(total / 2)} on two; {TABLE}")
    if target:
        target.write_text(json.dumps({"runs": len(plan.runs), "seconds": total, "cells": rows}, indent=1))
    return 0
