"""examples:
pmeta sweep data/sweeps/smoke.toml --out out/smoke             on this machine; the same command again resumes
pmeta sweep data/sweeps/gym.toml --scale desk --dry-run        the plan and what it will cost
pmeta sweep data/sweeps/gym.toml --out out/gym --engine ray --address auto --gpus-per-run 0.25 --device cuda
pmeta sweep data/sweeps/gym.toml --out /shared/gym --engine slurm --jobs 32
pmeta sweep status out/gym                                     done, running, failed and why
pmeta sweep results out/gym --out data/results/gym.parquet     all finished runs as one tidy table"""

import argparse
import shutil
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pmeta_lib.experiments.cost import TABLE, duration, seconds
from pmeta_lib.experiments.engines import Local, Ray, Slurm
from pmeta_lib.experiments.state import State, ended, locked, progress, read_json, settled, state
from pmeta_lib.experiments.train import use_machine
from pmeta_lib.experiments.worker import End
from pmeta_lib.files import HICCUPS, UserError, known, patiently, write_json, write_report, writing
from pmeta_lib.signals import LEAVE

if TYPE_CHECKING:
    from pmeta_lib.experiments.spec import RunSpec
    from pmeta_lib.experiments.sweep_spec import Plan

ENGINES: dict[str, Callable] = {"local": lambda args: Local(args.threads), "ray": Ray, "slurm": Slurm}


def configure(parser: argparse.ArgumentParser) -> None:
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
    add("--retry-failed", action="store_true", help="go on with the runs that failed (anew with those that diverged)")
    add("--attempts", type=int, default=3, help="how often in a row a run's worker may die without getting further")
    add("--checkpoint-seconds", type=float, default=60.0, help="how much work a kill may cost (default: 60)")
    add("--address", help="ray: auto, or host:port of the cluster's head (default: a Ray of its own, here)")
    add("--gpus-per-run", type=float, default=0.0, help="GPUs of a worker; ray: also 0.25, slurm: whole ones")
    add("--slurm-executor", default="slurm", choices=("slurm", "local"), help="local: try the job array here")
    add("--slurm-minutes", type=int, default=24 * 60, help="time limit of a job; it requeues itself (default: a day)")
    add("--slurm-partition", help="partition of the jobs")
    add("--allow-mixed", action="store_true", help="results: of several versions or devices in one table")
    add("--json", type=Path, metavar="FILE", help="write the counts (or the plan) there as well")


def main(args: argparse.Namespace) -> int:
    word, *folders = args.what
    if word in ("status", "results"):
        if not folders or (word == "status" and len(folders) > 1):
            raise UserError(f"pmeta sweep {word}: name {'a' if word == 'status' else 'one or more'} sweep folder(s)")
        try:
            return (_status if word == "status" else _results)(folders, args)
        except OSError as error:
            hint = "; is its file server back?" if error.errno in HICCUPS else ""
            raise UserError(f"cannot read {folders[0]}: {error.strerror or error}{hint}") from error
    if folders:
        raise UserError(f"one sweep at a time: {word} or {folders[0]}? The words before a folder are status, results")
    for name, low in (("jobs", 1), ("pack", 1), ("threads", 1), ("attempts", 1), ("gpus_per_run", 0)):
        if (value := getattr(args, name)) is not None and value < low:
            raise UserError(f"--{name.replace('_', '-')} is {value}; it must be at least {low}")
    known("engine", args.engine, ENGINES)
    from pmeta_lib.experiments.sweep_spec import load  # the learners, which `--help` need not wait for

    plan = load(Path(word), args.scale, args.pack)
    if args.dry_run:
        return _dry_run(plan, args.json)
    if args.out is None:
        raise UserError("--out is missing: name the sweep's folder, e.g. --out out/smoke")
    if any(spec.family == "lunar-lander-params" for spec in plan.runs):
        import pmeta_lib.envs.lunar  # noqa: F401  # says how to install Box2D, now instead of at that run
    if args.engine == "local" and (left := [s for s in plan.runs if ended(args.out / s.key) is not State.DONE]):
        from pmeta_lib.experiments.run import possible

        use_machine(args.device, args.threads)  # what a run cannot have here is said once, before any of them
        possible(left, args.device)
    if args.engine != "slurm":  # whose jobs outlive this command; other workers get time to save, as at Ctrl-C
        for number in LEAVE:
            signal.signal(number, signal.default_int_handler)
    how = ("jobs", "device", "threads", "attempts", "retry_failed", "checkpoint_seconds")
    counts = sweep(plan, args.out, lambda: ENGINES[args.engine](args), **{name: getattr(args, name) for name in how})
    write_report(args.json, counts)
    return 0 if counts["done"] == counts["planned"] else 1


def packs(plan: "Plan", out: Path) -> list[list["RunSpec"]]:
    """What is left to do, as packs. A pack that a kill interrupted stays as it was, whatever is asked for now."""
    todo = []
    for cell in plan.cells:
        by_key = {spec.key: spec for spec in cell.runs}
        left = {key for key in by_key if not ended(out / key)}
        for key in by_key:
            begun = read_json(out / key / "claim.json").get("pack", [])
            if begun and begun[0] == key and all(k in by_key for k in begun):
                todo.append([by_key[k] for k in begun])
                left -= set(begun)
        rest = [spec for key, spec in by_key.items() if key in left]
        todo += [rest[i : i + cell.pack] for i in range(0, len(rest), cell.pack)]
    return [pack for pack in todo if not settled([out / spec.key for spec in pack])]


def sweep(
    plan: "Plan", out: Path, engine: Callable, *, jobs: int | None = None, device: str = "cpu", threads: int = 1,
    attempts: int = 3, retry_failed: bool = False, checkpoint_seconds: float = 60.0,
) -> dict[str, int]:  # fmt: skip
    """Run what `out` lacks of `plan`; returns the counts `planned`, `done`, `failed`. `engine()` makes the engine, if
    there is anything to do. Several drivers may work on one folder at once, and any of them may be killed: the folders
    are the only state. Raises `UserError` if `out` cannot be written or locked."""
    from pmeta_lib.experiments.spec import old_runs  # pydantic, which `--help` need not wait for

    out, started = Path(out).resolve(), time.monotonic()
    runs = {spec.key: spec for spec in plan.runs}
    if old := old_runs(out):
        print(f"{len(old)} runs in {out} are of an older version ({old[0].name}, …) and are left alone; none is used")
    with writing(f"to {out}", "choose a folder where you can"):
        patiently(out.mkdir, parents=True, exist_ok=True)
        try:
            with locked([out / ".locks"]):  # where two workers might get the same run, better no sweep
                pass
        except OSError as error:
            raise UserError(f"cannot lock files in {out}: {error.strerror}; choose a folder where you can") from error
        for key, spec in runs.items():
            patiently((out / key).mkdir, parents=True, exist_ok=True)
            if not patiently((out / key / "spec.json").exists):
                write_json(out / key / "spec.json", spec.to_json())
            if retry_failed and (failure := read_json(out / key / "failure.json")):
                if failure.get("diverged"):  # it would do so again
                    shutil.rmtree(out / key / "checkpoints", ignore_errors=True)
                patiently((out / key / "failure.json").unlink, missing_ok=True)
        todo = packs(plan, out)
    left = {tuple(spec.key for spec in pack): seconds(pack[0], len(pack)) for pack in todo}
    job = dict(out=str(out), session=uuid.uuid4().hex, device=device, threads=threads, attempts=attempts,
               checkpoint_seconds=checkpoint_seconds)  # fmt: skip
    if left:
        workers = engine()
        try:
            stopped = _drive(workers, jobs or workers.capacity, job, runs, left)
        except OSError as error:
            stopped = f"cannot read {out}: {error.strerror or error}"
        finally:
            workers.stop()
        if stopped:
            print(f"stopped: {stopped}. Mend that and run the same command again", flush=True)
    found = {key: state(out / key) for key in runs}
    counts = {"planned": len(runs)} | {s.value: list(found.values()).count(s) for s in (State.DONE, State.FAILED)}
    _failures(out, found)
    spent = duration(time.monotonic() - started)
    print(f"{counts['done']} of {counts['planned']} runs done, {counts['failed']} failed, in {spent}: {out}")
    if counts["failed"]:
        print("failed runs go on with --retry-failed")
    return counts


def _drive(engine, jobs: int, job: dict, runs: dict[str, "RunSpec"], left: dict[tuple[str, ...], float]) -> str:
    """Keep `jobs` workers alive until every pack is settled, here or by another driver; "", or why that is hopeless.
    `left`: the keys of a pack's runs -> its estimated seconds; what is settled is taken out."""
    out, alive, losses, reached = Path(job["out"]), [], 0, None
    begun, work, shown = time.monotonic(), unfinished(out, runs, left), ("", 0.0)
    ahead, since = work, begun  # the work that was left when that last changed, and when: from there it counts down
    kept = {End.LEFT: "the checkpoint that it wrote", End.LOST: "its last checkpoint"}
    while True:
        looked = time.monotonic()
        for keys in [keys for keys in left if settled([out / key for key in keys])]:
            del left[keys]
        ends = [engine.ended(handle) for handle in alive]
        alive = [handle for handle, end in zip(alive, ends) if end is None]
        for end, reason in filter(None, ends):
            if end is End.UNWRITABLE:
                return reason
            if end in kept:
                print(f"{reason}; its run goes on from {kept[end]}", flush=True)
            if end is End.LOST:
                before, reached = reached, [progress([out / key for key in keys]) for keys in left]
                losses = losses + 1 if reached == before else 1
        if not left and not alive:
            return ""
        if losses > jobs * job["attempts"]:  # dying in a way that the runs' own claims do not count: before any run
            return "workers keep dying before they get anything done; see above"
        found = {key: state(out / key) for key in runs}
        need = min(jobs, len(left)) - len(alive)
        if need > 0 and any(State.RUNNING not in {found[key] for key in keys} for keys in left):
            todo = [[{"key": key, "spec": runs[key].to_json()} for key in keys] for keys in left]
            alive += engine.start(job | {"packs": todo}, need)
        if (now := unfinished(out, runs, left)) != ahead:
            ahead, since = now, time.monotonic()
        to_go = remaining(ahead, work, since - begun, max(1, min(len(alive), len(left))))
        shown = _show(found, max(0.0, to_go - (time.monotonic() - since)), shown)
        time.sleep(min(2.0, max(0.2, 50 * (time.monotonic() - looked))))


def unfinished(out: Path, runs: dict[str, "RunSpec"], left: dict[tuple[str, ...], float]) -> float:
    """Estimated seconds of work in the packs `left`, less what their newest checkpoints have behind them."""
    steps = [name[5:-5] for name in progress([out / keys[0] for keys in left])]
    done = [int(s) / runs[keys[0]].settings.steps if s.isdigit() else 0.0 for keys, s in zip(left, steps)]
    return sum(cost * (1 - min(1.0, share)) for cost, share in zip(left.values(), done))


def remaining(ahead: float, total: float, spent: float, workers: int) -> float:
    """Seconds to go, with `ahead` of `total` estimated seconds of work left after `spent` seconds: by the pace so far,
    once a fiftieth is done; before that by the estimate, shared by `workers`."""
    share = 1 - ahead / total if total else 1.0
    return ahead / workers if share < 0.02 else spent * (1 - share) / share


def _show(found: dict[str, State], ahead: float, shown: tuple[str, float]) -> tuple[str, float]:
    """Progress, with `ahead` seconds to go: a line whenever there is news, every half a second on a terminal and every
    20 elsewhere. `shown`, in and out: the last line and when it was printed."""
    now, tty, (before, since) = time.monotonic(), sys.stdout.isatty(), shown
    count: Counter[str] = Counter(found.values())
    text = f"{count['done']} of {len(found)} runs done, {count['running']} running, {count['failed']} failed"
    if count["running"] + count["waiting"]:
        text += f", about {duration(ahead)} to go"
    if text == before or (before and now - since <= (0.5 if tty else 20.0)):
        return shown
    print("\x1b[A\x1b[K" * bool(tty and before) + text, flush=True)
    return text, now


def _failures(out: Path, found: dict[str, State]) -> dict[str, str]:
    """Failed run key -> its reason and where its log is; printed, too."""
    files = {key: read_json(out / key / "failure.json") for key, s in found.items() if s is State.FAILED}
    reasons = {key: f"{f.get('reason', '?')} (log: {f.get('log', '?')})" for key, f in files.items()}
    for key, reason in reasons.items():
        print(f"  failed {key}: {reason}")
    return reasons


def _status(folders: list[str], args: argparse.Namespace) -> int:
    from pmeta_lib.experiments.spec import old_runs

    if old := old_runs(out := Path(folders[0])):
        print(f"{len(old)} runs are of an older version ({old[0].name}, …) and do not count")
    found = {run.name: state(run) for run in sorted({path.parent for path in out.glob("*/spec.json")} - set(old))}
    if not found:
        raise UserError(f"{out} {'holds no runs' if out.is_dir() else 'is not a folder'}; name the --out of a sweep")
    counts = {"planned": len(found)} | {name.value: list(found.values()).count(name) for name in State}
    print(", ".join(f"{n} {name}" for name, n in counts.items()))
    write_report(args.json, counts | {"failures": _failures(out, found)})
    return 0 if counts["done"] == counts["planned"] else 1


def _results(folders: list[str], args: argparse.Namespace) -> int:
    from pmeta_lib.experiments import results

    if args.out is None:
        raise UserError("--out is missing: name the Parquet file to write, e.g. --out data/results/gym.parquet")
    table = results.read(folders, allow_mixed=args.allow_mixed)
    results.compact(table, args.out)
    print(f"{table['run'].nunique()} runs, {len(table):,} rows -> {args.out} ({args.out.stat().st_size / 1e6:.2f} MB)")
    return 0


def _dry_run(plan: "Plan", target: Path | None) -> int:
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
    write_report(target, {"runs": len(plan.runs), "seconds": total, "cells": rows})
    return 0
