"""`pmeta doctor` names what is missing and how to mend it; only errors make it fail."""

import json
import subprocess
import sys

from pmeta_lib.course import doctor, machine


def test_doctor_on_this_machine(tmp_path):
    out = tmp_path / "sub" / "doctor.json"
    call = [sys.executable, "-m", "pmeta_lib.cli", "doctor", "--json", str(out)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=tmp_path)
    found = json.loads(out.read_text())
    states = {line["what"]: line["state"] for line in found["checks"]}
    assert done.returncode == 0 and found["ok"], done.stdout
    assert states["jupyter kernel"] == states["packages"] == "ok"
    for what in ("python", "cores", "threads", "memory", "gpu", "off-screen rendering", "ffmpeg", "disk, here"):
        assert what in states and what in done.stdout
    assert all(line["remedy"] for line in found["checks"] if line["state"] != "ok")


def test_missing_parts_are_warnings_and_broken_ones_errors(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(machine, "off_screen", lambda: None)
    monkeypatch.setattr(doctor, "requires", lambda name: ["numpy<1", "no-such-package", "torch; extra == 'gpu'"])
    lines = [line for check in (doctor.rendering, doctor.ffmpeg, doctor.packages) for line in check()]
    assert [(what, state) for what, state, *_ in lines] == [
        ("off-screen rendering", "warning"), ("ffmpeg", "warning"), ("packages", "error"),
    ]  # fmt: skip
    assert "no-such-package is missing" in lines[-1][2] and "is not <1" in lines[-1][2]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", lambda dir: (_ for _ in ()).throw(PermissionError(13, "no")))
    assert {state for _, state, *_ in doctor.folders()} == {"error"}


def test_an_error_is_exit_code_1(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "CHECKS", (lambda: iter([("x", "error", "broken", "mend it")]),))
    assert doctor.main(type("Args", (), {"json": None})) == 1
    assert "mend it" in capsys.readouterr().out
