"""Parity with Stable-Baselines3: both get the same, nothing is run twice, and what is said of the difference."""

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pmeta_lib.files import UserError
from pmeta_lib.sac.settings import Settings

pytest.importorskip("stable_baselines3")
from benchmarks import parity


def test_the_defaults_are_the_peers_own():
    from stable_baselines3 import SAC

    theirs = {n: p.default for n, p in inspect.signature(SAC.__init__).parameters.items()}
    ours = Settings(steps=1000, **parity.CASES["defaults"][1])
    assert (ours.learning_rate, ours.warm_up, ours.batch_size, ours.polyak, ours.discount) == tuple(
        theirs[n] for n in ("learning_rate", "learning_starts", "batch_size", "tau", "gamma")
    )
    assert theirs["ent_coef"] == theirs["target_entropy"] == "auto" and ours.initial_temperature == 1.0
    policy = SAC("MlpPolicy", "Pendulum-v1", device="cpu").policy
    assert policy.net_arch == list(ours.hidden) and (theirs["train_freq"], theirs["gradient_steps"]) == (1, 1)


def test_welchs_interval_is_the_textbooks():
    a, b = np.array([3.0, 5.0, 4.0, 8.0, 2.0]), np.array([1.0, 1.5, 0.5, 2.5])
    d, low, high = parity.late_difference(a, b)
    va, vb = a.var(ddof=1) / 5, b.var(ddof=1) / 4
    degrees = (va + vb) ** 2 / (va**2 / 4 + vb**2 / 3)
    from scipy.stats import t

    half = t.ppf(0.975, degrees) * (va + vb) ** 0.5
    assert d == pytest.approx(4.4 - 1.375) and (low, high) == pytest.approx((d - half, d + half))


def test_what_was_run_is_kept_and_other_settings_are_refused(tmp_path, monkeypatch, capsys):
    first = parity.parity(120, [0, 1], "defaults", evaluations=4, out=tmp_path)
    assert np.shape(first["ours"]) == np.shape(first["theirs"]) == (5, 2) and len(list(tmp_path.glob("*.json"))) == 4
    assert "last quarter, ours - theirs" in capsys.readouterr().out
    late = np.array(first["ours"])[4] - np.array(first["theirs"])[4]  # step 120 of 120 alone is beyond three quarters
    assert first["late_difference"][0] == pytest.approx(late.mean())
    monkeypatch.setattr(parity, "train", None)  # would fail if it were called
    monkeypatch.setattr(parity, "peer_curve", None)
    assert parity.parity(120, [0, 1], "defaults", evaluations=4, out=tmp_path) == first
    with pytest.raises(UserError, match="other settings"):
        parity.parity(140, [0], "defaults", evaluations=4, out=tmp_path)
    assert json.loads((tmp_path / "defaults-ours-0.json").read_text())["curve"] == [row[0] for row in first["ours"]]


@pytest.mark.parametrize("name, outside", [("sb3_parity", []), ("sb3_parity_defaults", [7_000])])
def test_the_stored_curves_say_what_the_findings_say(name, outside):
    stored = json.loads((Path(__file__).parents[2] / "data" / "results" / "deep" / f"{name}.json").read_text())
    ours, theirs = np.array(stored["ours"]), np.array(stored["theirs"])  # (evaluations, seeds)
    half = stats.t.ppf(0.975, 4) * theirs.std(1, ddof=1) / 5**0.5
    beyond = np.abs(ours.mean(1) - theirs.mean(1)) > half
    assert [row["step"] for row, out in zip(stored["parity"], beyond, strict=True) if out] == outside
