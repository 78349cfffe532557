"""examples:
  pmeta course                            the whole course, profile quick
  pmeta course --profile smoke --workers 2
  pmeta course --only 04 07 --out /scratch/try
  pmeta course --only 04 -p SEED=3        another seed: values are then not compared
  pmeta course --compare                  a value that differs from data/expected fails (default under CI)
  pmeta course --profile smoke --bless --reason "new step size"
  pmeta course --store                    write the quick outputs back into the notebooks
  pmeta course --notebooks my_folder      anybody's notebooks that have a parameters cell

exit code: 0 all passed, 1 a notebook failed, 2 a mistake in the call, 130 stopped.
"""

import argparse
import os
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pmeta_lib.files import UserError, known, locking, unknown, writable

PROFILES = ("smoke", "quick", "full")
TIME_LIMITS = {"smoke": 900, "quick": 3600, "full": 24 * 3600}  # seconds a notebook: generous, to end what hangs


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="notebooks to run: a number (04) or a name; default all")
    add("--only", nargs="+", action="extend", default=[], metavar="NAME", help="the same as giving names")
    add("--profile", help="smoke (seconds), quick (minutes, the default) or full (hours)")
    add("--out", type=Path, help="folder for executed notebooks and reports; default out/course-PROFILE")
    add("--workers", type=int, help="notebooks at a time; default: half the cores, at least 2 if there are 2")
    add("--notebooks", type=Path, help="folder of notebooks; default: the course")
    add("--expected", type=Path, help="folder of expectations; default data/expected, or NOTEBOOKS/expected")
    add("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help="set a declared parameter")
    compare = parser.add_mutually_exclusive_group().add_argument
    compare("--compare", action="store_true", default=None, help="a value that differs is a failure")
    compare("--no-compare", dest="compare", action="store_false", help="do not look at expectations")
    add("--bless", action="store_true", help="show what differs, ask why, make it the new expectation")
    add("--reason", help="the reason for --bless, instead of being asked")
    add("--seeds", type=int, nargs="+", help="seeds for the bands of stochastic values; default 0 1 2 3 4")
    add("--store", action="store_true", help="write the outputs back into the notebooks (profile quick)")
    add("--time-limit", type=float, metavar="SECONDS", help=f"for one notebook; default by profile {TIME_LIMITS}")
    add("--fail-on-skipped", action="store_true", help="exit code 1 if a file of the folder cannot be read")
    add("--memory", type=float, metavar="GIB", help="for one kernel; default: 80 %% of the machine / workers")


def course_folder() -> Path:
    """The folder with the course's notebooks. Raises UserError if there is none."""
    for root in (Path(__file__).parents[3], Path.cwd(), Path.cwd().parent):
        if any((root / "notebooks").glob("[0-9][0-9]_*.ipynb")):
            return root / "notebooks"
    raise UserError("the course's notebooks are not here: run from a clone of the repository, or give --notebooks DIR")


def choose(folder: Path, names: list[str]) -> list[Path]:
    """The notebooks of a folder that the names (numbers or stems) stand for, in order."""
    if not folder.is_dir():
        raise UserError(f"--notebooks {folder}: there is no such folder")
    found = {p.stem: p for p in sorted(folder.glob("*.ipynb")) if not p.name.startswith(".")}  # "._x": macOS's own
    if not found:
        raise UserError(f"--notebooks {folder}: there is no .ipynb file in this folder")
    chosen = set()
    for name in names:
        stem = Path(name).name.removesuffix(".ipynb")
        hits = [s for s in found if s == stem or (stem.isdigit() and s.split("_")[0] == stem.zfill(2))]
        if not hits:
            raise unknown("notebook", name, found, where=str(folder))
        chosen |= set(hits)
    return [p for s, p in found.items() if not names or s in chosen]


def read_sources(paths: list[Path], skipped: dict[Path, str] | None = None) -> dict[Path, object]:
    """The notebooks, loaded. Raises UserError for a file that is none, or puts it into `skipped` with the reason."""
    from pmeta_course.regression.structure import load

    sources, reasons = {}, {}
    for path in paths:
        try:
            sources[path] = load(path)
        except Exception as error:  # noqa: BLE001 - nbformat raises many kinds for a broken file
            empty = path.is_file() and path.stat().st_size == 0
            reasons[path] = "the file is empty" if empty else (str(error) or type(error).__name__).splitlines()[0]
    if reasons and (skipped is None or not sources):
        path = next(iter(reasons))
        raise UserError(f"{path} is not a notebook that can be read: {reasons[path]}")
    if skipped is not None:
        skipped |= reasons
    return sources


def passed_over(folder: Path) -> str:
    """One line on the notebooks in folders below this one, which are not run; empty if there are none."""
    below = [p.relative_to(folder) for p in folder.glob("*/**/*.ipynb")]
    below = [p for p in below if not any(part.startswith((".", "__")) for part in p.parts)]
    places = sorted({p.parent.as_posix() for p in below})
    shown = ", ".join(places[:3]) + (f" and {len(places) - 3} more" if len(places) > 3 else "")
    many = f"{len(below)} notebook{'s' * (len(below) > 1)}"
    return f"not run: {many} in folders below ({shown}); give such a folder with --notebooks" if below else ""


def injected(sources: dict[Path, object], settings: list[str], profile: str) -> dict[Path, dict]:
    """The parameters to inject, by notebook. Raises UserError for one that a notebook does not declare."""
    from pmeta_course.regression.structure import code_cells, parameters, parse_parameter

    pairs = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"--parameter {setting}: write it as NAME=VALUE")
        if name == "PROFILE":
            raise UserError("--parameter PROFILE=…: use --profile instead")
        pairs[name] = text
    result = {}
    for path, nb in sources.items():
        declared, result[path] = parameters(nb), {}
        asked = pairs if code_cells(nb, "parameters") else {}  # else a failure of this notebook, reported with it
        for name, text in asked.items():
            known("parameter", name, declared, where=path.name)
            result[path][name] = parse_parameter(text, name, declared[name][1], path.name)
        if "PROFILE" in declared:
            result[path]["PROFILE"] = profile
    return result


@contextmanager
def prepare_out(out: Path):
    """Create the output folder and hold its lock inside. Raises UserError if it cannot."""
    import filelock

    writable(out, "--out")
    with ExitStack() as stack:
        try:
            stack.enter_context(locking(out / ".lock", timeout=0))  # let go of when this process ends, however
        except filelock.Timeout:
            raise UserError(f"--out {out}: another run is using this folder; wait or give another --out") from None
        except OSError as error:
            raise UserError(f"--out {out}: no locks there ({error.strerror}); give another --out") from error
        yield


def main(args: argparse.Namespace) -> int:
    # jsonschema's optional grammar of URLs takes two seconds to build, and no notebook's schema needs it.
    sys.modules.setdefault("rfc3987_syntax", None)
    from pmeta_course.regression import machine
    from pmeta_course.regression.kernels import GIB, Limits
    from pmeta_course.regression.session import Session

    profile = known("profile", args.profile or "quick", PROFILES)
    for option in ("workers", "time_limit", "memory"):
        if (value := getattr(args, option)) is not None and not value > 0:
            raise UserError(f"--{option.replace('_', '-')} {value}: it must be more than 0")
    if args.store and profile != "quick":
        raise UserError("--store keeps outputs of the profile quick; leave out --profile")
    if (args.store or args.bless) and args.parameter:
        option = "--store" if args.store else "--bless"
        raise UserError(f"{option} keeps what the declared parameters give; leave out --parameter")
    if args.bless and not args.reason and not sys.stdin.isatty():
        raise UserError('--bless needs a reason: add --reason "why the values may change"')
    if args.seeds is not None and (not args.bless or len(set(args.seeds)) < 3):
        raise UserError("--seeds belongs to --bless and needs at least 3 different seeds")
    folder = args.notebooks or course_folder()
    course = folder.resolve() == Path(__file__).parents[2]
    expected = (args.expected or (folder.parent / "data" if course else folder) / "expected") / profile
    paths = choose(folder, [*args.names, *args.only])
    named, skipped = bool(args.names or args.only), {}
    sources = read_sources(paths, None if named or course else skipped)
    parameters = injected(sources, args.parameter, profile)
    out = (args.out or Path("out") / f"course-{profile}").absolute()
    if out.resolve() == folder.resolve():
        raise UserError(f"--out {out}: the notebooks are here and would be overwritten; give another --out")
    in_ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
    mode = "strict" if args.compare or (in_ci and args.compare is None) else "warn"
    if args.bless or args.compare is False or (args.parameter and args.compare is None):
        mode = "off"
    there = {p.stem for p in folder.glob("*.ipynb")} - {p.stem for p in skipped}
    gone = {p.stem for p in expected.glob("*.json")} - there
    if mode == "strict" and gone:
        raise UserError(f"{expected} expects {', '.join(sorted(gone))}, which {folder} lacks: restore or remove")
    if args.bless:
        writable(expected, "--expected")
    if args.store:
        writable(folder, "--notebooks")
    for path, reason in skipped.items():
        print(f"skipped {path.name}: it is not a notebook that can be read ({reason})", flush=True)
    if not named and not course and (line := passed_over(folder)):
        print(line, flush=True)
    with prepare_out(out):
        cores = machine.cores()
        workers = min(args.workers or min(cores, max(2, cores // 2)), len(sources))
        memory = args.memory * GIB if args.memory else 0.8 * machine.memory() / workers
        limits = Limits(args.time_limit or TIME_LIMITS[profile], memory)
        threads = max(1, cores // workers)
        session = Session(args, folder, expected, out, profile, course, workers, threads, mode, limits)
        return session.run(sources, parameters) or int(bool(skipped) and args.fail_on_skipped)
