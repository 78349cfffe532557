"""examples:
pmeta tabular                       regenerate data/results/tabular (about 20 minutes on 2 cores)
pmeta tabular --out my/folder       the same, elsewhere; a stopped run continues where it was
pmeta tabular --only headline       one experiment again (tuned settings are read, not searched again)
pmeta tabular --smoke --out my/try  every experiment with a few cells, in about a minute

python data/results/tabular/tabular_results.py takes the same options. The map of when
personalization helps has a script of its own, tabular_map.py.
"""

import argparse
import os
from pathlib import Path

EXPERIMENTS = ["comparison", "headline", "conflict", "lambda", "adaptation", "convergence", "theory"]
RESULTS = Path("data/results/tabular")


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of `pmeta tabular`."""
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"results folder (default {RESULTS})")
    parser.add_argument("--tuning", type=Path, help="tuned settings (default: ../../tuning/tabular beside the results)")
    parser.add_argument("--only", default="", help=f"comma-separated: {', '.join(EXPERIMENTS)}")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: all cores)")
    parser.add_argument("--smoke", action="store_true", help="a few cells of each experiment")
    parser.add_argument("--force", action="store_true", help="compute again what is complete")


def main(args: argparse.Namespace) -> int:
    """Import the experiments only now: `--help` need not wait for their libraries."""
    import tabular_results

    return tabular_results.main(args)
