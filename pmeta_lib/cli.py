"""`pmeta VERB …`. Each verb lives beside what it calls, as `configure(parser)` and `main(args)`."""

import argparse
import functools
import importlib.util
import os
import sys
from pathlib import Path

from pmeta_lib import __version__
from pmeta_lib.files import UserError, known, writable

VERBS = {
    "course": ("pmeta_course.regression.command", "run the notebooks headlessly, check and compare them"),
    "lab": ("pmeta_course.lab", "open the course in JupyterLab"),
    "train": ("pmeta_lib.experiments.train", "one training run: a spec becomes a folder of results"),
    "adapt": ("pmeta_lib.experiments.adapt_command", "adapt a trained run to tasks it has never seen"),
    "sweep": ("pmeta_lib.experiments.sweep", "many runs, on this machine, a Ray cluster or SLURM"),
    "tabular": ("tabular_command", "regenerate the stored tabular results"),
    "report": ("pmeta_course.reproduction.command", "the verdict on every claim, from the stored results"),
    "bench": ("benchmarks.command", "speed, as ratios against a peer in the same run"),
    "student": ("pmeta_course.grading.student", "write the student edition of the notebooks"),
    "check": ("pmeta_course.grading.command", "grade a filled-in notebook"),
    "doctor": ("pmeta_course.doctor", "is this machine ready for the course?"),
}
Parser = functools.partial(argparse.ArgumentParser, formatter_class=argparse.RawDescriptionHelpFormatter)


def main(argv: list[str] | None = None) -> int:
    """Parse, call one verb, and turn a user's mistake into one line and exit code 2."""
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):  # a terminal without ✔ shows ?, and the run goes on
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    root = Path(__file__).resolve().parents[1]  # in a clone, benchmarks, results and pages have their scripts there
    sys.path += [str(root / name) for name in ("tests", "data/results/tabular", "docs") if (root / name).is_dir()]
    available = {v: e for v, e in VERBS.items() if importlib.util.find_spec(e[0].split(".")[0]) is not None}
    listing = "\n".join(f"  {verb:<9} {text}" for verb, (_, text) in available.items())
    about = f"verbs:\n{listing}\n\n`pmeta VERB --help` has examples."
    parser = Parser(prog="pmeta", description="Personalized meta-reinforcement learning.", epilog=about)
    parser.add_argument("--version", action="version", version=f"pmeta {__version__}")
    parser.add_argument("verb", nargs="?", help=argparse.SUPPRESS)
    if not argv or argv[0].startswith("-"):
        parser.parse_args(argv)
        parser.print_help()
        return 0
    try:
        module_name, text = available[known("verb", argv[0], available)]
        verb = importlib.import_module(module_name)
        sub = Parser(prog=f"pmeta {argv[0]}", description=text[0].upper() + text[1:] + ".", epilog=verb.__doc__)
        verb.configure(sub)
        args = sub.parse_args(argv[1:])
        if (target := str(getattr(args, "json", None) or "-")) != "-":  # before anything long, for every verb
            if Path(target).is_dir():
                raise UserError(f"--json {target}: this is a folder; name a file")
            writable(Path(target).parent, "--json")
        return int(verb.main(args) or 0)
    except UserError as error:
        print(f"pmeta: error: {error}", file=sys.stderr)
        return 2
    except PermissionError as error:
        print(f"pmeta: error: {error.filename}: {error.strerror}; ask for it, or name another place", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `pmeta … | head`: the reader has gone, which is no error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("pmeta: stopped; what was finished is kept", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
