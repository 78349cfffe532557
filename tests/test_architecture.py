"""The house stays small: line limits of packages, files and readers' paths, and what `--help` may cost."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pmeta_lib.cli import VERBS

ROOT = Path(__file__).parents[1]
LIBRARY, COURSE = ROOT / "pmeta_lib", ROOT / "notebooks" / "pmeta_course"
TABULAR = ("moreau.py", "tabular/algorithm.py", "tabular/loop.py", "tabular/policies.py")
DEEP = ("sac/training.py", "sac/update.py", "sac/losses.py", "sac/learners/pmeta.py", "moreau.py")


def lines(*paths: Path) -> dict[str, int]:
    files = [f for path in paths for f in (path.rglob("*.py") if path.is_dir() else [path])]
    return {f.relative_to(ROOT).as_posix(): len(f.read_text().splitlines()) for f in files}


@pytest.mark.parametrize(
    "paths, most",
    [
        ([LIBRARY], 7_500),
        ([LIBRARY, COURSE], 14_000),
        ([LIBRARY / "policy_gradient"], 900),
        ([LIBRARY / name for name in TABULAR], 400),
        ([LIBRARY / name for name in DEEP], 560),
    ],
    ids=["library", "both packages", "policy_gradient", "reader of the tabular algorithm", "reader of pMeta-SAC"],
)
def test_lines(paths, most):
    assert sum(lines(*paths).values()) <= most


def test_no_file_is_longer_than_400_lines():
    assert not {name: n for name, n in lines(LIBRARY, COURSE).items() if n > 400}


SPENT = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
"""


def cpu(*words: str) -> float:
    """CPU seconds of one command."""
    done = subprocess.run([sys.executable, "-c", SPENT, sys.executable, *words], capture_output=True, text=True)
    return float(done.stdout)


@pytest.mark.parametrize("verb", VERBS)
def test_help_costs_little_more_than_python_itself(verb):
    """At most twelve times what Python needs to start and to load argparse; taken alternately, the best of three."""
    pairs = [(cpu("-c", "import argparse"), cpu("-m", "pmeta_lib.cli", verb, "--help")) for _ in range(3)]
    python, ours = (min(side) for side in zip(*pairs))
    assert ours <= 12 * python


def test_what_tests_share_lies_in_no_test_module():
    said = re.compile(r"^\s*(?:from|import) test_\w+", re.MULTILINE)
    assert not [f.name for f in (ROOT / "tests").rglob("*.py") if said.search(f.read_text())]
