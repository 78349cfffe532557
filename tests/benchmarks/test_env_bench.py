"""`pmeta bench env`: both sides compute the same, the ratios are consistent, and mistakes are refused."""

import argparse
import json
import os

import pytest

from benchmarks import env as bench
from pmeta_lib.envs import vector
from pmeta_lib.files import UserError


def run(*words):
    parser = argparse.ArgumentParser()
    bench.configure(parser)
    return bench.main(parser.parse_args(words))


def test_bench_prints_ratios_and_writes_them(tmp_path, capsys):
    before = os.sched_getaffinity(0)
    families = ["half-cheetah-vel", "hopper-params", "pendulum-flip", "lunar-lander-params"]
    small = ["--tasks", "3", "--steps", "5", "--rounds", "2", "--json", str(tmp_path / "env.json")]
    assert run("--families", *families, *small) == 0
    assert os.sched_getaffinity(0) == before
    results = json.loads((tmp_path / "env.json").read_text())["results"]
    assert {r["family"] for r in results} == set(families)
    for r in results:
        assert r["ratio_low"] <= r["ratio"] <= r["ratio_high"] and r["versions"]["gymnasium"]
        assert min(r["steps_per_second"].values()) > 0
    assert "x SyncVectorEnv" in capsys.readouterr().out


def test_bench_refuses_to_compare_different_numbers(monkeypatch):
    step = vector.TaskVectorEnv.step

    def wrong(self, actions):
        return step(self, 0.99 * actions)

    monkeypatch.setattr(vector.TaskVectorEnv, "step", wrong)
    with pytest.raises(UserError, match="half-cheetah-vel: the two sides differ"):
        bench.measure("half-cheetah-vel", 2, 3, 1, sorted(os.sched_getaffinity(0))[:1])


@pytest.mark.parametrize("words", [["--families", "half-cheetah"], ["--tasks", "0"], ["--rounds", "-1"]])
def test_bad_options(words):
    with pytest.raises(UserError):
        run(*words)
