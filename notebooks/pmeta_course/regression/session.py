"""One run of `pmeta course`: plan, progress, judgement, expectations, storing, reports."""

import argparse
import contextlib
import json
import platform
import re
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import nbformat

from pmeta_course.regression import machine, reports, structure
from pmeta_course.regression.compare import blessed, compare_all, derive_band, finite, load_expected, save_expected
from pmeta_course.regression.runner import Job, Limits, Result, load, run_all
from pmeta_lib.files import UserError, json_text, write_atomically, writing

SLOW_FACTOR, SLOW_SECONDS = 5.0, 60.0  # slower than recorded by both: a failure when comparing
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


@dataclass
class Session:
    """What a run of the course knows. mode: strict | warn | off, what a value that differs means."""

    args: argparse.Namespace
    folder: Path
    expected: Path
    out: Path
    profile: str
    course: bool
    workers: int
    threads: int
    mode: str
    limits: Limits
    started: float = field(default_factory=time.time)
    environment: dict = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    recorded: dict = field(default_factory=dict)  # seconds by the expectation, else as the notebook is stored
    guesses: dict = field(default_factory=dict)  # seconds by the last run here, else as recorded
    finished: list[Result] = field(default_factory=list)

    def run(self, sources: dict[Path, Any], parameters: dict[Path, dict]) -> int:
        """Run, judge, report; the exit code."""
        self.sources = {p.stem: nb for p, nb in sources.items()}
        self.expectations = {s: load_expected(self.expected / f"{s}.json") for s in self.sources}
        last = {}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            summary = json.loads((self.out / "summary.json").read_text(encoding="utf-8"))
            last = {n["name"]: n["seconds"] for n in summary["notebooks"] if n["status"] == "passed"}
        if any(re.search("mujoco|video|render", c.source) for nb in sources.values() for c in nb.cells):
            self.environment = {"MUJOCO_GL": gl} if (gl := machine.off_screen()) else {}
        for path, nb in sources.items():
            name, facts = path.stem, nb.metadata.get("pmeta", {})
            stored = facts.get("seconds") if facts.get("profile") == self.profile else None
            self.recorded[name] = self.expectations[name].get("seconds", stored)
            self.guesses[name] = last.get(name, self.recorded[name])
            where = name, path.absolute(), self.out / path.name, parameters[path]
            job = Job(*where, self.limits, self.threads, self.guesses[name], self.environment)
            for old in (job.executed, job.executed.with_suffix(".values.json")):
                old.unlink(missing_ok=True)
            self.jobs[name] = job
        self.announce()
        sound = [job for job in self.jobs.values() if not self.unsound(job)]
        code = 0
        try:
            run_all(sound, self.workers, self.finish, self.tick)
            if self.args.bless:
                code = self.bless()
            if self.args.store and code == 0:
                self.store()
        except KeyboardInterrupt as stopped:
            missing = self.sources.keys() - {r.name for r in self.finished}
            self.finished += [r for results in stopped.args for r in results if r.name in missing]
            for name in missing - {r.name for r in self.finished}:  # a second signal, which came before any report
                self.finished.append(Result(name, "not run", "stopped", "the run was stopped before it ended"))
            code = 130
        self.finished.sort(key=lambda r: list(self.sources).index(r.name))
        self.write()
        print(reports.table(self), flush=True)
        if code == 130:
            raise KeyboardInterrupt
        return code or int(any(r.status != "passed" for r in self.finished))

    def announce(self) -> None:
        about, known = "no recorded times yet", [g for g in self.guesses.values() if g is not None]
        if known:
            unknown = len(self.sources) - len(known)
            guesses = known + [sum(known) / len(known)] * unknown
            about = f"about {clock(makespan(guesses, self.workers))}" + f" ({unknown} times guessed)" * bool(unknown)
        what = f"{len(self.sources)} notebook{'s' * (len(self.sources) > 1)}, profile {self.profile}"
        each = f"{self.threads} thread{'s' * (self.threads > 1)} each"
        print(f"{what}, {self.workers} at a time with {each}: {about}", flush=True)
        if self.mode == "warn" and not any(self.expectations.values()):
            what = f"no expectations are stored for profile {self.profile}"
            print(f"{what}: values are recorded, not compared", flush=True)

    def unsound(self, job: Job) -> bool:
        """Whether a notebook cannot be run in earnest; it is then a failure at once."""
        problems = structure.source_problems(self.sources[job.name], self.course)
        if problems:
            result = Result(job.name, executed=str(job.executed), expected_seconds=job.expected_seconds)
            for problem in problems:
                result.fail("structure", problem)
            shutil.copyfile(job.source, job.executed)  # as it is, for the report; nothing was executed
            self.add(result)
        return bool(problems)

    def tick(self, running: list[str]) -> None:
        """On a terminal: one line that says what runs now."""
        if sys.stdout.isatty():
            text = f"{clock(time.time() - self.started)}: {', '.join(running)}"
            print(f"\r\x1b[K  … {text}"[: shutil.get_terminal_size().columns], end="", flush=True)

    def add(self, result: Result) -> None:
        """Keep a result and say so in one line."""
        self.finished.append(result)
        mark = "✔" if result.status == "passed" else "✘"
        names = {r.name for r in self.finished}
        rest = [g for n, g in self.guesses.items() if n not in names and g is not None]
        left = f", about {clock(sum(rest) / self.workers)} left" if rest else ""
        guess = f"(expected {clock(result.expected_seconds)})" if result.expected_seconds else ""
        start = "\r\x1b[K" if sys.stdout.isatty() else ""
        done = f"[{len(self.finished)}/{len(self.sources)}, {clock(time.time() - self.started)} elapsed{left}]"
        print(f"{start}{mark} {result.name:<36} {clock(result.seconds):>10} {guess:<20} {done}", flush=True)
        if result.status == "failed":
            print(f"    {result.reason}: {result.message}", flush=True)

    def finish(self, job: Job, result: Result) -> None:
        """Judge a result when its notebook has ended, and say so in one line."""
        if result.status != "not run":
            begin = time.monotonic()
            self.judge(job, result)
            result.seconds += time.monotonic() - begin
        self.add(result)

    def judge(self, job: Job, result: Result) -> None:
        declared, expected = structure.parameters(self.sources[job.name]), self.expectations[job.name]
        result.parameters = {n: job.parameters.get(n, default) for n, (default, _) in declared.items()}
        # a failure when comparing strictly, else only said
        soft = result.fail if self.mode == "strict" else lambda _, problem: result.warnings.append(problem)
        if self.args.profile and "PROFILE" not in declared:
            result.warnings.append(f"it declares no PROFILE: it runs the same under --profile {self.profile}")
        ended = result.status == "passed"
        if job.executed.exists():
            nb = structure.as_authored(load(job.executed))
            result.figures = structure.figures(nb)
            for problem in structure.output_problems(nb, order=False) if ended else []:
                result.fail("figure" if problem.startswith("figure") else "structure", problem)
        for name in (n for n, v in result.values.items() if not finite(v)):
            result.fail("values", f"the recorded value {name!r} is NaN or infinite")
        if self.mode == "off":
            return
        result.rows = compare_all(result.values, expected, result.parameters)
        if ended:
            self.hold(result, expected, soft)
        if not self.args.store:
            for problem in structure.stored_problems(job.source, self.expected.parent, self.course):
                soft("structure", f"as stored: {problem}")

    def hold(self, result: Result, expected: dict, soft) -> None:
        """Hold the values, figures and time of a notebook that ended against the recorded ones."""
        for problem in structure.figure_problems(result.figures, expected.get("figures", [])) if expected else []:
            soft("figure", problem)
        wrong = [r for r in result.rows if not r.ok]
        if not expected and (self.mode == "strict" or any(self.expectations.values())):
            where = "" if self.course else f" --notebooks {self.folder}"
            command = f"pmeta course{where} --profile {self.profile} --only {result.name} --bless"
            soft("values", f"there is no expectation for its {len(wrong)} recorded values: make it with `{command}`")
        elif expected and wrong:
            text = "; ".join(f"{r.name}: {reports.describe(r)}" for r in wrong[:3])
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            soft("values", f"{len(wrong)} of {len(result.rows)} values differ: {text}{more}")
            then, now = expected.get("versions", {}), versions()
            if other := [f"{k} {v} -> {now.get(k)}" for k, v in then.items() if now.get(k) != v]:
                result.warnings.append(f"the expectations were made with other versions: {', '.join(other)}")
        recorded = self.recorded[result.name]
        if recorded and result.seconds > max(SLOW_FACTOR * recorded, recorded + SLOW_SECONDS):
            times = f"{result.seconds / recorded:.1f} times the recorded {clock(recorded)}"
            soft("time", f"took {clock(result.seconds)}, {times}")

    def bless(self) -> int:
        """Show what differs, derive bands, ask for the reason, write the expectations; the exit code. Only what left
        its tolerance gets a new number; `--seeds` asks for new bands of all stochastic values. A notebook that failed
        keeps its expectations."""
        results, wanted, redo = {r.name: r for r in self.finished}, {}, []
        todo = [results[name] for name in self.sources if results[name].status == "passed"]
        for result in todo:
            result.rows = compare_all(result.values, self.expectations[result.name], result.parameters)
            wrong = set(result.values) if self.args.seeds else {r.name for r in result.rows if not r.ok}
            wanted[result.name] = [n for n, v in result.values.items() if v["kind"] == "stochastic" and n in wrong]
        bands = self.derive_bands([r for r in todo if wanted[r.name]], wanted)
        for result in todo:
            expected, rows = self.expectations[result.name], [r for r in result.rows if not r.ok]
            figures = structure.figure_problems(result.figures, expected.get("figures", [])) if expected else []
            if not expected or rows or figures or bands.get(result.name):
                redo.append(result)
            for text in [reports.diff(rows)] * bool(rows) + figures:
                print(f"\n{result.name}\n{text}")
        reason = self.args.reason
        if not redo:
            print("nothing to bless: all values agree with their expectations")
        elif not reason:
            with contextlib.suppress(EOFError):
                reason = input("\nWhy may these values change? (empty: leave the expectations as they are) ").strip()
            if not reason:
                print("nothing blessed")
                return 1
        for result in (r for r in redo if r.status == "passed"):
            path, changed = self.expected / f"{result.name}.json", sum(not r.ok for r in result.rows)
            facts = {
                "notebook": result.name, "profile": self.profile, "parameters": result.plain_parameters(),
                "seconds": round(result.seconds, 1), "versions": versions(),
                "figures": [{k: f[k] for k in ("ink", "colour", "halves")} for f in result.figures],
            }  # fmt: skip
            old, found = self.expectations[result.name], bands.get(result.name, {})
            new = blessed(old, result.rows, result.values, found, facts, reason)
            save_expected(path, new)
            result.rows = compare_all(result.values, new, result.parameters)
            print(f"blessed {path}: {changed} changed of {len(new['values'])} values")
        return int(any(r.status != "passed" for r in self.finished))

    def derive_bands(self, results: list[Result], wanted: dict[str, list[str]]) -> dict[str, dict]:
        """The bands of the wanted stochastic values, by notebook, from one more run for every other seed. A notebook
        whose values have no band (no SEED, a failed run, a shape that changes) is marked as failed."""
        jobs, runs, bands = [], {}, {}
        for result in results:
            if "SEED" not in result.parameters:
                result.fail("values", "it records stochastic values, but declares no SEED to derive a band from")
                continue
            runs[result.name] = {result.parameters["SEED"]: result}
            job = replace(self.jobs[result.name], expected_seconds=result.seconds)
            for seed in (s for s in self.args.seeds or BAND_SEEDS if s not in runs[result.name]):
                name, parameters = f"{job.name}.seed{seed}", job.parameters | {"SEED": seed}
                executed = job.executed.with_name(f"{name}.ipynb")
                jobs.append(replace(job, name=name, executed=executed, parameters=parameters))

        def finish(job: Job, result: Result) -> None:
            name, seed = job.source.stem, job.parameters["SEED"]
            runs[name][seed] = result
            print(f"  {name} with seed {seed}: {result.status} {result.message}", flush=True)
            job.executed.unlink(missing_ok=True)

        if jobs:
            guess = makespan([j.expected_seconds for j in jobs], self.workers)
            print(f"bands of stochastic values: {len(jobs)} runs with other seeds, about {clock(guess)}", flush=True)
            run_all(jobs, self.workers, finish, self.tick)
        for result in (r for r in results if r.name in runs):
            done, names = dict(sorted(runs[result.name].items())), wanted[result.name]
            lacking = [s for s, r in done.items() if r.status != "passed" or set(names) - r.values.keys()]
            broken = [n for n in names for r in done.values() if n in r.values and not finite(r.values[n])]
            try:
                if lacking or broken:
                    raise UserError(f"no band: seeds {lacking} failed or recorded others; not finite: {broken}")
                bands[result.name] = {n: derive_band([r.values[n] for r in done.values()], list(done)) for n in names}
            except UserError as error:
                result.fail("values", str(error))
        return bands

    def store(self) -> None:
        """Write the outputs of the notebooks that passed back beside their sources."""
        for result in (r for r in self.finished if r.status == "passed"):
            path = self.folder / f"{result.name}.ipynb"
            facts = {
                "profile": self.profile, "seconds": round(result.seconds, 1), "versions": versions(),
                "parameters": result.plain_parameters(), "values": result.values,
            }  # fmt: skip
            executed = load(Path(result.executed))
            nb = structure.normalise(executed, load(path), facts)
            text = nbformat.writes(nb) + "\n"
            problems = structure.output_problems(nb) + structure.absolute_paths(nb) + structure.lost(nb, executed)
            if len(text.encode()) > structure.MAX_STORED:
                problems.append(f"{len(text) / 1e6:.1f} MB: the limit is {structure.MAX_STORED / 1e6:.0f} MB")
            for problem in problems:
                result.fail("structure", f"not stored: {problem}")
            if not problems:
                with writing(path, "make it writable and run --store again"):
                    write_atomically(path, text.encode())
                print(f"stored {path.name} ({len(text) / 1e3:.0f} kB)")

    def write(self) -> None:
        """The values, the summary and the reports, into the output folder."""
        notebooks = [
            asdict(result) | {
                "parameters": result.plain_parameters(), "executed": Path(result.executed).name,
                "figures": [{k: v for k, v in f.items() if k != "png"} for f in result.figures],
                "recorded_seconds": self.recorded.get(result.name),
            } for result in self.finished
        ]  # fmt: skip
        summary = {
            "schema": 1, "ok": all(r.status == "passed" for r in self.finished), "profile": self.profile,
            "compare": self.mode, "workers": self.workers, "threads": self.threads,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "seconds": round(time.time() - self.started, 2),
            "kernel_seconds": round(sum(r.kernel_seconds for r in self.finished), 2),
            "versions": versions(), "notebooks": notebooks,
        }  # fmt: skip
        files = {f"{r.name}.values.json": r.values for r in self.finished if r.values} | {"summary.json": summary}
        texts = {n: json_text(x, indent=1, ensure_ascii=False) + "\n" for n, x in files.items()}
        texts |= {"junit.xml": reports.junit(summary), "report.html": reports.html(summary, self)}
        with writing(self.out, "give another --out"):
            for name, text in texts.items():
                (self.out / name).write_text(text, encoding="utf-8")
