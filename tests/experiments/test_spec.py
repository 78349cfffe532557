"""RunSpec: identity, JSON and bad input."""

import hashlib
import json
from dataclasses import FrozenInstanceError, asdict, fields, replace

import pytest
import torch

from pmeta_lib.experiments.learners import LEARNERS, learner
from pmeta_lib.experiments.listing import SETTINGS, WORDS, described
from pmeta_lib.experiments.spec import OldRun, RunSpec, stored_spec
from pmeta_lib.files import UserError
from pmeta_lib.options import options
from pmeta_lib.sac.learners.reptile import Reptile
from pmeta_lib.sac.settings import Settings


def test_json_round_trip_keeps_identity():
    spec = RunSpec("half-cheetah-vel", "pmeta", 3, "modern", 5, {"lam": 0.1}, Settings(steps=2000, hidden=(64, 32)))
    again = RunSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec and again.key == spec.key and len(spec.key) == 16
    assert again.settings.hidden == (64, 32) and isinstance(again.settings.hidden, tuple)


def test_identity_is_what_determines_the_run():
    base = RunSpec("pendulum-flip")
    same = [RunSpec("pendulum-flip", options={"lam": 0.01}), RunSpec("pendulum-flip", settings={}),
            RunSpec("pendulum-flip", settings={"updates_per_step": 1}),
            RunSpec("pendulum-flip", options={"eta_lam": 1})]  # fmt: skip
    other = [RunSpec("pendulum-flip", seed=1), RunSpec("pendulum-flip", "joint"), RunSpec("pendulum-params"),
             RunSpec("pendulum-flip", options={"lam": 0.02}), RunSpec("pendulum-flip", settings={"steps": 5000}),
             RunSpec("pendulum-params", train_tasks=3)]  # fmt: skip
    assert {s.key for s in same} == {base.key}
    assert len({s.key for s in [base, *other]}) == 1 + len(other)


COMPLETE = {"version": 2, "family": "pendulum-flip", "learner": "reptile", "seed": 0, "preset": "modern",
            "train_tasks": 2, "options": {"inner_steps": 50, "epsilon": 1.0}}  # fmt: skip


def test_the_key_is_a_hash_of_all_that_was_resolved():
    """A change here orphans every stored result: it must be meant."""
    spec = RunSpec.from_json(COMPLETE)
    data = spec.to_json()
    assert data["options"] == COMPLETE["options"] and data["settings"].keys() == asdict(Settings()).keys()
    text = json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
    assert spec.key == hashlib.sha256(text).hexdigest()[:16] and RunSpec("pendulum-flip", "reptile").key == spec.key
    assert RunSpec("hopper-params").train_tasks == 10 and RunSpec("hopper-params", train_tasks=10).key == RunSpec(
        "hopper-params").key  # fmt: skip


def test_a_changed_default_is_another_run_and_a_stored_one_keeps_what_it_ran_with(tmp_path, monkeypatch):
    """The folder holds the run of yesterday's default; today's command must not get it, nor be called by its name."""
    before = RunSpec("point-robot", "reptile")
    (tmp_path / "spec.json").write_text(json.dumps(before.to_json()))

    @options
    class Later(Reptile):
        epsilon: float = 0.5

    monkeypatch.setattr("pmeta_lib.sac.learners.reptile.Reptile", Later)
    after = RunSpec("point-robot", "reptile")
    assert after.options["epsilon"] == 0.5 and after.key != before.key
    assert stored_spec(tmp_path) == before and stored_spec(tmp_path).key == before.key
    assert stored_spec(tmp_path).changed == {"epsilon": 1.0}


@pytest.mark.parametrize("change", [
    lambda d: d.pop("version"), lambda d: d.update(version=1), lambda d: d["options"].pop("epsilon"),
    lambda d: d["settings"].pop("polyak"), lambda d: d["options"].update(gone=1), lambda d: d.update(train_tasks=None),
])  # fmt: skip
def test_a_run_of_an_older_version_is_said_to_be_old(tmp_path, change):
    data = RunSpec.from_json(COMPLETE).to_json()
    change(data)
    (tmp_path / "spec.json").write_text(json.dumps(data))
    with pytest.raises(OldRun, match=f"{tmp_path} holds a run of an older version.*another folder"):
        stored_spec(tmp_path)


@pytest.mark.parametrize("data, text", [
    ({"family": "pendulum-flop"}, "Did you mean 'pendulum-flip'"),
    ({"family": "ant-dir", "preset": "pearl2020"}, "preset"),
    ({"family": "pendulum-flip", "preset": "pearl2019"}, "does not define pendulum-flip"),
    ({"family": "ant-dir", "learner": "maaml"}, "learner"), ({"family": "ant-dir", "seed": -1}, "seed"),
    ({"family": "ant-dir", "seed": "zero"}, "seed"), ({"family": "ant-dir", "train_tasks": 0}, "tasks"),
    ({"family": "ant-dir", "options": {"lamb": 1}}, "Did you mean 'lam'"), ({"family": "ant-dir", "sed": 1}, "'seed'"),
    ({"family": "ant-dir", "settings": {"step": 1}}, "'steps'"),
    ({"family": "ant-dir", "settings": {"steps": "9"}}, "steps"),
])  # fmt: skip
def test_mistakes_are_named(data, text):
    with pytest.raises(UserError, match=text):
        RunSpec.from_json(data)


def test_settings_and_options_check_themselves_and_name_every_mistake():
    assert Settings(hidden=[8, 8], discount=1) == Settings(hidden=(8, 8), discount=1.0)
    assert isinstance(Settings(discount=1).discount, float) and isinstance(learner("pmeta", lam=1).lam, float)
    with pytest.raises(UserError, match=r"Did you mean 'batch_size'"):
        Settings(batchsize=3)
    with pytest.raises(UserError) as caught:
        Settings(steps=True, hidden=(), polyak=7, target_entropy=float("nan"), learning_rate="1")
    for text in ("steps is True", "hidden is ()", "polyak is 7; it must be at most 1", "target_entropy is nan",
                 "learning_rate is '1'"):  # fmt: skip
        assert f"setting {text}" in str(caught.value)
    assert str(caught.value).count("; setting") == 4 and "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"warm_up is 100; .*; setting evaluations is 40, more than steps \(30\)"):
        Settings(steps=30, warm_up=100)
    with pytest.raises(UserError, match=r"option lam of learner pmeta is -1\.0; it must be at least 0"):
        replace(learner("pmeta"), lam=-1.0)
    with pytest.raises(FrozenInstanceError):
        learner("pmeta").lam = 2.0


def test_all_mistakes_of_a_spec_at_once():
    with pytest.raises(UserError) as caught:
        RunSpec.from_json({"family": "ant-dri", "sed": 1, "options": {"lamb": 1, "beta": 3}, "settings": {"steps": 0}})
    for text in ("'ant-dir'", "'seed'", "'lam'", "beta of learner pmeta is 3", "setting steps is 0"):
        assert text in str(caught.value)


@pytest.mark.parametrize("name", [None, *LEARNERS])
def test_help_knows_every_option_and_imports_nothing(name):
    """The source as it is read for `--help` says the same as the classes themselves."""
    made, place = (learner(name), LEARNERS[name]) if name else (Settings(), SETTINGS)
    found = {n: (kind, default, why) for n, kind, default, why in described(place)}
    assert {n: str(v).strip("()") for n, v in asdict(made).items()} == {n: d for n, (_, d, _) in found.items()}
    assert all(kind in WORDS.values() for kind, _, _ in found.values())


@pytest.mark.parametrize("cls", [RunSpec, Settings, *(type(learner(name)) for name in LEARNERS)])
def test_a_mistake_in_what_is_given_by_place_is_called_by_its_name(cls):
    first = next(iter(fields(cls)), None)
    if first is not None:
        with pytest.raises(UserError, match=rf"(^|\s){first.name}\b.* is <object"):
            cls(object())
    with pytest.raises(TypeError, match="too many positional"):
        cls(*fields(cls), 1)


@pytest.mark.parametrize("can", [{"avx512_bf16": True}, {}])
def test_an_automatic_precision_is_resolved_before_it_is_part_of_an_identity(monkeypatch, can):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can, raising=False)
    found = RunSpec("pendulum-flip", settings={"precision": "auto"})
    named = "bfloat16" if can else "float32"
    assert found == RunSpec("pendulum-flip", settings={"precision": named}) and found.settings.precision == named
    assert found.to_json()["settings"]["precision"] == named
