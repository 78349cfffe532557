"""`pmeta doctor` names what is missing and how to mend it; only errors make it fail."""

import json
import subprocess
import sys

from pmeta_course import doctor
from pmeta_course.regression import machine

from pmeta_lib import cli


def test_doctor_on_this_machine(tmp_path):
    out = tmp_path / "sub" / "doctor.json"
    call = [sys.executable, "-m", "pmeta_lib.cli", "doctor", "--json", str(out)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=tmp_path)
    found = json.loads(out.read_text())
    states = {line["what"]: line["state"] for line in found["checks"]}
    assert done.returncode == 0 and found["ok"], done.stdout
    assert states["jupyter kernel"] == states["packages"] == "ok"
    for what in ("python", "cores", "threads", "memory", "gpu", "off-screen rendering", "disk, here"):
        assert what in states and what in done.stdout
    assert all(line["remedy"] for line in found["checks"] if line["state"] != "ok")


def test_missing_parts_are_warnings_and_broken_ones_errors(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "off_screen", lambda: None)
    monkeypatch.setattr(doctor, "requires", lambda name: ["numpy<1", "no-such-package", "torch; extra == 'gpu'"])
    lines = [line for check in (doctor.rendering, doctor.packages) for line in check()]
    assert [(what, state) for what, state, *_ in lines] == [
        ("off-screen rendering", "warning"), ("packages", "error"),
    ]  # fmt: skip
    assert "no-such-package is missing" in lines[-1][2] and "is not <1" in lines[-1][2]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", lambda dir: (_ for _ in ()).throw(PermissionError(13, "no")))
    assert {state for _, state, *_ in doctor.folders()} == {"error"}


def test_an_error_is_exit_code_1(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "CHECKS", (lambda: iter([("x", "error", "broken", "mend it")]),))
    assert doctor.main(type("Args", (), {"json": None})) == 1
    assert "mend it" in capsys.readouterr().out


def test_a_library_that_does_not_load_is_an_error_and_the_other_checks_go_on(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "nbformat", None)
    monkeypatch.setattr(doctor, "CHECKS", (doctor.kernel, doctor.disk))
    assert doctor.main(type("Args", (), {"json": None})) == 1
    kernel, *disks, _, verdict = capsys.readouterr().out.splitlines()
    assert kernel.startswith("error") and "nbformat" in kernel and "--force-reinstall" in kernel
    assert len(disks) == 2 and verdict.startswith("1 error")


def test_a_report_that_cannot_be_written_is_told_before_any_check(capsys, tmp_path):
    for target, message in ((tmp_path, "name a file"), (f"{__file__}/x.json", "this folder cannot be written")):
        assert cli.main(["doctor", "--json", str(target)]) == 2
        found = capsys.readouterr()
        assert message in found.err and found.err.count("\n") == 1 and not found.out
