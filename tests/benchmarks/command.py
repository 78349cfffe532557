"""examples:
  pmeta bench tabular                  stacked tabular gradients against plain Python and a NumPy loop
  pmeta bench env                      stacked MuJoCo environments against gymnasium's SyncVectorEnv
  pmeta bench sac --json sac.json      stacked SAC against its peers; the numbers also to a file
  pmeta bench pg                       on-policy learners against PPO
  pmeta bench cost                     seconds of updates and steps, for the estimate of `pmeta sweep --dry-run`
  pmeta bench tabular --help           the options of one benchmark

Every number is a ratio against a peer that ran interleaved with ours in the same process.
"""

import argparse
import importlib
import os

from pmeta_lib.files import UserError, unknown, writable

BENCHMARKS = ("tabular", "sac", "env", "pg", "cost")


def configure(parser: argparse.ArgumentParser) -> None:
    """`pmeta bench WHAT …`: what follows belongs to the benchmark."""
    parser.add_argument("what", help=f"one of: {', '.join(BENCHMARKS)}")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="see `pmeta bench WHAT --help`")


def main(args: argparse.Namespace) -> int:
    """Import the benchmark only now: its peers are optional packages."""
    if args.what not in BENCHMARKS:
        raise unknown("benchmark", args.what, BENCHMARKS)
    if args.what == "tabular":  # one core for NumPy's peers too; it reads this when it loads
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        module = importlib.import_module(f"benchmarks.{args.what}")
        parser = argparse.ArgumentParser(
            prog=f"pmeta bench {args.what}",
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.configure(parser)
        options = parser.parse_args(args.options)
        if options.json:
            if options.json.is_dir():
                raise UserError(f"--json {options.json}: this is a folder; name a file")
            writable(options.json.parent, "--json")
        return int(module.main(options) or 0)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package == "pmeta_lib":
            raise
        raise UserError(
            f"bench {args.what} needs the package {package}, a peer to compare with, which is not installed; "
            "install the extra: pip install 'pmeta_lib[bench]'."
        ) from None
