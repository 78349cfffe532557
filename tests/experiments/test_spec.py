"""RunSpec: identity, JSON and bad input."""

import json

import pytest

from pmeta_lib.experiments.spec import RunSpec, make_settings
from pmeta_lib.files import UserError
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


def test_key_is_the_same_in_every_version():
    """A change here orphans every stored result: it must be meant."""
    assert RunSpec("pendulum-flip").key == RunSpec.from_json({"family": "pendulum-flip"}).key == "ed21856fb0c231a7"


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


def test_settings_from_a_dict():
    assert make_settings({"hidden": [8, 8], "discount": 1}) == Settings(hidden=(8, 8), discount=1.0)
    with pytest.raises(UserError, match="Did you mean 'batch_size'"):
        make_settings({"batchsize": 3})
