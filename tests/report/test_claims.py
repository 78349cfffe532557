"""From stored results to verdicts: every verdict, the borders, what is refused, what is listed as lacking."""

import numpy as np
import pandas as pd
import pytest
from pmeta_course.reproduction import claims, scores
from pmeta_course.reproduction.claims import CORE, RIVALS, Part, conflict_parts, theory_parts, verdict

from pmeta_lib.files import UserError

ALL = [*CORE["gym"], *CORE["mujoco"]]
HELD_OUT = ["point-robot", "pendulum-params", "half-cheetah-vel", "hopper-params"]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(claims, "RESAMPLES", 300)


@pytest.fixture
def store(tmp_path, table, random_policy):
    """Writes results for the families and learners given, independent at 9 (scale: -1 to 9); returns the folder."""

    def write(returns, train=ALL, test=HELD_OUT, **more):
        random_policy(*ALL).to_parquet(tmp_path / "random_policy.parquet")
        for suite in CORE:
            mine = {(f, n): v for f in train if f in CORE[suite] for n, v in returns.items()}
            if mine:
                table(mine, **more).to_parquet(tmp_path / f"{suite}.parquet")
        if test:
            table({(f, n): v for f in test for n, v in returns.items()}, way=True, **more).to_parquet(
                tmp_path / "adaptation.parquet"
            )
        return tmp_path

    return write


def spread(centre, seeds=5):
    return [centre + 0.1 * k for k in range(-(seeds // 2), seeds - seeds // 2)]


GOOD = {"independent": spread(9.0), "pmeta": spread(8.5), **{n: spread(5.0) for n in RIVALS}}


def judged(folder):
    found = claims.ledger(folder)
    return {c["id"]: c["verdict"] for c in found["claims"]}, {p["part"]: p for c in found["claims"] for p in c["parts"]}


# ------------------------------------------------------------------------------------------------- verdicts
@pytest.mark.parametrize(
    ("judgements", "expected"),
    [
        ({"a": True, "b": True}, "reproduced"),
        ({"a": True, "b": False}, "partly"),
        ({"a": True, "b": None}, "partly"),
        ({"a": False, "b": False}, "not"),
        ({"a": False, "b": None}, "not testable"),
        ({"a": None, "b": None}, "not testable"),
    ],
)
def test_verdict_of_two_groups(judgements, expected):
    assert verdict([Part(n, met, (n,)) for n, met in judgements.items()]) == expected


def test_a_group_needs_all_its_parts():
    def parts(rate, joint, maml):
        return [Part("rate", rate, ("joint", "maml")), Part("j", joint, ("joint",)), Part("m", maml, ("maml",))]

    assert verdict(parts(True, False, True)) == "partly"
    assert verdict(parts(False, True, True)) == "not"  # without a rising conflict rate no learner counts
    assert verdict(parts(True, False, None)) == "not testable"
    assert verdict([*parts(True, True, True), Part("slope", False, ())]) == "partly"


# ---------------------------------------------------------------------------------------------------- C1, C2
def conflict_table(joint, maml=(0, 1, 2, 3, 4), rate=(0, 1, 2, 3, 4), seeds=6):
    rng, rows = np.random.default_rng(0), []
    for seed in range(seeds):
        for k, h in enumerate((0.0, 0.2, 0.4, 0.6, 0.8)):
            noise = 1e-3 * rng.normal(size=3)
            for learner, deficit in (("independent", 0), ("joint", joint[k] + noise[0]), ("maml", maml[k] + noise[1])):
                rows.append({"h": h, "seed": seed, "learner": learner, "deployed": 90.0 - deficit,
                             "conflict": rate[k] + noise[2]})  # fmt: skip
    return pd.DataFrame(rows)


def mets(parts):
    return [p.met for p in parts]


def test_conflict_rises_or_does_not():
    assert mets(conflict_parts(conflict_table((0, 1, 2, 3, 4)), "tabular", "f")) == [True, True, True]
    assert mets(conflict_parts(conflict_table((0, 1, 2, 3, 4), maml=(4, 3, 2, 1, 0)), "tabular", "f")) == [
        True,
        True,
        False,
    ]
    border = conflict_parts(conflict_table((1, 0, 3, 2, 4)), "tabular", "f")[1]  # Spearman is 0.8, and must exceed it
    assert border.statistic[0] == pytest.approx(0.8) and border.met is False


def test_conflict_that_lacks_is_open_and_says_so():
    full = conflict_table((0, 1, 2, 3, 4))
    assert [p.lacks for p in conflict_parts(None, "deep", "f")] == [("not run",)] * 3
    without = conflict_parts(full[full["learner"] != "maml"], "tabular", "f")
    assert mets(without) == [True, True, None] and without[2].lacks == ("no maml",)
    thin = conflict_parts(full[full["seed"] < 4], "tabular", "f")
    assert mets(thin) == [None] * 3 and thin[0].lacks == ("4 of 5 seeds",)
    with pytest.raises(UserError, match="more than one row"):
        conflict_parts(pd.concat([full, full.head(1)]), "tabular", "f")


def theory(**changes):
    statements = ("T3 x", "T4 y", "T5 z", "T6 v")
    table = pd.DataFrame({"run": range(4), "statement": statements, "met": True, "holds": True}).astype(
        {"holds": object}
    )
    for statement, (met, holds) in changes.items():
        table.loc[table["statement"].str.startswith(statement), ["met", "holds"]] = met, holds
    return table


def convergence(slope=-1.0, rise=0.0):
    rows = {"family": "chain", "tau": 0.0, "variant": "warm, R = 1", "seed": [0, 0, 1, 1], "round": [1, 9, 1, 9]}
    table = pd.DataFrame({**rows, "slope": -2.0, "largest_rise": -1.0})
    table.loc[3, ["slope", "largest_rise"]] = slope, rise
    other = table.assign(variant="cold, R = 1", slope=0.0, largest_rise=5.0)  # no part of the criterion
    return pd.concat([table, other], ignore_index=True)


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ((theory(), convergence()), "reproduced"),  # a slope of exactly -1 is at most -1
        ((theory(), convergence(slope=-0.99)), "partly"),
        ((theory(), convergence(rise=1e-6)), "partly"),  # T6 still holds
        ((theory(T6=(True, False)), convergence(rise=1e-6)), "not"),
        ((theory(T4=(False, None)), convergence()), "partly"),  # conditions never met: open
        ((theory(T4=(False, None), T6=(False, None)), convergence()), "not testable"),
        ((None, None), "not testable"),
    ],
)
def test_convergence(tables, expected):
    assert verdict(theory_parts(*tables)) == expected


# ---------------------------------------------------------------------------------------------------- C3, C4
def test_reproduced_when_every_part_is_met(store):
    verdicts, parts = judged(store(GOOD))
    assert verdicts["C3"] == "reproduced" and verdicts["C4"] == "reproduced"
    score = parts["gym: normalised score above 0.8"]
    # interquartile mean of 3 families x 5 equal runs, on the scale -1 to 9, by hand: the middle nine of fifteen
    middle = np.sort(np.repeat((np.array(GOOD["pmeta"]) + 1) / 10, 3))[3:-3].mean()
    assert score["value"] == pytest.approx(middle, abs=1e-5) and score["low"] < score["value"] < score["high"]
    assert (
        score["n"] == "3 families x 5 seeds"
        and parts["mujoco, meta-test, adapted: improvement over pearl"]["value"] == 1
    )


@pytest.mark.parametrize(("pmeta", "met"), [(7.02, "met"), (6.98, "not met")])
def test_the_threshold_of_the_score(store, pmeta, met):
    """Without scatter the interval is a point: 0.802 is above 0.8, 0.798 is not."""
    verdicts, parts = judged(store({**GOOD, "independent": spread(9.0, 5)[2:3] * 5, "pmeta": pmeta}))
    assert parts["mujoco: normalised score above 0.8"]["judgement"] == met
    assert verdicts["C3"] == ("reproduced" if met == "met" else "not")


def test_an_interval_that_holds_a_half_is_not_met(store):
    verdicts, parts = judged(store({**GOOD, "joint": GOOD["pmeta"]}))
    tie = parts["gym, meta-train: improvement over joint"]
    assert tie["value"] == 0.5 and tie["low"] < 0.5 < tie["high"] and tie["judgement"] == "not met"
    assert parts["gym, meta-train: improvement over maml"]["judgement"] == "met" and verdicts["C4"] == "partly"


def test_what_was_not_run_is_open_and_listed(store):
    few = {n: v for n, v in GOOD.items() if n != "pearl"}
    verdicts, parts = judged(store(few, train=["pendulum-flip", "half-cheetah-dir"], test=[]))
    assert verdicts["C3"] == verdicts["C4"] == "not testable"
    assert "point-robot: not run" in parts["gym: normalised score above 0.8"]["lacks"]
    assert "pendulum-flip: no pearl" in parts["gym, meta-train: improvement over pearl"]["lacks"]
    open_part = parts["gym, meta-train: improvement over joint"]
    assert open_part["judgement"] == "open" and open_part["value"] == 1 and open_part["n"] == "1 families x 5 seeds"


def test_only_held_out_test_tasks_count_as_meta_test(store):
    """pendulum-flip has but two tasks: adapting to them again, badly, is no evidence on unseen ones."""
    folder = store(GOOD)
    table = pd.read_parquet(folder / "adaptation.parquet")
    flip = table[table["family"] == "point-robot"].assign(family="pendulum-flip")
    flip["return"] *= np.where(flip["learner"] == "pmeta", -1.0, 1.0)
    pd.concat([table, flip.assign(run="flip " + flip["run"])]).to_parquet(folder / "adaptation.parquet")
    _, parts = judged(folder)
    assert parts["gym, meta-test, adapted: improvement over joint"]["value"] == 1


def test_too_few_seeds_are_open(store):
    verdicts, parts = judged(store({n: v[:4] for n, v in GOOD.items()}))
    assert verdicts["C3"] == "not testable"
    assert "pmeta: 4 of 5 seeds" in parts["gym: normalised score above 0.8"]["lacks"][0]


def test_no_scale_where_the_reference_is_not_above_random(store):
    _, parts = judged(store({**GOOD, "independent": [-1.5, -0.5, -1.0, -1.2, -0.8]}))
    assert "no scale" in parts["gym: normalised score above 0.8"]["lacks"][0]
    assert parts["gym, meta-train: improvement over joint"]["judgement"] == "met"  # needs no scale


def test_every_table_shows_random_and_the_reference(store):
    rows = claims.ledger(store(GOOD))["scores"]
    for name in ALL:
        mine = {r["learner"]: r for r in rows if r["family"] == name and r["tasks"] == "train"}
        assert mine["random"]["mean"] == -1.0 and mine["independent"]["score"] == pytest.approx(1.0)
        assert mine["pmeta"]["seeds"] == 5 and mine["pmeta"]["mean"] == pytest.approx(8.5)


def test_scratch_is_one_learner_of_the_adaptation_table(tmp_path, table):
    parts = [table({("point-robot", n): GOOD[n]}, way=True) for n in ("pmeta", "joint")]
    parts += [table({("point-robot", n): spread(3.0)}, way=True).assign(way="scratch") for n in ("pmeta", "joint")]
    parts += [table({("point-robot", n): -1.0}, way=True).assign(way="random") for n in ("pmeta", "joint")]
    pd.concat(parts).drop(columns="policy").to_parquet(tmp_path / "adaptation.parquet")
    (found,) = scores.load(tmp_path)
    assert found.split == "test" and set(found.curves) == {"pmeta", "joint", "scratch"}
    assert found.final("scratch") == pytest.approx(spread(3.0)) and found.final("pmeta") == pytest.approx(GOOD["pmeta"])


# ---------------------------------------------------------------------------------------------- what is refused
REFUSED = {
    "preset": (lambda t: t.assign(preset=np.where(t["seed"] == 1, "pearl2019", "modern")), r"preset: modern in 4 runs"),
    "versions": (lambda t: t.assign(mujoco=np.where(t["seed"] == 1, "2", "3")), r"mujoco: 3 in 4 runs, 2 in 1 runs"),
    "device": (lambda t: t.assign(device=np.where(t["seed"] == 1, "cuda", "cpu")), r"device: cpu in 4 runs"),
    "seed twice": (lambda t: pd.concat([t, t[t["seed"] == 1].assign(run="another")]), r"pmeta 1: the same seed 2 t"),
    "repeated rows": (lambda t: pd.concat([t, t.head(3)]), r"3 rows are repeated"),
    "not finite": (lambda t: t.assign(**{"return": t["return"].where(t["step"] < 400)}), r"10 not finite"),
    "incomplete": (lambda t: t[(t["seed"] != 1) | (t["step"] < 400)], r"8 to 10 evaluations a run"),
    "budget": (lambda t: t.assign(settings=[s.replace("[8]", "[9]") if k == 1 else s
                                            for k, s in zip(t["seed"], t["settings"])]), r"budget differs"),
    "tasks": (lambda t: t.assign(train_tasks=np.where(t["seed"] == 1, 4, 2)), r"train_tasks differs"),
    "family": (lambda t: t.assign(family="pendulum-flop"), r"Did you mean 'pendulum-flip'"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_mixed_tables_are_refused_with_a_list(tmp_path, table, what):
    spoil, message = REFUSED[what]
    spoil(table({("pendulum-flip", "pmeta"): 1.0})).to_parquet(tmp_path / "gym.parquet")
    with pytest.raises(UserError, match=rf"(?s)gym\.parquet.*{message}|{message}.*in gym\.parquet|{message}"):
        scores.load(tmp_path)


def test_tables_of_two_machines_lie_side_by_side_but_share_no_family(tmp_path, table):
    table({("pendulum-flip", "pmeta"): 1.0}).to_parquet(tmp_path / "gym.parquet")
    other = table({("half-cheetah-dir", "pmeta"): 1.0}).assign(torch="3", device="cuda")
    other.to_parquet(tmp_path / "mujoco_gpu.parquet")
    assert [(s.name, s.source) for s in scores.load(tmp_path)] == [
        ("pendulum-flip", "gym.parquet"), ("half-cheetah-dir", "mujoco_gpu.parquet")]  # fmt: skip
    other.to_parquet(tmp_path / "mujoco.parquet")
    with pytest.raises(UserError, match=r"half-cheetah-dir is in mujoco\.parquet and in mujoco_gpu\.parquet"):
        scores.load(tmp_path)


def test_adaptation_of_two_machines_lies_side_by_side_but_shares_no_family(tmp_path, table):
    table({("point-robot", "pmeta"): 1.0}).to_parquet(tmp_path / "gym.parquet")
    table({("point-robot", "pmeta"): 2.0}, way=True).to_parquet(tmp_path / "adaptation.parquet")
    other = table({("hopper-params", "pmeta"): 3.0}, way=True).assign(torch="3", device="cuda")
    other.to_parquet(tmp_path / "adaptation_gpu.parquet")
    assert [(s.name, s.split, s.source) for s in scores.load(tmp_path)] == [
        ("point-robot", "train", "gym.parquet"), ("point-robot", "test", "adaptation.parquet"),
        ("hopper-params", "test", "adaptation_gpu.parquet")]  # fmt: skip
    other.assign(family="point-robot").to_parquet(tmp_path / "adaptation_gpu.parquet")
    with pytest.raises(UserError, match=r"point-robot is in adaptation\.parquet and in adaptation_gpu\.parquet"):
        scores.load(tmp_path)


def test_other_physics_for_the_random_policy_are_refused(tmp_path, table, random_policy):
    table({("pendulum-flip", "pmeta"): 1.0}).to_parquet(tmp_path / "gym.parquet")
    random_policy("pendulum-flip").assign(mujoco="2").to_parquet(tmp_path / "random_policy.parquet")
    with pytest.raises(UserError, match=r"mujoco 3, random_policy\.parquet 2"):
        scores.load(tmp_path)


def test_a_missing_folder_and_a_damaged_file(tmp_path):
    with pytest.raises(UserError, match=r"--data"):
        scores.load(tmp_path / "nowhere")
    (tmp_path / "gym.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"gym\.parquet cannot be read"):
        scores.load(tmp_path)
