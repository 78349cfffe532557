"""Make new expectations: what differs, bands from several seeds, the reason, the files."""

import contextlib
import platform
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

from pmeta_course.regression import reports, structure
from pmeta_course.regression.compare import blessed, compare_all, derive_band, finite, save_expected
from pmeta_course.regression.runner import Job, Result, run_all
from pmeta_lib.files import UserError

BAND_SEEDS = (0, 1, 2, 3, 4)
PACKAGES = ("pmeta_lib", "numpy", "scipy", "torch", "gymnasium", "mujoco", "matplotlib")


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def clock(seconds: float) -> str:
    """12 s, 3:05 min or 2:10:00 h."""
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    return f"{s // 60}:{s % 60:02} min" if s < 3600 else f"{s // 3600}:{s % 3600 // 60:02}:{s % 60:02} h"


def makespan(durations: list[float], workers: int) -> float:
    """About how long jobs take on some workers when the longest start first."""
    return max(max(durations), sum(durations) / workers)


def bless(session, jobs: list[Job], reason: str | None, seeds: list[int] | None) -> int:
    """Show what differs, derive bands, ask for the reason, write the expectations; the exit code.

    Only what left its tolerance gets a new number; `seeds` asks for new bands of all stochastic values.
    A notebook that failed keeps its expectations.
    """
    results = {r.name: r for r in session.finished}
    todo = [(job, results[job.name]) for job in jobs if results[job.name].status == "passed"]
    wanted, redo = {}, []
    for job, result in todo:
        result.rows = compare_all(result.values, session.expectations[job.name], result.parameters)
        wrong = {r.name for r in result.rows if not r.ok} if not seeds else set(result.values)
        wanted[job.name] = [n for n, v in result.values.items() if v["kind"] == "stochastic" and n in wrong]
    bands = derive_bands(session, todo, wanted, seeds or BAND_SEEDS)
    for job, result in todo:
        expected, rows = session.expectations[job.name], [r for r in result.rows if not r.ok]
        figures = structure.figure_problems(result.figures, expected.get("figures", [])) if expected else []
        if not expected or rows or figures or bands.get(job.name):
            redo.append((job, result))
        for text in [reports.diff(rows)] * bool(rows) + figures:
            print(f"\n{job.name}\n{text}")
    if not redo:
        print("nothing to bless: all values agree with their expectations")
    elif not reason:
        with contextlib.suppress(EOFError):
            reason = input("\nWhy may these values change? (empty: leave the expectations as they are) ").strip()
        if not reason:
            print("nothing blessed")
            return 1
    for job, result in (pair for pair in redo if pair[1].status == "passed"):
        path, changed = session.expected / f"{job.name}.json", sum(not r.ok for r in result.rows)
        facts = {
            "notebook": job.name, "profile": session.profile, "parameters": result.plain_parameters(),
            "seconds": round(result.seconds, 1), "versions": versions(),
            "figures": [{k: f[k] for k in ("ink", "colour", "halves")} for f in result.figures],
        }  # fmt: skip
        old, found = session.expectations[job.name], bands.get(job.name, {})
        new = blessed(old, result.rows, result.values, found, facts, reason)
        save_expected(path, new)
        result.rows = compare_all(result.values, new, result.parameters)
        print(f"blessed {path}: {changed} changed of {len(new['values'])} values")
    return int(any(r.status != "passed" for r in session.finished))


def derive_bands(session, todo: list[tuple[Job, Result]], wanted: dict[str, list[str]], seeds) -> dict[str, dict]:
    """The bands of the wanted stochastic values, by notebook, from one more run for every other seed.

    A notebook whose values have no band (no SEED, a failed run, a shape that changes) is marked as failed.
    """
    jobs, runs = [], {}
    for job, result in (pair for pair in todo if wanted[pair[0].name]):
        if "SEED" not in result.parameters:
            result.fail("values", "it records stochastic values, but declares no SEED to derive a band from")
            continue
        runs[job.name] = {result.parameters["SEED"]: result}
        others = [session.job(job.source, job.parameters, seed) for seed in seeds if seed not in runs[job.name]]
        jobs += [replace(other, expected_seconds=result.seconds) for other in others]

    def finish(job: Job, result: Result) -> None:
        name, seed = job.source.stem, job.parameters["SEED"]
        runs[name][seed] = result
        print(f"  {name} with seed {seed}: {result.status} {result.message}", flush=True)
        job.executed.unlink(missing_ok=True)

    if jobs:
        guess = makespan([j.expected_seconds for j in jobs], session.workers)
        print(f"bands of stochastic values: {len(jobs)} runs with other seeds, about {clock(guess)}", flush=True)
        run_all(jobs, session.workers, finish, session.tick)
    bands = {}
    for job, result in (pair for pair in todo if pair[0].name in runs):
        done, names = dict(sorted(runs[job.name].items())), wanted[job.name]
        lacking = [s for s, r in done.items() if r.status != "passed" or set(names) - r.values.keys()]
        broken = [n for n in names for r in done.values() if n in r.values and not finite(r.values[n])]
        try:
            if lacking or broken:
                raise UserError(f"no band: seeds {lacking} failed or recorded others; not finite: {broken}")
            bands[job.name] = {n: derive_band([r.values[n] for r in done.values()], list(done)) for n in names}
        except UserError as error:
            result.fail("values", str(error))
    return bands
