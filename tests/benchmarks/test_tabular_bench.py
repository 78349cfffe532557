"""The benchmark compares equal numbers, prints ratios, and names a missing peer."""

import importlib
import json

import numpy as np
import pytest
import torch

from benchmarks import tabular as bench
from pmeta_lib.cli import main
from pmeta_lib.tabular import policy_gradients


def test_peers_compute_the_same_gradients():
    tasks, theta = bench.random_tasks(3, 7, 2)
    ours = policy_gradients(tasks, theta)
    lists = (tasks.P.tolist(), tasks.r.tolist(), tasks.rho.tolist(), theta.tolist(), tasks.gamma)
    np.testing.assert_allclose(bench.plain_python(*lists), ours, atol=1e-12)
    for shared in (False, True):
        np.testing.assert_allclose(bench.numpy_loop(tasks, theta, shared), ours, atol=1e-12)


@pytest.mark.parametrize(
    "size, rounds, against, least",
    [((20, 49, 4), 3, "x_python", 15), ((100, 20, 4), 7, "x_numpy_loop", 2.5),
     ((100, 100, 5), 7, "x_numpy_loop", 0.9)],  # LAPACK is the limit there: 1.0 to 1.2 on a quiet machine
)  # fmt: skip
def test_ratios_at_the_sizes_promised(size, rounds, against, least):
    """Ratios of CPU time in one run; a neighbour that fills the caches may spoil two of three, a slower code all."""
    seen, threads = [], torch.get_num_threads()
    try:
        torch.set_num_threads(1)  # as the command does: threads that wait cost CPU time too
        for _ in range(3):
            found = bench.measure(size, rounds, python=against == "x_python")
            assert 0 < found["lapack_share"] < 1.2
            seen.append(found[against])
            if seen[-1] >= least:
                return
    finally:
        torch.set_num_threads(threads)
    raise AssertionError(f"{against} at {size}: {seen}, at least {least} was promised")


def test_the_command_prints_and_writes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "SIZES", [(3, 5, 2)])
    assert main(["bench", "tabular", "--quick", "--json", str(tmp_path / "out.json")]) == 0
    assert "x numpy loop" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["results"][0]["N"] == 3


def test_mistakes_are_one_line(capsys, monkeypatch):
    assert main(["bench", "tabulr"]) == 2
    assert "Did you mean 'tabular'" in capsys.readouterr().err
    assert main(["bench", "tabular", "--rounds", "0"]) == 2
    assert "--rounds is 0" in capsys.readouterr().err
    assert main(["bench", "tabular", "--quick", "--json", f"{__file__}/out.json"]) == 2  # before any long run
    assert "cannot be written" in capsys.readouterr().err


def test_a_missing_peer_is_named(capsys, monkeypatch):
    original = importlib.import_module

    def missing(name):
        if name == "benchmarks.sac":
            raise ModuleNotFoundError("No module named 'stable_baselines3'", name="stable_baselines3")
        return original(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert main(["bench", "sac"]) == 2
    err = capsys.readouterr().err
    assert "stable_baselines3" in err and "pip install 'pmeta_lib[bench]'" in err


@pytest.mark.parametrize("words", [["--help"], ["tabular", "--help"]])
def test_help(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["bench", *words])
    assert stop.value.code == 0 and "pmeta bench" in capsys.readouterr().out
