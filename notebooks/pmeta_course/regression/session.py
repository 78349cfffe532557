"""One run of `pmeta course`: plan, progress, judgement, expectations, storing, reports."""

import dataclasses
import re
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat

from pmeta_course.regression import machine, reports, structure
from pmeta_course.regression.command import SLOW_FACTOR, SLOW_SECONDS, recorded_seconds
from pmeta_course.regression.compare import compare_all, finite, load_expected
from pmeta_course.regression.expectations import bless, clock, makespan, versions
from pmeta_course.regression.runner import Job, Limits, Result, Stopped, load, run_all
from pmeta_lib.files import json_text, write_atomically, writing


@dataclass
class Session:
    """What a run of the course knows. mode: strict | warn | off, what a value that differs means."""

    folder: Path
    expected: Path
    out: Path
    profile: str
    course: bool
    workers: int
    threads: int
    mode: str
    started: float
    seconds: float
    memory: float
    profile_given: bool = False
    storing: bool = False
    environment: dict = field(default_factory=dict)
    guesses: dict = field(default_factory=dict)
    recorded: dict = field(default_factory=dict)
    finished: list[Result] = field(default_factory=list)

    def run(self, sources: dict[Path, Any], parameters: dict[Path, dict], args) -> int:
        """Run, judge, report; the exit code."""
        self.sources = {p.stem: nb for p, nb in sources.items()}
        self.expectations = {s: load_expected(self.expected / f"{s}.json") for s in self.sources}
        for stem, nb in self.sources.items():
            guess, kept = recorded_seconds(nb, stem, self.profile, self.expectations[stem], self.out)
            self.guesses[stem], self.recorded[stem] = guess, kept
        if any(re.search("mujoco|video|render", c.source) for nb in sources.values() for c in nb.cells):
            self.environment = {"MUJOCO_GL": gl} if (gl := machine.off_screen()) else {}
        jobs = [self.job(path, parameters[path]) for path in sources]
        for job in jobs:
            for old in (job.executed, job.executed.with_suffix(".values.json")):
                old.unlink(missing_ok=True)
        self.announce(jobs)
        sound = [j for j in jobs if not self.unsound(j)]
        code = 0
        try:
            run_all(sound, self.workers, self.finish, self.tick)
            if args.bless:
                code = bless(self, jobs, args.reason, args.seeds)
            if args.store and code == 0:
                self.store()
        except Stopped as stopped:
            known = {r.name for r in self.finished}
            self.finished += [r for r in stopped.args[0] if r.name in self.sources and r.name not in known]
            code = 130
        self.finished.sort(key=lambda r: list(self.sources).index(r.name))
        self.write()
        print(reports.table(self), flush=True)
        if code == 130:
            raise KeyboardInterrupt
        return code or int(any(r.status != "passed" for r in self.finished))

    def job(self, path: Path, parameters: dict, seed: int | None = None) -> Job:
        name = path.stem if seed is None else f"{path.stem}.seed{seed}"
        extra = {} if seed is None else {"SEED": seed}
        return Job(
            name, path.absolute(), self.out / f"{name}.ipynb", parameters | extra,
            Limits(self.seconds, self.memory), self.threads, self.guesses.get(path.stem), self.environment,
        )  # fmt: skip

    # ---------------------------------------------------------------------------------- progress

    def announce(self, jobs: list[Job]) -> None:
        about, known = "no recorded times yet", [g for g in self.guesses.values() if g is not None]
        if known:
            guesses = known + [sum(known) / len(known)] * (len(jobs) - len(known))
            about = f"about {clock(makespan(guesses, self.workers))}"
            about += f" ({len(jobs) - len(known)} times guessed)" if len(known) < len(jobs) else ""
        what = f"{len(jobs)} notebook{'s' * (len(jobs) > 1)}, profile {self.profile}"
        each = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        print(f"{what}, {self.workers} at a time with {each} each: {about}", flush=True)
        if self.mode == "warn" and not any(self.expectations.values()):
            what = f"no expectations are stored for profile {self.profile}"
            print(f"{what}: values are recorded, not compared", flush=True)

    def unsound(self, job: Job) -> bool:
        """Whether a notebook cannot be run in earnest; it is then a failure at once."""
        problems = structure.source_problems(self.sources[job.name], self.course)
        if not problems:
            return False
        result = Result(job.name, expected_seconds=job.expected_seconds)
        for problem in problems:
            result.fail("structure", problem)
        shutil.copyfile(job.source, job.executed)  # as it is, for the report; nothing was executed
        result.executed = str(job.executed)
        self.finished.append(result)
        self.line(result)
        return True

    def tick(self, running: dict[str, float]) -> None:
        """On a terminal: one line that says what runs now."""
        if sys.stdout.isatty():
            now = time.monotonic()
            text = ", ".join(f"{n} {clock(now - t)}" for n, t in running.items())
            print(f"\r\x1b[K  … {text}"[: shutil.get_terminal_size().columns], end="", flush=True)

    def line(self, result: Result) -> None:
        mark = "✔" if result.status == "passed" else "✘"
        elapsed = time.time() - self.started
        names = {r.name for r in self.finished}
        rest = [g for n, g in self.guesses.items() if n not in names and g is not None]
        left = f", about {clock(sum(rest) / self.workers)} left" if rest else ""
        guess = f"(expected {clock(result.expected_seconds)})" if result.expected_seconds else ""
        start = "\r\x1b[K" if sys.stdout.isatty() else ""
        done = f"[{len(self.finished)}/{len(self.sources)}, {clock(elapsed)} elapsed{left}]"
        print(f"{start}{mark} {result.name:<36} {clock(result.seconds):>10} {guess:<20} {done}", flush=True)
        if result.status == "failed":
            print(f"    {result.reason}: {result.message}", flush=True)

    # --------------------------------------------------------------------------------- judgement

    def finish(self, job: Job, result: Result) -> None:
        """Judge a result when its notebook has ended, and say so in one line."""
        if result.status != "not run":
            begin = time.monotonic()
            self.judge(job, result)
            result.seconds += time.monotonic() - begin
        self.finished.append(result)
        self.line(result)

    def judge(self, job: Job, result: Result) -> None:
        declared, expected = structure.parameters(self.sources[job.name]), self.expectations[job.name]
        result.parameters = {n: job.parameters.get(n, default) for n, (default, _) in declared.items()}

        def soft(reason: str, problem: str) -> None:  # a failure when comparing strictly, else only said
            if self.mode == "strict":
                result.fail(reason, problem)
            else:
                result.warnings.append(problem)

        if self.profile_given and "PROFILE" not in declared:
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
        if not self.storing:
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
            ratio = result.seconds / recorded
            soft("time", f"took {clock(result.seconds)}, {ratio:.1f} times the recorded {clock(recorded)}")

    # ---------------------------------------------------------------------------------- results

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
            if problems:
                for problem in problems:
                    result.fail("structure", f"not stored: {problem}")
                continue
            with writing(path, "make it writable and run --store again"):
                write_atomically(path, text.encode())
            print(f"stored {path.name} ({len(text) / 1e3:.0f} kB)")

    # ------------------------------------------------------------------------------------ reports

    def summary(self) -> dict:
        """Everything about this run, as `summary.json` holds it."""
        notebooks = []
        for result in self.finished:
            entry = dataclasses.asdict(result)
            entry["parameters"] = result.plain_parameters()
            entry["executed"] = Path(result.executed).name
            entry["figures"] = [{k: v for k, v in f.items() if k != "png"} for f in result.figures]
            entry["recorded_seconds"] = self.recorded.get(result.name)
            notebooks.append(entry)
        return {
            "schema": 1, "ok": all(r.status == "passed" for r in self.finished), "profile": self.profile,
            "compare": self.mode, "workers": self.workers, "threads": self.threads,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "seconds": round(time.time() - self.started, 2),
            "kernel_seconds": round(sum(r.kernel_seconds for r in self.finished), 2),
            "versions": versions(), "notebooks": notebooks,
        }  # fmt: skip

    def write(self) -> None:
        """The values, the summary and the reports, into the output folder."""
        summary = self.summary()
        files = {f"{r.name}.values.json": r.values for r in self.finished if r.values} | {"summary.json": summary}
        texts = {n: json_text(x, indent=1, ensure_ascii=False) + "\n" for n, x in files.items()}
        texts |= {"junit.xml": reports.junit(summary), "report.html": reports.html(summary, self)}
        with writing(self.out, "give another --out"):
            for name, text in texts.items():
                (self.out / name).write_text(text, encoding="utf-8")
