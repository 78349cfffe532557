"""What tuning chooses, when it refuses to, and at which rate learners adapt: on returns whose best point is known."""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pmeta_lib.envs import family
from pmeta_lib.experiments.spec import RunSpec
from pmeta_lib.experiments.sweep_spec import load

DATA = Path(__file__).resolve().parents[2] / "data"


def script(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


choose, rates = script(DATA / "tuning/deep/choose.py"), script(DATA / "tuning/deep/adaptation.py")
adaptation = script(DATA / "results/adaptation.py")
FAMILIES = ("pendulum-params", "point-robot", "half-cheetah-vel", "hopper-params")
PLACEBOS = pd.DataFrame([(f, "train", "untrained", t, -9.0) for f in FAMILIES for t in range(4)],
                        columns=["family", "split", "placebo", "task", "return"])  # fmt: skip
PEAK = {"independent": (0.03, 0.002, None), "pmeta": (0.0017, 0.01, 0.0), "reptile": (0.001, 0.08, 1250)}


def point_of(spec):
    settings = {"learning_rate": spec.settings.learning_rate, "polyak": spec.settings.polyak}
    return choose._point(spec.learner, json.dumps(settings), json.dumps(spec.options))


def run(spec, peak):
    """Rows of a run whose return falls with the distance of its settings from `peak`, in logarithms."""
    point = point_of(spec)
    far = sum(abs(math.log((x + 1e-6) / (y + 1e-6))) for x, y in zip(point, peak) if x is not None)
    head = {"run": spec.key, "family": spec.family, "learner": spec.learner, "seed": spec.seed, "policy": "deployed"}
    text = {
        "settings": json.dumps({"learning_rate": point[0], "polyak": point[1]}),
        "options": json.dumps(spec.options),
    }
    return [head | text | {"step": s, "task": t, "return": -far + 0.01 * (spec.seed % 3) - 100.0 * (s < 75)}
            for s in (0, 50, 75, 100) for t in range(4)]  # fmt: skip


def table(path, names=tuple(PEAK), drop=()):
    specs = [s for s in load(path, "desk").runs if s.learner in names]
    return pd.DataFrame([row for s in specs if s.key not in drop for row in run(s, PEAK[s.learner])])


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    path = tmp_path / "tuning.toml"
    path.write_text((DATA / "sweeps/tuning.toml").read_text().partition("\n[[block]]  # beyond")[0])
    monkeypatch.setattr(choose, "SWEEP", path)
    monkeypatch.setattr(choose, "HERE", tmp_path)
    monkeypatch.setattr(choose, "PLACEBOS", tmp_path / "random.parquet")
    PLACEBOS.to_parquet(tmp_path / "random.parquet")
    return path


def ask(sweep, extend=True):
    table(sweep).assign(commit="0" * 40).to_parquet(sweep.parent / "tuning.parquet")
    choose.main(choose.argparse.Namespace(folders=[], scale="desk", extend=extend))


def test_the_first_points_are_as_many_for_every_learner(sweep):
    for scale in ("desk", "field", "paper"):
        runs = load(sweep, scale).runs
        assert min(s.seed for s in runs) >= 1000 and len({s.family for s in runs}) == 4
        points = {n: {point_of(s) for s in runs if s.learner == n} for n in {s.learner for s in runs}}
        assert len(points) == 9 and {len(p) for p in points.values()} == {7} and len(runs) == 9 * 7 * 4 * 3
        for name, tried in points.items():  # a star: its centre is not at an edge
            assert sum(not choose.beyond(name, p, tried) for p in tried) == 1, name


def test_a_choice_at_an_edge_is_refused_and_the_sweep_is_extended_until_it_is_inside(sweep):
    with pytest.raises(
        SystemExit, match=r"independent: chosen \(0.01, 0.01, None\), but \(0.017, 0.01, None\) was not"
    ):
        ask(sweep, extend=False)
    before = sweep.read_text()
    rounds = 0
    while True:
        try:
            ask(sweep)
            break
        except SystemExit as refused:
            assert "values lie at an edge" in str(refused) and not (sweep.parent / "chosen.json").exists()
            rounds += 1
            assert rounds < 20
    assert rounds > 2 and sweep.read_text().startswith(before)
    found = json.loads((sweep.parent / "chosen.json").read_text())
    tried = {n: [p for p in found["grid"] if p["learner"] == n] for n in PEAK}
    for name, (rate, polyak, option) in PEAK.items():
        best = found["chosen"][name]
        values = [best["settings"]["learning_rate"], best["settings"]["polyak"], *best["options"].values()]
        # a value on either side, whatever the library calls beyond; the peak is one of the values that can be tried
        assert values == pytest.approx([x for x in (rate, polyak, option) if x is not None]), name
        for axis in ("learning_rate", "polyak"):
            line = [p["settings"][axis] for p in tried[name]]
            assert min(line) < best["settings"][axis] < max(line), (name, axis)
    assert found["seeds"] == [1000, 1001, 1002]


def test_zero_and_one_inner_step_are_no_edges_but_ends():
    tried = {(0.003, p, lam) for p in (0.005, 0.01, 0.02) for lam in (0.0, 1e-5)} | {
        (r, 0.01, 0.0) for r in (1e-3, 1e-2)
    }
    assert choose.beyond("pmeta", (0.003, 0.01, 0.0), tried) == []
    assert choose.beyond("pmeta", (0.003, 0.01, 1e-5), tried) == [(0.0017, 0.01, 1e-5), (0.0055, 0.01, 1e-5),
                                                                  (0.003, 0.01, 1e-4)]  # fmt: skip
    with pytest.raises(SystemExit, match="edge of AXES too"):
        choose.beyond("joint", (0.1, 0.01, None), {(0.1, 0.01, None)})


def test_a_point_without_all_its_families_and_seeds_is_not_chosen(sweep):
    best = next(s for s in load(sweep, "desk").runs if s.learner == "pmeta" and s.settings.learning_rate == 1e-3)
    whole, part = (choose.scores(table(sweep, ("pmeta",), drop), PLACEBOS) for drop in ((), {best.key}))
    at = ("pmeta", point_of(best))
    assert at in set(whole.index) and at not in set(part.index) and len(part) == len(whole) - 1


def test_scores_are_those_of_the_last_quarter_on_the_familys_scale(sweep):
    wide = choose.scores(table(sweep, ("pmeta",)), PLACEBOS)
    best, other = (
        wide["score"].max(),
        wide.loc["pmeta"][[p == (0.003, 0.01, 0.001) for p in wide.loc["pmeta"].index]].iloc[0],
    )
    assert best == 1.0 and list(wide.columns)[-1] == "score"
    far = {p: sum(abs(math.log((x + 1e-6) / (y + 1e-6))) for x, y in zip(p, PEAK["pmeta"])) for _, p in wide.index}
    nearest = min(far.values()) - 0.01
    want = (9.0 - far[0.003, 0.01, 0.001] + 0.01) / (9.0 - nearest)  # random is -9; step 75 is not in the last quarter
    assert other["point-robot"] == pytest.approx(want) and other["score"] == pytest.approx(want)


def test_tuning_tasks_are_neither_training_nor_test_tasks():
    for name, trained in (("point-robot", 4), ("half-cheetah-vel", 4), ("hopper-params", 12)):
        spec = RunSpec(name, train_tasks=trained)
        place, whole = rates.tuning_tasks(spec), family(name)
        others = np.concatenate((whole.train_tasks, whole.test_tasks, spec.make_family().train_tasks))
        assert len(place.test_tasks) == len(whole.test_tasks)
        assert not (place.test_tasks[:, None] == others[None]).all(-1).any(), name


def test_the_rate_of_adaptation_is_the_one_with_the_best_episodes_and_not_at_an_edge():
    rows = [(f, n, r, -scale * abs(math.log(r / best)) + k) for f, scale in (("a", 1.0), ("b", 50.0))
            for n, best in (("pmeta", 3e-3), ("scratch", 1e-2)) for r in rates.RATES for k in range(3)]  # fmt: skip
    made = pd.DataFrame(rows, columns=["family", "learner", "learning_rate", "return"])
    best, wide, edges = rates.choose(made)
    assert best == {"pmeta": 3e-3, "scratch": 1e-2} and not edges and wide["score"].max() == 1.0
    low = made[made["learning_rate"].between(3e-4, 3e-3)]
    assert rates.choose(low)[2] == ["pmeta: 0.003 is at the edge of 0.0003, 0.001, 0.003",
                                    "scratch: 0.003 is at the edge of 0.0003, 0.001, 0.003"]  # fmt: skip
    high = made[made["learning_rate"] >= 1e-2]  # the lower end is next to no learning: it may be chosen
    assert rates.choose(high)[0]["pmeta"] == 1e-2 and not rates.choose(high)[2]


def test_the_stored_rates_follow_from_the_stored_episodes():
    stem = DATA / "tuning/deep/adaptation_field"
    stored, table = json.loads(stem.with_suffix(".json").read_text()), pd.read_parquet(stem.with_suffix(".parquet"))
    best, wide, edges = rates.choose(table)
    assert {name: {"learning_rate": rate} for name, rate in best.items()} == stored["chosen"] and not edges
    used = set(pd.read_parquet(DATA / "results/gym_field.parquet", columns=["seed"])["seed"])
    assert not used & set(stored["seeds"]) and len(stored["grid"]) == len(wide)


def test_no_learner_adapts_at_a_rate_that_was_not_chosen_for_it(tmp_path):
    path = tmp_path / "adaptation.json"
    with pytest.raises(SystemExit, match="no rate for pmeta, scratch"):
        adaptation.rates(path, {"pmeta", "pearl", "independent"})
    path.write_text(json.dumps({"chosen": {"pmeta": {"learning_rate": 1e-3}, "scratch": {"learning_rate": 3e-3}}}))
    assert adaptation.rates(path, {"pmeta", "pearl"})["pmeta"] == {"learning_rate": 1e-3}
    with pytest.raises(SystemExit, match="no rate for joint"):
        adaptation.rates(path, {"joint"})
