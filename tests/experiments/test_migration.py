"""The stored runs after their migration: complete specs, the identity that follows from them, and the same numbers."""

import json
import runpy
from pathlib import Path

import pytest

from pmeta_lib.experiments.spec import RunSpec
from pmeta_lib.files import read_table

DATA = Path(__file__).parents[2] / "data"
SCRIPT = runpy.run_path(str(DATA / "migrations" / "identity.py"))
FACTS = json.loads((DATA / "migrations" / "identity.json").read_text())


@pytest.mark.parametrize("name", FACTS["numbers"])
def test_the_numbers_are_untouched(name):
    table = read_table(DATA / name)
    if "commit" in table and not set(table["commit"]) <= set(FACTS["defaults"]):
        pytest.skip("made anew since")
    assert SCRIPT["numbers"](table) == FACTS["numbers"][name]
    column = "return"
    assert SCRIPT["numbers"](table.assign(**{column: table[column] + 1e-12})) != FACTS["numbers"][name]


def test_a_commit_s_defaults_fill_in_what_a_run_left_out():
    """A run of a commit whose default was another one gets that one, and its own options win over it."""
    first = next(iter(FACTS["defaults"]))
    then = json.loads(json.dumps(FACTS["defaults"][first]))
    then["options"]["pmeta"]["inner_steps"], then["settings"]["polyak"] = 7, 0.25
    spec = {"family": "pendulum-flip", "learner": "pmeta", "options": {"lam": 0.5}, "settings": {"steps": 5000}}
    found = SCRIPT["complete"](spec, first, FACTS | {"defaults": {first: then}})
    later = FACTS["since"]["options"]["pmeta"]  # options that came after that commit
    assert found["options"] == later | then["options"]["pmeta"] | {"lam": 0.5} and found["settings"]["polyak"] == 0.25
    assert found == RunSpec.from_json(found).to_json() and found["train_tasks"] == 2


def test_an_option_that_came_later_must_be_said():
    first = next(iter(FACTS["defaults"]))
    then = json.loads(json.dumps(FACTS["defaults"][first]))
    del then["options"]["pmeta"]["beta"]
    spec = {"family": "pendulum-flip", "learner": "pmeta", "options": {}, "settings": {}}
    with pytest.raises(SystemExit, match=r"beta: say in identity\.json"):
        SCRIPT["complete"](spec, first, FACTS | {"defaults": {first: then}})
    known = FACTS["since"]
    since = {"options": {"pmeta": known["options"]["pmeta"] | {"beta": 0.5}}, "settings": known["settings"]}
    found = SCRIPT["complete"](spec, first, FACTS | {"defaults": {first: then}, "since": since})
    assert found["options"]["beta"] == 0.5
