"""`pmeta bench pg`: ratios against a peer, consistent, printed and written."""

import argparse
import json
import os

import pytest

from benchmarks import pg as bench
from pmeta_lib.files import UserError

pytest.importorskip("stable_baselines3")


def run(*words):
    parser = argparse.ArgumentParser()
    bench.configure(parser)
    return bench.main(parser.parse_args(words))


def test_bench_prints_ratios_and_writes_them(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(bench.SLOTS, "point-robot", 20)
    before = os.sched_getaffinity(0)
    assert (
        run("--families", "point-robot", "--rounds", "1", "--seconds", "0.01", "--json", str(tmp_path / "pg.json")) == 0
    )
    assert os.sched_getaffinity(0) == before
    (found,) = json.loads((tmp_path / "pg.json").read_text())["comparisons"]
    assert found["slots"] == 20 and set(found["ratio"]) == {"pg-maml", "promp", "rl2", "pg-independent", "pg-joint"}
    for side, peers in found["ratio"].items():
        for name, ratio in peers.items():  # one round: the ratio is that of the two rates
            rates = found["steps_per_second"]
            assert ratio["low"] == ratio["high"] == pytest.approx(rates[side] / rates[name])
    assert "x " in capsys.readouterr().out
    with pytest.raises(UserError, match="--rounds"):
        run("--rounds", "0")
