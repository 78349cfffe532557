"""examples:
  pmeta doctor               one line for each thing the course needs, with the remedy where one is missing
  pmeta doctor --json out/doctor.json

exit code: 0 if nothing is an error (warnings have fall-backs), else 1.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from pmeta_course.regression import machine
from pmeta_lib.files import json_text, write_report

OK, WARNING, ERROR = "ok", "warning", "error"
REINSTALL = "pip install --force-reinstall -e . in the repository"
GIB = 2**30
Line = tuple[str, str, str, str]  # what, state, found, remedy


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the findings to FILE too (- for stdout)")


def main(args: argparse.Namespace) -> int:
    lines = []
    for check in CHECKS:
        for what, state, found, remedy in safely(check):
            lines.append({"what": what, "state": state, "found": found, "remedy": remedy})
            if args.json != Path("-"):
                print(f"{state:<7}  {what:<20} {found}" + (f"  → {remedy}" if remedy else ""), flush=True)
    errors = sum(line["state"] == ERROR for line in lines)
    report = {"ok": not errors, "checks": lines}
    if args.json == Path("-"):
        print(json_text(report, indent=1))
    else:
        write_report(args.json, report)
        print("\nready" if not errors else f"\n{errors} error{'s' * (errors > 1)}: see the remedies above")
    return int(bool(errors))


def safely(check) -> Iterator[Line]:
    """The lines of a check; one that cannot even be made, as when a library does not load, is an error too."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001 - whatever is broken here is what the user came to hear of
        yield check.__name__, ERROR, f"{type(error).__name__}: {error}".splitlines()[0], REINSTALL


def judged(what: str, good: object, found: str, remedy: str, otherwise: str = ERROR) -> Line:
    """One line of the report: ok, or `otherwise` with its remedy."""
    return (what, OK, found, "") if good else (what, otherwise, found, remedy)


def python() -> Iterator[Line]:
    good, found = (3, 11) <= sys.version_info < (3, 14), f"{platform.python_version()} at {sys.executable}"
    yield judged("python", good, found, "make a virtual environment with Python 3.11, 3.12 or 3.13")
    isolated = sys.prefix != sys.base_prefix or "CONDA_PREFIX" in os.environ
    yield judged("environment", isolated, sys.prefix, "use a virtual or conda environment: `make setup`", WARNING)


def packages() -> Iterator[Line]:
    from packaging.requirements import Requirement

    wrong, found = [], []
    try:
        needed = [Requirement(r) for r in requires("pmeta_lib") or []]
    except PackageNotFoundError:
        needed, wrong = [], ["pmeta_lib is not installed"]
    for need in (n for n in needed if not n.marker or n.marker.evaluate({"extra": ""})):
        try:
            found.append(f"{need.name} {version(need.name)}")
            if not need.specifier.contains(version(need.name), prereleases=True):
                wrong.append(f"{found[-1]} is not {need.specifier}")
        except PackageNotFoundError:
            wrong.append(f"{need.name} is missing")
    shown = [f for f in found if f.split()[0] in ("torch", "numpy", "gymnasium", "mujoco", "papermill")]
    said = "; ".join(wrong) or f"{len(found)} present: {', '.join(shown)}"
    yield judged("packages", not wrong, said, "pip install -e . in the repository")


def cores() -> Iterator[Line]:
    count = machine.cores()
    yield judged("cores", count > 1, str(count), "works, but takes about twice the stated times", WARNING)
    threads = os.environ.get("OMP_NUM_THREADS", "")
    few = not threads.isdigit() or int(threads) <= count
    found = f"OMP_NUM_THREADS={threads}" if threads else "chosen by the runner"
    yield judged("threads", few, found + f" on {count} cores" * (not few), "unset OMP_NUM_THREADS", WARNING)
    memory = machine.memory() / GIB
    yield judged("memory", memory >= 4, f"{memory:.1f} GiB", "close other programs and run with --workers 1", WARNING)


def gpu() -> Iterator[Line]:
    # In a process of its own: a broken driver can crash or hang whoever asks it.
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        failed, text = done.returncode, (done.stderr if done.returncode else done.stdout).strip().rpartition("\n")[2]
    except subprocess.TimeoutExpired:
        failed, text = 1, "no answer in 60 s"
    found = text or "none: the course runs on the CPU, only full sweeps gain from a GPU"
    found = f"torch cannot be asked: {text}" if failed else found
    yield judged("gpu", not failed, found, "pip install torch again; the CPU suffices", WARNING)


def rendering() -> Iterator[Line]:
    gl = machine.off_screen()
    remedy = "none needed: robots are drawn as sticks. To see them rendered: install libegl1 or libosmesa6"
    yield judged("off-screen rendering", gl, f"MUJOCO_GL={gl}" if gl else "no EGL, no OSMesa", remedy, WARNING)


def disk() -> Iterator[Line]:
    for what, folder in (("disk, here", Path.cwd()), ("disk, temporary", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(folder).free / GIB
        state = WARNING if free > 0.3 else ERROR
        yield judged(what, free > 2, f"{free:.1f} GiB free", f"free some space on {folder}", state)


def folders() -> Iterator[Line]:
    for what, folder in (("writable, here", Path.cwd()), ("writable, temporary", Path(tempfile.gettempdir()))):
        try:
            with tempfile.TemporaryFile(dir=folder):
                yield what, OK, str(folder), ""
        except OSError as error:
            remedy = "give --out a folder that can be written" if "here" in what else "set TMPDIR to another folder"
            yield what, ERROR, f"{folder}: {error.strerror}", remedy


def kernel() -> Iterator[Line]:
    import nbformat

    from pmeta_course.regression.runner import Job, Limits, run_notebook

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "doctor.ipynb"
        cell = nbformat.v4.new_code_cell("import pmeta_lib")
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), source)
        job = Job("doctor", source, Path(folder) / "out.ipynb", {}, Limits(120, machine.memory()))
        result = run_notebook(job, "doctor", threading.Event())
    good, how = result.status == "passed", f"starts, runs and ends in {result.seconds:.1f} s"
    yield judged("jupyter kernel", good, how if good else f"{result.reason}: {result.message}", REINSTALL)


CHECKS = (python, packages, cores, gpu, rendering, disk, folders, kernel)
