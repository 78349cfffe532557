"""The tabular experiments: tune if need be, compute every cell that is missing, write the tables.

`pmeta tabular --help` (`tabular_command.py`) has the options and examples.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import pandas as pd
import tabular_cells as cells
from tabular_command import EXPERIMENTS, RESULTS
from tqdm import tqdm

from pmeta_lib.files import UserError, json_text, provenance, unknown, writable, write_table

TUNING_SEEDS = (1000, 1001)  # no result uses them
SEEDS = {"comparison": 10, "headline": 10, "conflict": 10, "lambda": 10, "adaptation": 10, "convergence": 3}
THEORY_RUNS = {"random MDPs": 1000, "bandits": 250, "quadratics": 250}
CONFLICT_H = [0.0, *cells.HETEROGENEITY, 1.0]
MIRRORED = ["independent", "joint", "joint+ft", "maml", "pmeta", "pmeta+ft"]
META_LEARNERS = ["scratch", "joint", "pcgrad", "reptile", "fomaml", "maml", "pmeta"]


def _tuning_cells(noisy: bool, smoke: bool) -> list[dict]:
    places = (
        [{"family": "garnet", "h": h} for h in cells.HETEROGENEITY] if noisy
        else [{"family": name} for name in cells.FAMILIES]
    )  # fmt: skip
    out = [
        {"kind": "score", "noisy": noisy, "learner": learner, "seed": seed, "setting": setting} | place
        for place in places for learner in cells.NAMES for setting in cells.grid(learner, noisy)
        for seed in TUNING_SEEDS
    ]  # fmt: skip
    out += [
        {"kind": "adaptation", "noisy": noisy, "learner": "scratch", "seed": seed, "setting": x,
         "adapt_step": x["step"]} | place
        for place in places for x in cells.grid("scratch", noisy) for seed in TUNING_SEEDS
    ]  # fmt: skip
    return [c for c in out if c.get("h", 0.45) == 0.45 and c["family"] in ("garnet", "chain")][::7] if smoke else out


def _place(cell: dict) -> str:
    return f"{cell['family']}{cell.get('h', '')}/{'sampled' if cell['noisy'] else 'exact'}"


def choose(cell_list: list[dict], entries: list[dict]) -> dict:
    """{place: {learner: setting}}, the best mean over the tuning seeds; "scratch": its adaptation step."""
    scores: dict = {}
    for cell, entry in zip(cell_list, entries):
        value = entry["rows"][0]["deployed"] if cell["kind"] == "score" else entry["rows"][2]["adapted"]
        key = (_place(cell), cell["learner"], json_text(cell["setting"]))
        scores.setdefault(key, []).append(value)
    chosen: dict = {}
    for (place, learner, setting), found in scores.items():
        best = chosen.setdefault(place, {}).get(learner)
        if best is None or np.mean(found) > best[0]:
            chosen[place][learner] = (float(np.mean(found)), json.loads(setting))
    return {p: {k: v[1] for k, v in by.items()} for p, by in chosen.items()}


def _score_cells(places: list[dict], learners: list[str], seeds: int, chosen: dict, like: str = "") -> list[dict]:
    """Score cells with the settings tuned at their own place, or at the place named `like`."""
    return [
        {"kind": "score", "learner": name, "seed": seed, "setting": chosen[like or _place(p)][name]} | p
        for p in places if (like or _place(p)) in chosen for name in learners for seed in range(seeds)
    ]  # fmt: skip


def plan(experiment: str, chosen: dict, smoke: bool = False) -> list[dict]:
    """The cells of one experiment; each is all that its rows depend on."""
    n = 2 if smoke else SEEDS.get(experiment, 0)
    exact = [{"family": name, "noisy": False} for name in cells.FAMILIES]
    sampled = [{"family": "garnet", "h": h, "noisy": True} for h in cells.HETEROGENEITY]
    if experiment == "comparison":
        return _score_cells(exact, cells.NAMES, n, chosen)
    if experiment == "headline":
        return _score_cells(sampled, cells.NAMES, n, chosen)
    if experiment == "conflict":  # and, at the same h, the exact mirror of the headline
        places = [{"family": "garnet", "h": h, "noisy": False} for h in CONFLICT_H[:: 3 if smoke else 1]]
        return _score_cells(places, MIRRORED, n, chosen, like="garnet/exact")
    if experiment == "lambda":
        places = [*sampled[:: 5 if smoke else 2], {"family": "garnet", "h": 0.45, "noisy": False}]
        return [
            {"kind": "score", "learner": "pmeta", "seed": seed} | place
            | {"setting": {"step": 1.2 if place["noisy"] else 3.0, "pull": pull}}
            for place in places for pull in cells.PULLS[:: 4 if smoke else 1] for seed in range(n)
        ]  # fmt: skip
    if experiment == "adaptation":
        places = [p for p in exact + sampled[::2] if _place(p) in chosen]
        return [
            {"kind": "adaptation", "learner": name, "seed": seed, "setting": chosen[_place(p)][name],
             "adapt_step": chosen[_place(p)]["scratch"]["step"]} | p
            for p in places for name in META_LEARNERS for seed in range(n)
        ]  # fmt: skip
    if experiment == "convergence":
        # Exact constants (quadratics, bandits) or a barrier (tau > 0): the solutions are finite, and floors show.
        # Without either, as in practice: the corners need 600 rounds to leave the transient (at 150 their slopes are
        # still -0.4 to -1.0), and cold starts creep on like warm ones.
        places = [("quadratics", 0.0, 200), ("bandits", 0.0, 800), ("garnet", 1.0, 600), ("chain", 0.3, 800),
                  ("garnet", 0.0, 150), ("gridworld-corners", 0.0, 600)]  # fmt: skip
        return [
            {"kind": "convergence", "family": family, "tau": tau, "variant": variant, "seed": seed, "pull": 1.0,
             "inner_steps": 2, "rounds": rounds}
            for family, tau, rounds in places[:: 3 if smoke else 1] for variant in cells.VARIANTS for seed in range(n)
        ]  # fmt: skip
    return [
        {"kind": "theory", "setting": setting, "seed": k}
        for setting, runs in THEORY_RUNS.items() for k in range(1 if smoke else runs // cells.BLOCK)
    ]  # fmt: skip


def run_cell(cell: dict) -> list[dict]:
    """The rows of one cell, as plain JSON values."""
    rows = cells.CELLS[cell["kind"]](cell)
    return [{k: v.item() if isinstance(v, np.generic) else v for k, v in row.items()} for row in rows]


def _key(cell: dict) -> str:
    return hashlib.sha256(json_text(cell, sort_keys=True).encode()).hexdigest()[:16]


def _timed(cell: dict) -> dict:
    start = time.process_time()
    rows = run_cell(cell)
    return {"key": _key(cell), "rows": rows, "cpu_s": round(time.process_time() - start, 4)}


def compute(name: str, cell_list: list[dict], journal: Path, jobs: int) -> list[dict]:
    """{"rows", "cpu_s"} of every cell, in order. Finished cells are kept in `journal` and not computed again."""
    done: dict[str, dict] = {}
    if journal.exists():
        for line in journal.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # the line that was being written when a run was stopped
            done[entry["key"]] = entry
    todo = [c for c in cell_list if _key(c) not in done]
    journal.parent.mkdir(parents=True, exist_ok=True)
    bar = tqdm(total=len(cell_list), initial=len(cell_list) - len(todo), desc=f"{name:<12}", unit="cell",
               disable=None, file=sys.stderr)  # fmt: skip
    with journal.open("a") as out, bar:

        def keep(entry: dict) -> None:
            done[entry["key"]] = entry
            out.write(json.dumps(entry) + "\n")  # noqa: TID251 - for this function alone, NaN and all
            out.flush()
            bar.update()

        if jobs <= 1 or len(todo) < 2:
            for cell in todo:
                keep(_timed(cell))
        else:
            # One core a process: the matrices are small, and threads would fight over the cores.
            for library in ("OMP", "OPENBLAS", "MKL"):
                os.environ.setdefault(f"{library}_NUM_THREADS", "1")
            with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
                for future in as_completed([pool.submit(_timed, cell) for cell in todo]):
                    keep(future.result())
    return [done[_key(c)] for c in cell_list]


def record(experiment: str, todo: list[dict], smoke: bool, wall_s: float, entries: list[dict]) -> str:
    """What produced a table, as JSON: spec, seeds, versions, machine (not its name), commit, CPU and wall time."""
    spec = {"experiment": experiment, "cells": len(todo), "budget": cells.BUDGET, "smoke": smoke,
            "trajectories": cells.TRAJECTORIES, "horizon": cells.HORIZON, "hash": _key({"plan": todo})}  # fmt: skip
    seeds = {"tuning_seeds": list(TUNING_SEEDS), "evaluation_seeds": SEEDS.get(experiment, sum(THEORY_RUNS.values()))}
    times = {"cpu_s": round(sum(e["cpu_s"] for e in entries), 1), "wall_s": round(wall_s, 1)}
    return json_text({"spec": spec} | seeds | provenance() | times | {"command": "pmeta tabular"}, indent=1) + "\n"


def main(args: argparse.Namespace) -> int:
    """Tune if need be, compute what is missing, write Parquet and provenance."""
    wanted = [x for x in args.only.split(",") if x] or EXPERIMENTS
    for name in wanted:
        if name not in EXPERIMENTS:
            raise unknown("experiment", name, EXPERIMENTS)
    if args.jobs < 1:
        raise UserError(f"--jobs is {args.jobs}; it must be at least 1.")
    if args.smoke and args.out.resolve() == RESULTS.resolve():
        raise UserError("--smoke would overwrite the stored results; give it a folder of its own with --out.")
    out = args.out
    tuning = args.tuning or (Path("data/tuning/tabular") if out.resolve() == RESULTS.resolve() else out / "tuning")
    writable(out, "--out")
    began, partial = time.monotonic(), out / "partial"

    def table(name: str, todo: list[dict], target: Path) -> list[dict]:
        """Compute one table from its journal on; write it and where it comes from; drop the journal."""
        start, journal = time.monotonic(), partial / f"{name}.jsonl"
        entries = compute(name, todo, journal, args.jobs)
        more = [{"setting": json_text(c["setting"])} if name == "tuning" else {} for c in todo]
        rows = [r | extra for e, extra in zip(entries, more) for r in e["rows"]]
        target.parent.mkdir(parents=True, exist_ok=True)
        text = record(
            name, todo, args.smoke, time.monotonic() - start, entries
        )  # before the table makes the tree dirty
        write_table(target, pd.DataFrame(rows))
        target.with_suffix(".json").write_text(text)
        journal.unlink()
        return entries

    chosen_file = tuning / "chosen.json"
    if not chosen_file.exists() or (args.force and not args.only):
        todo = [c for noisy in (False, True) for c in _tuning_cells(noisy, args.smoke)]
        chosen = choose(todo, table("tuning", todo, tuning / "tuning.parquet"))
        chosen_file.write_text(json_text(chosen, indent=1, sort_keys=True) + "\n")
    chosen = json.loads(chosen_file.read_text())
    for name in wanted:
        target = out / f"{name}.parquet"
        if target.exists() and not args.force:
            print(f"{name}: complete ({target}); --force computes it again")
        else:
            table(name, plan(name, chosen, args.smoke), target)
    if partial.exists() and not any(partial.iterdir()):
        partial.rmdir()
    print(f"{out}: {', '.join(wanted)} done in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    from pmeta_lib.cli import main as pmeta_command

    sys.exit(pmeta_command(["tabular", *sys.argv[1:]]))
