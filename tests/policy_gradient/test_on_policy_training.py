"""The on-policy loop: what runs when, what is resumed, what stops it, and that it learns."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch

from pmeta_lib.cli import main
from pmeta_lib.envs import family
from pmeta_lib.experiments.learners import LEARNERS, learner, trainer
from pmeta_lib.files import UserError
from pmeta_lib.policy_gradient import training
from pmeta_lib.policy_gradient.learner import OnPolicy, gaussian, spread
from pmeta_lib.policy_gradient.training import train
from pmeta_lib.sac.learners import find
from pmeta_lib.sac.settings import Settings
from pmeta_lib.sac.training import Stopped

NAMES = [name for name in LEARNERS if issubclass(find(name, LEARNERS), OnPolicy)]


def without_seconds(run):
    return run.rows, [m[:-1] for m in run.metrics]


def test_the_five_are_there():
    assert NAMES == ["pg-maml", "promp", "rl2", "pg-independent", "pg-joint"]


@pytest.mark.parametrize("name", NAMES)
def test_counts_policies_and_streams(small, name):
    run = small(name, seeds=(3, 4))
    windows = {"pg-maml": 2, "promp": 2, "rl2": 2}.get(name, 1)
    one = 4 * 20 * windows
    assert (run.step, run.updates) == (480 // one * one, 480 // one)
    policies = {"deployed", "meta"} if windows == 2 else {"deployed"}
    assert set(run.curve["policy"]) == policies and set(run.curve["step"]) == {0, 240 // one * one, 480 // one * one}
    assert len(run.curve) == 3 * 2 * 3 * len(policies) and np.isfinite(run.curve["return"]).all()
    assert list(run.losses.columns) == ["seed", "step", "slot", "objective", "kl", "entropy", "cpu_seconds"]
    alone = small(name, seeds=(4,))
    torch.testing.assert_close(run.state["policy"][1], alone.state["policy"][0], rtol=1e-3, atol=1e-4)
    other = small(name, seeds=(3, 5))
    torch.testing.assert_close(run.state["policy"][0], other.state["policy"][0], rtol=1e-3, atol=1e-4)
    assert not torch.equal(run.state["policy"][1], other.state["policy"][1])


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_ends_with_the_numbers_of_an_undisturbed_one(small, name, tmp_path, monkeypatch):
    whole = small(name)
    original, calls = training.iterate, []

    def killed(run):
        calls.append(run.step)
        if len(calls) == 3:
            raise KeyboardInterrupt
        original(run)

    monkeypatch.setattr(training, "iterate", killed)
    with pytest.raises(KeyboardInterrupt):
        small(name, how={"folder": tmp_path, "checkpoint_seconds": 0.0})
    monkeypatch.setattr(training, "iterate", original)
    assert any(tmp_path.glob("step-*.json"))
    resumed = small(name, how={"folder": tmp_path})
    assert without_seconds(resumed) == without_seconds(whole)
    for key, x in whole.state.items():
        assert torch.equal(x, resumed.state[key]), key


def test_no_randomness_but_its_own(small):
    torch.manual_seed(1)
    first = small("rl2").rows
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert small("rl2").rows == first and torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["promp", "pg-maml"])
def test_a_few_steps_on_the_point_robot_help_and_adapting_more(name):
    settings = Settings(steps=8_000, hidden=(32, 32), warm_up=0, evaluations=1, learning_rate=3e-3)
    curve = train(family("point-robot", train=10), learner(name), settings, [0]).curve
    mean = curve.groupby(["step", "policy"])["return"].mean().unstack()
    assert mean["deployed"].iloc[-1] > mean["deployed"].iloc[0] + 3
    assert mean["deployed"].iloc[-1] > mean["meta"].iloc[-1] + 1


def test_an_inner_step_that_diverges_says_so_and_keeps_the_last_good_checkpoint(small, tmp_path):
    with pytest.raises(Stopped, match="inner_step_size 1e") as caught:
        small("promp", options={"inner_step_size": 1e6}, how={"folder": tmp_path})
    assert "smaller inner_step_size" in str(caught.value) and "\n" not in str(caught.value)
    small("promp", how={"folder": tmp_path / "other", "checkpoint_seconds": 0.0})

    class Later(find("promp", LEARNERS)):  # diverges once there is something to lose
        def step(self, shape, rows, window):
            broken = dataclasses.replace(window, advantage=window.advantage * (1e9 if len(seen) > 4 else 1.0))
            seen.append(1)
            return super().step(shape, rows, broken)

    seen = []
    made = dataclasses.replace(family("pendulum-params", train=3), horizon=20)
    with pytest.raises(Stopped, match=r"the last good checkpoint is that of step \d+"):
        train(made, Later(episodes=4), Settings(steps=4800, hidden=(8, 8), warm_up=0, evaluations=30), [0],
              folder=tmp_path / "later", checkpoint_seconds=0.0)  # fmt: skip
    assert any((tmp_path / "later").glob("step-*.json"))


@pytest.mark.parametrize("nats, jump", [(1e4, False), (1e6, True)])
def test_a_long_inner_step_is_a_step_until_it_is_a_jump(small, nats, jump):
    """Means that have left the box of actions move by thousands of nats: runs that earn well take such steps."""
    run = small("promp")
    rows = spread(run.state["policy"], 3)
    window = run.learner.window(run.shape, rows, run.sampler, 0.99)

    def moved(scale: float) -> float:
        longer = dataclasses.replace(window, advantage=scale * window.advantage)
        new = gaussian(run.shape, run.learner.adapted(run.shape, rows, [longer])[-1], window.observation)
        return float(window.policy.kl(new).mean((1, 2)).max())

    scale = 1.0
    while moved(scale) < nats:
        scale *= 1.1
    longer = dataclasses.replace(window, advantage=scale * window.advantage)
    if jump:
        with pytest.raises(FloatingPointError, match="give a smaller inner_step_size"):
            run.learner.step(run.shape, rows, longer)
    else:
        assert torch.isfinite(run.learner.step(run.shape, rows, longer)).all()


BAD = [("episodes", 0), ("inner_step_size", -1.0), ("kl_limit", 0.0), ("gae_lambda", 2.0), ("inner_steps", 0)]


@pytest.mark.parametrize("name, value", BAD)
def test_options_that_cannot_work_are_named(name, value):
    with pytest.raises(UserError, match=name):
        learner("promp", **{name: value})


def test_a_step_that_is_drawn_back_hides_no_number_that_is_not_finite(small):
    """A line search that falls back to the old policy would train on for hours without learning anything."""
    with pytest.raises(Stopped, match="not finite"):
        small("rl2", learning_rate=1e3)
    settings = Settings(steps=480, hidden=(8, 8), warm_up=0, evaluations=2, evaluation_episodes=1)
    made = dataclasses.replace(family("pendulum-params", train=3), horizon=20)
    run = training.start(made, learner("promp", episodes=4), settings, [0])
    training.iterate(run)
    run.state["adam.first"][..., 0] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        training.iterate(run)


def test_sizes_beyond_the_memory_are_refused(small):
    with pytest.raises(UserError, match=r"GiB .* lower evaluation_episodes"):
        small(evaluation_episodes=10**9)
    with pytest.raises(UserError, match=r"GiB .* lower episodes, hidden"):
        small(options={"episodes": 10**8}, steps=10**10)


def test_too_few_steps_and_other_devices_are_refused(small):
    with pytest.raises(UserError, match="one iteration of promp"):
        small(steps=100)
    with pytest.raises(UserError, match="device is cuda"):
        small(how={"device": "cuda"})


@pytest.mark.parametrize("name", ["promp", "independent"])
@pytest.mark.parametrize("seeds", [[], [1, 1]])
def test_seeds_must_be_different(name, seeds):
    made = learner(name)
    with pytest.raises(UserError, match="give one or more different ones"):
        trainer(made)(family("pendulum-params", train=2), made, Settings(hidden=(8,), replay_capacity=100), seeds)


@pytest.mark.parametrize("name", NAMES)
def test_from_the_command_line_to_a_folder_and_on_to_tasks_never_seen(name, tmp_path, capsys):
    folder = tmp_path / "run"
    settings = "hidden=8 steps=240 warm_up=0 evaluations=2".split()
    ask = ["train", "point-robot", "--learner", name, "--tasks", "2", "--option", "episodes=2", "--out", str(folder)]
    assert main([*ask, "--quiet", *(part for x in settings for part in ("--set", x))]) == 0
    assert {p.name for p in folder.iterdir()} >= {"spec.json", "curve.parquet", "checkpoint.safetensors", "result.json"}
    updates = 6 if name in ("pg-joint", "pg-independent") else 3
    assert json.loads((folder / "result.json").read_text())["updates"] == updates
    assert main(["adapt", str(folder), "--steps", "0,40", "--episodes", "4", "--set", "batch_size=8", "--quiet"]) == 0
    table = pd.read_parquet(folder / "adaptation.parquet")
    own = table[~table["way"].isin(["scratch", "random"])]
    said = capsys.readouterr().out
    if name == "pg-independent":
        assert own.empty and "brings nothing along" in said
        return
    assert set(own["way"]) == {name} and set(own["policy"]) == {"acting", "deployed"}
    acting = own[own["policy"] == "acting"]
    assert sorted(set(acting["episode"])) == [1, 2, 3, 4] and own["task"].nunique() == 10
    assert np.isfinite(own["return"]).all() and {0, 40} <= set(own[own["policy"] == "deployed"]["step"])


def test_a_family_that_holds_nothing_out_is_called_so(tmp_path, capsys):
    folder = tmp_path / "run"
    main(["train", "pendulum-flip", "--learner", "promp", "--option", "episodes=1", "--set", "hidden=8", "--set",
          "steps=400", "--set", "warm_up=0", "--set", "evaluations=1", "--out", str(folder), "--quiet"])  # fmt: skip
    main(["adapt", str(folder), "--steps", "0", "--episodes", "1", "--quiet"])
    assert "NOT held out: they are the training tasks" in capsys.readouterr().out
    assert not pd.read_parquet(folder / "adaptation.parquet")["held_out"].any()


@pytest.mark.parametrize("preset, name", [("promp2018", "promp"), ("varibad2020", "rl2")])
def test_presets_evaluate_by_their_own_rule(preset, name):
    place = dataclasses.replace(family("half-cheetah-dir", preset), horizon=5)
    made = learner(name, episodes=2)
    run = train(place, made, Settings(steps=20, hidden=(8,), warm_up=0, evaluations=1), [0])
    last = run.curve[run.curve["step"] == run.step]
    rows = last.groupby("policy").agg({"return": "first", "episodes": "first"})
    if preset == "promp2018":  # the stochastic policy, on as many episodes as an inner step
        assert (rows["episodes"] == 2).all() and rows["return"]["deployed"] != rows["return"]["meta"]
    else:  # the first episode on a task
        assert rows["return"]["deployed"] == rows["return"]["meta"]
