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


LOADED = """
import sys
from pmeta_lib import cli
try:
    cli.main([sys.argv[1], "--help"])
finally:
    print("loaded:", *{name.partition(".")[0] for name in sys.modules})
"""


@pytest.mark.parametrize("verb", VERBS)
def test_help_waits_for_no_library_that_takes_long_to_load(verb):
    """gymnasium, which knows what environments there are, is the heaviest that it may load."""
    done = subprocess.run([sys.executable, "-c", LOADED, verb], capture_output=True, text=True)
    assert done.stdout.startswith("usage: ") and not done.stderr
    loaded = set(done.stdout.rpartition("loaded:")[2].split())
    slow = {"torch", "pandas", "pyarrow", "pydantic", "scipy", "matplotlib", "seaborn", "mujoco", "IPython", "nbformat",
            "ray"}  # fmt: skip
    assert "pmeta_lib" in loaded and not slow & loaded


def test_what_tests_share_lies_in_no_test_module():
    said = re.compile(r"^\s*(?:from|import) test_\w+", re.MULTILINE)
    assert not [f.name for f in (ROOT / "tests").rglob("*.py") if said.search(f.read_text())]
