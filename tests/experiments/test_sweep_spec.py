"""The language of sweep files: what they plan, and what they say about mistakes."""

import json
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from pmeta_lib import cli
from pmeta_lib.experiments.spec import RunSpec
from pmeta_lib.experiments.sweep_spec import load
from pmeta_lib.files import UserError, read_table

FLIP = 'families = "pendulum-flip"\nlearners = "pmeta"\n'
DATA = Path(__file__).parents[2] / "data"
SWEEPS = sorted((DATA / "sweeps").glob("*.toml"))

GOOD = """
name = "good"
families = ["pendulum-flip", "point-robot"]
learners = ["joint", "pmeta"]
seeds = ["0-2", 7]
pack = 3
[settings]
steps = 2000
hidden = [[8, 8], [16]]
[options.pmeta]
lam = [0.1, 1]
[scale.small]
seeds = [5]
[scale.large]
settings.steps = 4000
[[block]]
[[block]]
scales = ["large"]
families = "ant-dir"
learners = "independent"
settings = { steps = 3000, hidden = [4] }
"""


def write(tmp_path, text) -> Path:
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    return path


def mistakes(tmp_path, text) -> list[tuple[str, str]]:
    """(place in the file, what is wrong with it) of each."""
    with pytest.raises(UserError) as caught:
        load(write(tmp_path, text))
    head, *lines = str(caught.value).splitlines()
    assert head.startswith(f"{len(lines)} mistake")
    return [tuple(line.partition("sweep.toml: ")[2].partition(": ")[::2]) for line in lines]


def test_a_grid_is_every_combination_and_the_most_specific_value_wins(tmp_path):
    path = write(tmp_path, GOOD)
    small, large = load(path), load(path, "large")
    assert small.scale == "small" and small.scales == ("small", "large")
    expected = {
        RunSpec(f, name, 5, options=options, settings={"steps": 2000, "hidden": hidden}).key
        for f in ("pendulum-flip", "point-robot")
        for name, options in (("joint", {}), ("pmeta", {"lam": 0.1}), ("pmeta", {"lam": 1.0}))
        for hidden in ([8, 8], [16])
    }
    assert {s.key for s in small.runs} == expected and len(small.runs) == len(expected) == 12
    assert len(large.runs) == 12 * 4 + 4
    ant = [s for s in large.runs if s.family == "ant-dir"]
    assert [s.seed for s in ant] == [0, 1, 2, 7]
    assert {s.settings.steps for s in ant} == {3000} and {s.settings.hidden for s in ant} == {(4,)}
    assert {s.settings.steps for s in large.runs if s.family != "ant-dir"} == {4000}
    assert {c.pack for c in large.cells} == {3} and {c.pack for c in load(path, pack=2).cells} == {2}


def test_tuned_values_lie_below_all_that_the_file_says(tmp_path):
    chosen = {
        "joint": {"settings": {"learning_rate": 0.001, "polyak": 0.02}, "options": {}},
        "pmeta": {"settings": {"learning_rate": 0.01}, "options": {"lam": 0.5, "beta": 0.5}},
    }
    (tmp_path / "chosen.json").write_text(json.dumps({"chosen": chosen}))
    head = 'tuned = "chosen.json"\nfamilies = "point-robot"\nlearners = ["independent", "joint", "pmeta"]\n'
    plan = load(write(tmp_path, head + "[settings]\npolyak = 0.1\n[options.pmeta]\nlam = [1, 2]\n"))
    got = [(s.learner, s.settings.learning_rate, s.settings.polyak, s.changed) for s in plan.runs]
    assert got == [
        ("independent", 3e-4, 0.1, {}),
        ("joint", 0.001, 0.1, {}),
        ("pmeta", 0.01, 0.1, {"lam": 1, "beta": 0.5}),
        ("pmeta", 0.01, 0.1, {"lam": 2, "beta": 0.5}),
    ]


def test_a_scale_may_be_tuned_on_its_own(tmp_path):
    (tmp_path / "a.json").write_text('{"chosen": {"pmeta": {"settings": {}, "options": {"lam": 0.5}}}}')
    (tmp_path / "b.json").write_text('{"chosen": {"pmeta": {"settings": {}, "options": {"lam": 0.7}}}}')
    text = 'families = "point-robot"\nlearners = "pmeta"\n[scale.a]\ntuned = "a.json"\n[scale.none]\nseeds = [1]\n'
    path = write(tmp_path, text)
    assert [load(path, scale).runs[0].changed for scale in ("a", "none")] == [{"lam": 0.5}, {}]
    path = write(tmp_path, 'tuned = "b.json"\n' + text)
    assert [load(path, scale).runs[0].changed for scale in ("a", "none")] == [{"lam": 0.5}, {"lam": 0.7}]
    assert mistakes(tmp_path, text.replace("a.json", "c.json"))[0][0] == "scale.a.tuned"


@pytest.mark.parametrize(
    "content", ["not JSON", "{}", '{"chosen": {"nobody": {"settings": {}, "options": {}}}}',
                '{"chosen": {"pmeta": {"settings": {"polyak": 7}, "options": {}}}}', None],
)  # fmt: skip
def test_a_tuned_file_that_cannot_be_used_is_a_mistake_with_its_place(tmp_path, content):
    if content is not None:
        (tmp_path / "chosen.json").write_text(content)
    found = mistakes(tmp_path, 'families = "point-robot"\ntuned = "chosen.json"\nlearners = "pmeta"\n')
    assert len(found) == 1 and found[0][0] == "tuned" and "tuned = 'chosen.json' cannot be used" in found[0][1]


def test_a_run_that_two_blocks_ask_for_is_planned_once(tmp_path):
    plan = load(write(tmp_path, 'families="pendulum-flip"\nlearners="pmeta"\n[[block]]\noptions.pmeta.lam=[0.01,0.1]\n'
                                "[[block]]\noptions.pmeta.beta=[0.5,1.0]\n"))  # fmt: skip
    assert len(plan.runs) == len({s.key for s in plan.runs}) == 3 and plan.merged == 1


BAD = """families = ["pendulum-flipp", "half-cheetah-dir"]
learners = [
  "independent",  # fine
  "pmetaa",
]
sedes = [1]
seeds = [0, -1, "3-1", 0]
preset = "promp2018"
pack = 0
[settings]
steps = 50
warm_up = 100
hiden = [3]
learning_rate = [1e-3, -1.0, inf]
evaluations = "many"
[options.pmeta]
lam = [0.1, "x", -1]
foo = 2
[options.nolearner]
a = 1
[[block]]
families = ["point-robot", "ant-dir"]
learners = ["pmeta", "joint"]
options.pmeta = { tasks_per_round = 50, beta = 3.0 }
train_tasks = 2.5
scales = ["papper"]
[[block]]
families = "walker2d-params"
settings = { discount = 1.5, evaluations = 60 }
options = { pmeta = { tasks_per_round = 7 } }
learners = "pmeta"
train_tasks = 5
[scale.desk]
seeds = "0-2"
[scale.paper]
preset = "nope"
settings.steps = 0
"""


def test_every_mistake_is_named_at_once_with_its_place_and_the_choices(tmp_path):
    found = mistakes(tmp_path, BAD)
    expected = [
        ("families[0]", "Did you mean 'pendulum-flip'"), ("learners[1]", "Did you mean 'pmeta'"),
        ("sedes", "Did you mean 'seeds'"), ("seeds", "-1: give a list"), ("pack", "0: give a whole number"),
        ("settings.hiden", "Did you mean 'hidden'"), ("settings.learning_rate[1]", "-1.0, but it must be greater"),
        ("settings.learning_rate[2]", "inf, but it must be a finite number"), ("settings.evaluations", "'many', but"),
        ("options.pmeta.lam[1]", "'x', but it must be a valid number"), ("options.pmeta.lam[2]", "-1, but it must be"),
        ("options.pmeta.foo", "'foo'"), ("options.nolearner", "'nolearner'"),
        ("block 1, options.pmeta.beta", "3.0, but it must be at most 2"), ("block 1, train_tasks", "2.5, but"),
        ("block 1, scales", "Did you mean 'paper'"), ("block 1", "does not define point-robot"),
        ("block 1", "tasks_per_round of learner pmeta is 50"), ("block 1", "warm_up is 100"),
        ("block 2, settings.discount", "1.5, but it must be at most 1"), ("block 2", "evaluations is 60"),
        ("block 2", "tasks_per_round of learner pmeta is 7; there are 5 tasks"), ("scale.paper.preset", "'nope'"),
        ("scale.paper.settings.steps", "0, but it must be at least 1"),
    ]  # fmt: skip
    rest = list(found)
    for place, text in expected:
        match = next((m for m in rest if m[0] == place and text in m[1]), None)
        assert match, (place, text, rest)
        rest.remove(match)
    assert not rest
    assert all("Choose from" in said for _, said in found if said.startswith("unknown"))


def test_every_wrong_item_of_a_long_list_is_named(tmp_path):
    names = ["pmeta", *(f"nobody-{k}" for k in range(1, 12))]  # so that numbers of one and of two digits are wrong
    found = mistakes(tmp_path, f'families = "pendulum-flip"\nlearners = {json.dumps(names)}\n')
    assert {where for where, _ in found} == {f"learners[{k}]" for k in range(1, 12)}


@pytest.mark.parametrize(
    "text, place, says",
    [
        ("", "no families are given; choose from", ""),
        ('families = "pendulum-flip"', "no learners are given; choose from", ""),
        ('families = []\nlearners = "pmeta"', "families", "[], but it must have at least 1 item"),
        ('families = "pendulum-flip"\nlearners = "joint"\n[options.pmeta]\nlam = 1', "options.pmeta", "which no run"),
        (FLIP + "seeds = 5", "seeds", "give a list"),
        (FLIP + 'seeds = "0-999999999"', "seeds", "give a list"),
        (FLIP + 'seeds = [1, "0-2"]', "seeds", "1 stands there twice"),
        (
            'families = "pendulum-flip"\nlearners = "pmeta"\ntrain_tasks = 3',
            "pendulum-flip has exactly 2 tasks, which both train and test",
            "omit counts",
        ),
        (FLIP + "block = 3", "block", "it must be a valid list"),
        (FLIP + "scale.a = 3", "scale.a", "it must be"),
        (FLIP + "settings = 3", "settings", "it must be"),
        (
            'families = "pendulum-flip"\nlearners = "pmeta"\n[settings]\nhidden = ["a"]',
            "settings.hidden[0]",
            "'a', but it must be a whole number",
        ),
        (
            'families = "pendulum-flip"\nlearners = "pmeta"\n[settings]\nsteps = []',
            "settings.steps",
            "[], but it must have at least 1 item",
        ),
        (
            'families = "pendulum-flip"\nlearners = "pmeta"\n[settings]\nsteps = [3000, true]',
            "settings.steps[1]",
            "True, but it must be a whole number",
        ),
        ('families = [["pendulum-flip"]]\nlearners = {a = 1}', "families[0]", "it must be a valid string"),
    ],
)
def test_single_mistakes(tmp_path, text, place, says):
    found = mistakes(tmp_path, text)
    assert any(n == place and says in said for n, said in found), found


def test_the_command_says_it_and_starts_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["sweep", str(write(tmp_path, BAD)), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert (
        "nothing was started" in said
        and "sweep.toml: scale.paper.settings.steps: 0" in said
        and "Traceback" not in said
    )
    assert not out.exists()


@pytest.mark.parametrize("text", ["families = [1,,2]", "a = 1\na 2\n"])
def test_what_is_not_toml_has_its_line_too(tmp_path, text):
    with pytest.raises(UserError, match=r"is not TOML.*line"):
        load(write(tmp_path, text))


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    path = write(tmp_path, GOOD)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(load(path).runs) == 12


def test_a_missing_file_and_an_unknown_scale(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        load(tmp_path / "none.toml")
    with pytest.raises(UserError, match=r"unknown scale 'big'.*small, large"):
        load(write(tmp_path, GOOD), "big")


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_the_reproductions_files_are_sound_and_say_their_cost(path, tmp_path, capsys):
    scales = load(path).scales or (None,)
    wanted = {
        "smoke": set(),
        "map": set(),
        "field_short": set(),
        "field_gpu": set(),
        "collapse": set(),
        "stage": set(),
        "policy_gradient": {"desk", "field"},
    }.get(path.stem, {"desk", "paper"})
    assert wanted <= set(scales)
    for scale in scales:
        target = tmp_path / "plan.json"
        asked = ["sweep", str(path), "--dry-run", "--json", str(target), *(["--scale", scale] if scale else [])]
        assert cli.main(asked) == 0
        plan, said = json.loads(target.read_text()), capsys.readouterr().out
        assert plan["runs"] == len(load(path, scale).runs) == sum(len(c["seeds"]) for c in plan["cells"])
        assert plan["seconds"] > 0 and "estimated" in said and "factor of two" in said
    if path.stem == "tuning":  # the same effort for every learner, on seeds that no report uses
        runs = load(path, "paper").runs
        by_learner = [len({s.key for s in runs if s.learner == name}) for name in {s.learner for s in runs}]
        assert len(set(by_learner)) == 1 and min(s.seed for s in runs) >= 1000
    if path.stem == "smoke":
        assert len(load(path).runs) == 12


def test_every_stored_run_is_one_that_a_sweep_file_asks_for():
    """With every option and setting: a changed default or file must not leave results that no command makes again."""
    files = [path for path in SWEEPS if path.stem not in ("smoke", "tuning")]
    plans = [load(path) for path in files]
    plans += [load(path, scale) for path, p in zip(files, plans) for scale in p.scales[1:] if scale != "paper"]
    planned = {run.key for plan in plans for run in plan.runs}
    tables = [path for path in (DATA / "results").glob("*.parquet") if "run" in parquet.read_schema(path).names]
    stored = {path.name: set(read_table(path, ["run"])["run"]) for path in tables}
    assert len(stored) > 15 and {name: len(keys - planned) for name, keys in stored.items() if keys - planned} == {}
