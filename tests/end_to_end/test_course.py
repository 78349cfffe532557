"""A notebook of the course through the real command line; `make test` runs all of them before these tests."""

import json
import os
import subprocess
import sys

from pmeta_course.regression.command import course_folder
from pmeta_course.regression.structure import check_folder


def test_one_notebook_of_the_course_runs_and_agrees(tmp_path):
    out = tmp_path / "out"
    call = [sys.executable, "-m", "pmeta_lib.cli", "course", "--profile", "smoke", "--only", "04", "--out", str(out)]
    done = subprocess.run(
        [*call, "--compare"], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    summary = json.loads((out / "summary.json").read_text())
    assert done.returncode == 0 and summary["ok"], done.stdout
    (notebook,) = summary["notebooks"]
    assert notebook["name"].startswith("04_") and notebook["parameters"]["PROFILE"] == "smoke"
    assert notebook["rows"] and all(r["status"] in ("same", "moved") for r in notebook["rows"])
    assert notebook["figures"] and (out / f"{notebook['name']}.ipynb").exists()


def test_every_stored_notebook_is_sound_and_in_step_with_its_code_and_expectations():
    folder = course_folder()
    found = check_folder(folder, folder.parent / "data" / "expected")
    assert found and not {name: problems for name, problems in found.items() if problems}
