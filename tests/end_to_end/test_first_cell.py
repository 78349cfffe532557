"""The notebooks' first cell, which fetches the course where it is not installed, in an environment without it."""

import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import nbformat
import pytest
from pmeta_course.regression.command import course_folder

NOTEBOOKS = sorted(course_folder().glob("*.ipynb"))
CELL = nbformat.read(NOTEBOOKS[0], 4).cells[1].source


def test_all_notebooks_begin_with_the_same_cell():
    for path in NOTEBOOKS:
        cell = next(c for c in nbformat.read(path, 4).cells if c.cell_type == "code")
        assert cell.source == CELL and "setup" in cell.metadata.tags, path.name


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A Python with the course's libraries, but without pmeta, like Colab's (which has fewer libraries)."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    for old in packages.glob("*setuptools*"):  # up to Python 3.11 a venv brings one, too old for this project
        shutil.rmtree(old)
    (packages / "libraries.pth").write_text("\n".join(site.getsitepackages()))  # the .pth files there do not count
    return folder / "bin" / "python"


def run(python: list, code: str, folder: Path, **extra) -> subprocess.CompletedProcess:
    # no network; pip reads NO_BUILD_ISOLATION=0 as "no isolation"
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PMETA_REPOSITORY")} | offline | extra
    return subprocess.run([*python, "-c", code], cwd=folder, env=env, capture_output=True, text=True)


def test_it_fetches_and_installs_the_course_where_there_is_none(bare, tmp_path):
    copy = tmp_path / "copy"  # a repository of the files as they are, committed or not
    shutil.copytree(
        course_folder().parent, copy, ignore=shutil.ignore_patterns(".*", "out", "site", "*.egg-info", "build")
    )
    git = ["git", "-C", str(copy), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for step in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *step], check=True)
    work = tmp_path / "content"
    work.mkdir()
    code = CELL + "\nimport pmeta_course, pmeta_lib\nprint(os.getcwd(), pmeta_lib.__file__)"
    for _ in range(2):  # the second time as after a restart: nothing to install, but the folder to find
        got = run([bare], code, work, PMETA_REPOSITORY=copy.as_uri())
        assert got.returncode == 0, got.stderr
        assert got.stdout.split()[-2:] == [str(work / "pmeta/notebooks"), str(work / "pmeta/pmeta_lib/__init__.py")]


def test_without_an_address_it_says_what_to_do(tmp_path):
    got = run([sys.executable, "-S"], CELL, tmp_path)  # -S: no packages at all
    assert got.stderr.strip().splitlines()[-1].startswith("ModuleNotFoundError: no pmeta in this kernel: choose")


def test_where_pmeta_is_installed_it_does_nothing(tmp_path):
    got = run([sys.executable], CELL + "\nprint(os.getcwd())", tmp_path, PMETA_REPOSITORY="nowhere")
    assert (got.returncode, got.stdout.strip(), got.stderr) == (0, str(tmp_path), "")
