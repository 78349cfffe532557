"""The benchmark counts what it says and leaves out peers that are not there."""

import json
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import sac
from pmeta_lib.sac.training import update


def test_operations_are_counted_right():
    """Against PyTorch's own counter, which sees the matrix products of one real update."""
    for setting in (sac.Setting("", "half-cheetah-vel", 2, 16, 24), sac.Setting("", "pendulum-params", 3, 8, 10)):
        run = sac.trained(setting)
        with FlopCounterMode(display=False) as counter:
            update(run)
        assert counter.get_total_flops() == setting.tasks * setting.flops


def test_rates_are_work_per_cpu_second_and_sides_take_turns():
    calls = []

    class Bar:
        def update(self):
            calls.append("round")

    def side(name, work):
        return lambda: (calls.append(name), sum(range(20_000)), work)[-1]

    rates = sac.alternate({"a": side("a", 10.0), "b": side("b", 20.0)}, 3, 0.02, Bar())
    assert rates["a"].shape == (3,) and 1.3 < (rates["b"] / rates["a"]).mean() < 3
    assert calls.count("round") == 3 and "".join(c[0] for c in calls).replace("aa", "a").count("ab") == 4


def test_a_missing_peer_is_one_line(capsys):
    assert not sac.available("Peer", "no_such_package_here", "no-such-package")
    assert capsys.readouterr().out == "Peer is not installed and left out: pip install no-such-package\n"


def test_report_has_every_number(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sac, "SETTINGS", (sac.Setting("tiny", "pendulum-params", 2, 8, 8),))
    monkeypatch.setattr(sac, "WARM_UP", 32)
    monkeypatch.setattr(sac, "FIELDS", sac.Setting("small field", "pendulum-flip", 2, 8, 8))
    monkeypatch.setattr(sac, "PEERS", {"Peer": ("no_such_package_here", "x")})
    before = torch.get_num_threads()
    from pmeta_lib.cli import main

    assert (
        main(["bench", "sac", "--rounds", "1", "--seconds", "0.02", "--tasks", "1", "2", "--json", str(tmp_path / "r")])
        == 0
    )
    assert torch.get_num_threads() == before
    report, out = json.loads((tmp_path / "r").read_text()), capsys.readouterr().out
    assert report["comparisons"][0]["task_updates_per_second"]["pmeta"] > 0
    assert report["versions"]["torch"] == torch.__version__ and report["commit"] and report["machine"]
    assert {"field", "float32", "one environment"} == report["field"]["transitions_per_second"].keys()
    assert [g["tasks"] for g in report["growth"]] == [1, 2]
    assert {x["learner"]: x["cost"]["median"] for x in report["learners"]}["independent"] == 1.0
    assert "x 1.0 of one update at a time" in out and "of the batched products' rate" in out
    if not torch.cuda.is_available():
        assert report["gpu"] is None and "80 tasks: not measured, there is no CUDA device here" in out


def test_the_fields_loop_counts_transitions_and_makes_an_update_for_every_eight(monkeypatch):
    monkeypatch.setattr(sac, "WARM_UP", 32)
    run = sac.trained(sac.Setting("", "pendulum-params", 3, 8, 8), envs_per_task=16, updates_per_step=0.125)
    step = sac.loop(run)
    assert [step() for _ in range(4)] == [48.0] * 4 and run.agent.updates == 8


def test_the_time_to_a_return_is_that_of_both_sides(capsys):
    small = {"steps": 80, "warm_up": 20, "batch_size": 8, "hidden": (8, 8), "evaluation_episodes": 1}
    report = sac.reach(-1e9, [0], "point-robot", **small, evaluations=4)
    assert report["seconds"].keys() == {"desk", "field"} and report["ratio"] > 0
    assert report["steps"] == {"desk": 20, "field": 32}  # the first evaluation after the start
    report = sac.reach(1e9, [0], "point-robot", **small, evaluations=1)
    assert report["seconds"] == {"desk": None, "field": None} and report["ratio"] is None
    assert "more than a budget" in capsys.readouterr().out


def test_updates_on_a_device_are_counted(monkeypatch):
    """On the CPU the same lines run, and agree with the clock."""
    monkeypatch.setattr(sac, "WARM_UP", 20)
    done = []
    monkeypatch.setattr(sac, "update", lambda run: done.append(time.sleep(0.002)))
    rate = sac.on_device(sac.Setting("", "pendulum-params", 3, 8, 8), "cpu", 30)
    assert len(done) == 40 and 3 / 0.02 < rate < 3 / 0.002
