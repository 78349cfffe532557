"""From stored results to verdicts, version 2: every verdict, the borders, what is refused, what is said to lack."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from pmeta_course.reproduction import claims, judging, scores
from pmeta_course.reproduction.claims import CORE, RIVALS
from pmeta_course.reproduction.judging import ALONE, IDLE, MET, NOT, OPEN, Part, conflict_parts, judge
from pmeta_course.reproduction.scores import Scores

from pmeta_lib.files import UserError

ALL = [*CORE["desk"]["gym"], *CORE["desk"]["mujoco"]]
HELD_OUT = ["point-robot", "pendulum-params", "half-cheetah-vel", "hopper-params"]


@pytest.fixture
def store(tmp_path, table, placebos):
    """Writes desk-scale results for the families and learners given (0 of the scale: about -1); returns the folder."""

    def write(returns, train=ALL, test=HELD_OUT, best=-1.0, **more):
        placebos(*ALL, zero_action=best).to_parquet(tmp_path / "placebos.parquet")
        for suite, core in CORE["desk"].items():
            mine = {(f, n): v for f in train if f in core for n, v in returns.items() if n != "scratch"}
            if mine:
                table(mine).to_parquet(tmp_path / f"{suite}.parquet")
        if test:
            table({(f, n): v for f in test for n, v in returns.items()}, way=True, **more).to_parquet(
                tmp_path / "adaptation.parquet"
            )
        return tmp_path

    return write


def spread(centre, seeds=5):
    return [centre + 0.01 * k for k in range(-(seeds // 2), seeds - seeds // 2)]


# joint is half as good where one policy can be, and stays at its placebo in conflict (see `judged`)
GOOD = {"independent": spread(9.0), "scratch": spread(9.0), "pmeta": spread(9.5), **{n: spread(5.0) for n in RIVALS}}


def judged(folder, **options):
    found = claims.ledger(folder, **options)
    return ({c["id"]: c["desk_verdict"] for c in found["claims"]},
            {p["name"]: p for c in found["claims"] for p in c["parts"] if p["scale"] != "field"})  # fmt: skip


def test_one_part():
    assert judge(False, True, True) == NOT and judge(True, True, True) == IDLE
    assert judge(True, False, True) == ALONE and judge(True, False, False) == MET


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((MET, MET, IDLE), "reproduced"),
        ((MET, ALONE), "by learning alone too"),
        ((MET, NOT), "partly"),
        ((MET, OPEN), "partly"),
        ((ALONE, OPEN), "open"),
        ((ALONE, NOT), "not"),
        ((IDLE,), "open"),
    ],
)
def test_verdict_of_a_claim(words, expected):
    assert judging.verdict([Part(str(k), "any", w) for k, w in enumerate(words)]) == expected


# ---------------------------------------------------------------------------------------------------- C1, C2
def conflict_table(joint=(0.0, 40.0), maml=(0.0, 5.0), cancellation=(0.0, 0.5), seeds=6):
    rng, rows = np.random.default_rng(0), []
    for seed in range(seeds):
        for k, h in enumerate((0.0, 1.0)):
            noise = 1e-2 * rng.normal(size=3)
            for learner, deficit in (("independent", 0), ("joint", joint[k] + noise[0]), ("maml", maml[k] + noise[1])):
                rows.append({"h": h, "seed": seed, "learner": learner, "deployed": 90.0 - deficit,
                             "cancellation": cancellation[k] + noise[2] if learner == "joint" else np.nan})  # fmt: skip
    return pd.DataFrame(rows)


NOTHING = {"uniform random": np.zeros(10)}


def test_conflict_hurts_or_does_not():
    parts = conflict_parts(conflict_table(), "tabular", "f", NOTHING)
    assert [p.verdict for p in parts] == [MET, MET, NOT]
    assert [p.statistic[0] for p in parts] == pytest.approx([0.5, 0.4, 0.05], abs=0.01)
    assert [parts[1].controls["independent"][0], parts[1].placebos["uniform random"][0]] == pytest.approx([0, 0])
    # a deficit that was there without any heterogeneity counts for nothing
    assert conflict_parts(conflict_table(joint=(40.0, 45.0)), "tabular", "f", NOTHING)[1].verdict == NOT


def test_deep_deficits_are_in_units_of_learning_alone():
    table = conflict_table(joint=(0.0, 40.0)).rename(columns={"deployed": "return"})
    found = conflict_parts(table, "deep", "f", {"zero action": np.full(10, 10.0), "untrained": np.full(10, -50.0)})
    assert found[1].statistic[0] == pytest.approx(40 / (90 - 10), abs=1e-3) and found[1].verdict == MET
    assert found[1].placebos["untrained"][0] == pytest.approx(0) and found[3].verdict == OPEN
    assert found[3].lacks[0] == "pg-independent at h = 1: 0 of 5 seeds"


def test_conflict_that_lacks_is_open_and_says_so():
    full = conflict_table()
    assert [p.lacks for p in conflict_parts(None, "tabular", "f", NOTHING)] == [("not run",)] * 3
    without = conflict_parts(full[full["learner"] != "maml"].drop(columns="cancellation"), "tabular", "f", NOTHING)
    assert [p.verdict for p in without] == [OPEN, MET, OPEN] and "maml at h = 1: 0 of 5 seeds" in without[2].lacks
    with pytest.raises(UserError, match="more than one row"):
        conflict_parts(pd.concat([full, full.head(1)]), "tabular", "f", NOTHING)


def theory(exact=True, margin=2.0, **changes):
    statements = ("T3 x", "T4 y", "T5 z", "T6 v")
    table = pd.DataFrame({"run": range(4), "statement": statements, "met": True, "holds": True, "margin": margin,
                          "exact_constants": exact}).astype({"holds": object})  # fmt: skip
    for statement, values in changes.items():
        table.loc[table["statement"].str.startswith(statement), list(values)] = list(values.values())
    return table


def convergence(warm=-1.0, cold=-0.2, many=-0.5, rise=0.0):
    table = []
    for variant, slope in (("warm, R = 1", warm), ("cold, R = 1", cold), ("warm, R = 5", many)):
        for seed in (0, 1):  # the first seed's slope is steep: the flattest decides
            rows = {"family": "chain", "tau": 0.0, "variant": variant, "seed": seed, "round": [1, 9]}
            table.append(pd.DataFrame({**rows, "true_gradient_slope": slope if seed else -3.0, "largest_rise": rise}))
    return pd.concat(table, ignore_index=True)


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ((theory(), convergence()), [MET, MET, MET, MET]),  # a slope of exactly -1 is at most -1
        ((theory(), convergence(warm=-0.99)), [MET, MET, MET, NOT]),
        ((theory(), convergence(cold=-1.2)), [MET, MET, MET, IDLE]),  # cold start must fail
        ((theory(), convergence(many=-1.0)), [MET, MET, MET, IDLE]),  # so must R > 1
        ((theory(), convergence(rise=1e-6)), [MET, MET, NOT, MET]),
        ((theory(T6={"holds": False}), convergence()), [MET, NOT, MET, MET]),
        ((theory(T4={"met": False, "holds": None}), convergence()), [OPEN, MET, MET, MET]),  # conditions never met
        ((theory(T5={"margin": 10.0}), convergence()), [NOT, MET, MET, MET]),  # no violation when shrunk tenfold
        ((theory(T5={"exact_constants": False}), convergence()), [OPEN, MET, MET, MET]),
        ((theory().drop(columns="margin"), None), [OPEN] * 4),
        ((None, None), [OPEN] * 4),
    ],
)
def test_convergence(tables, expected):
    assert [p.verdict for p in judging.theory_parts(*tables)] == expected


# ---------------------------------------------------------------------------------------------------- C3, C4
def torn(folder):
    """Joint at the placebo where tasks are in full conflict."""
    for path in (folder / "gym.parquet", folder / "mujoco.parquet"):
        table = pd.read_parquet(path)
        hit = table["family"].isin(scores.FULL_CONFLICT) & (table["learner"] == "joint")
        table.loc[hit, "return"] = -1.5 + 0.01 * table["seed"]
        table.to_parquet(path)
    return folder


def test_reproduced_when_every_part_is_met(store):
    verdicts, parts = judged(torn(store(GOOD)))
    assert verdicts["C3"] == "reproduced" and verdicts["C4"] == "reproduced"
    score = parts["gym, point-robot: normalised score above 0.8"]
    assert score["statistic"][0] == pytest.approx((9.5 + 1) / (9 + 1), abs=1e-4)
    assert score["placebos"]["untrained"][0] == pytest.approx(-0.1, abs=1e-4)
    part = parts["mujoco, meta-test, episodes 1-20: improvement over pearl"]
    assert part["statistic"][0] == 1 and part["n"] == "2 families x 5 seeds" and part["p"] < 0.025
    assert part["controls"]["scratch"][0] == 1 and part["controls"]["it over scratch"][0] == 1
    assert len(parts) == 7 + 4 + 7 + 28 + 1 and all(p["lacks"] for p in parts.values() if p["verdict"] == OPEN)


def test_what_learning_alone_does_too_is_said(store):
    verdicts, parts = judged(torn(store({**GOOD, "pmeta": GOOD["independent"]})))
    assert verdicts["C3"] == verdicts["C4"] == "by learning alone too"
    assert {p["verdict"] for n, p in parts.items() if "improvement" in n or "score" in n} == {ALONE}


def test_a_placebo_that_passes_makes_a_part_uninformative(store):
    """Without conflict joint learns half-cheetah-dir as well as anybody: that pMeta does says nothing."""
    parts = judged(store({**GOOD, "joint": spread(9.2)}))[1]
    assert parts["mujoco, half-cheetah-dir: normalised score above 0.8"]["verdict"] == IDLE
    assert parts["mujoco, half-cheetah-vel: normalised score above 0.8"]["verdict"] == MET
    idle = judged(torn(store({**GOOD, "pearl": spread(-1.8)})))[1]["gym, meta-train: improvement over pearl"]
    assert idle["placebos"]["zero action"][0] == 1 and idle["verdict"] == IDLE


@pytest.mark.parametrize(("pmeta", "word"), [(7.05, ALONE), (6.95, NOT)])
def test_the_threshold_of_the_score(store, pmeta, word):
    parts = judged(torn(store({**GOOD, "pmeta": spread(pmeta)})))[1]
    assert parts["mujoco, half-cheetah-vel: normalised score above 0.8"]["verdict"] == word


def test_an_interval_that_holds_a_half_is_not_met(store):
    parts = judged(torn(store({**GOOD, "joint": GOOD["pmeta"]})))[1]
    tie = parts["gym, meta-test, episodes 1-20: improvement over joint"]
    assert tie["statistic"][0] == 0.5 and tie["verdict"] == NOT
    assert parts["gym, meta-train: improvement over maml"]["verdict"] == MET


def test_parts_are_corrected_for_their_number(store):
    """Three families, ten of fifteen pairs of seeds: enough for one test alone, not for one of twenty-eight."""
    rival = [9.505, 9.505, 9.4, 9.4, 9.4]
    parts = judged(torn(store({**GOOD, **{n: rival for n in RIVALS}})))[1]
    part = parts["gym, meta-train: improvement over maml"]
    assert part["statistic"][0] == pytest.approx(0.76) and part["statistic"][1] > 0.5 and part["p"] > 0.025
    assert part["verdict"] == NOT


def test_what_was_not_run_is_open_and_listed(store):
    few = {n: v for n, v in GOOD.items() if n != "pearl"}
    verdicts, parts = judged(store(few, train=["pendulum-flip", "half-cheetah-dir"], test=[]))
    assert verdicts["C3"] == verdicts["C4"] == "open" or verdicts["C3"] == "partly"
    assert parts["gym, point-robot: normalised score above 0.8"]["lacks"] == ["not run"]
    assert "pendulum-flip: no pearl" in parts["gym, meta-train: improvement over pearl"]["lacks"]
    open_part = parts["gym, meta-train: improvement over joint"]
    assert open_part["verdict"] == OPEN and open_part["statistic"][0] == 1 and open_part["n"] == "1 families x 5 seeds"
    assert open_part["p"] is None


def test_the_endpoint_on_new_tasks_is_the_first_twenty_episodes(store):
    found = {(s.name, s.split): s for s in scores.load(store(GOOD))}
    test = found["point-robot", "test"]
    assert test.result("pmeta") == pytest.approx(np.array(GOOD["pmeta"]) / 2)  # the table has half in the episodes
    assert test.final("pmeta") == pytest.approx(GOOD["pmeta"])
    parts = judged(torn(store(GOOD, few=False)))[1]
    lacks = parts["gym, meta-test, episodes 1-20: improvement over joint"]["lacks"]
    assert lacks[0] == "point-robot: no episodes 1-20 of pmeta, joint, scratch"


def test_only_held_out_test_tasks_count_as_meta_test(store):
    folder = torn(store(GOOD))
    table = pd.read_parquet(folder / "adaptation.parquet")
    flip = table[table["family"] == "point-robot"].assign(family="pendulum-flip")
    flip["return"] *= np.where(flip["learner"] == "pmeta", -1.0, 1.0)
    pd.concat([table, flip.assign(run="flip " + flip["run"])]).to_parquet(folder / "adaptation.parquet")
    assert judged(folder)[1]["gym, meta-test, episodes 1-20: improvement over joint"]["statistic"][0] == 1


def test_too_few_seeds_are_open(store):
    verdicts, parts = judged(store({n: v[:4] for n, v in GOOD.items()}))
    assert verdicts["C3"] == "open"
    assert "pmeta: 4 of 5 seeds" in parts["gym, point-robot: normalised score above 0.8"]["lacks"][0]


def test_a_family_without_a_scale_decides_nothing(store):
    """Where standing still earns what independent SAC does, neither score nor improvement counts."""
    parts = judged(store(GOOD, best=9.0))[1]
    score = parts["gym, point-robot: normalised score above 0.8"]
    assert score["verdict"] == IDLE and score["lacks"] == ["no scale: learning alone is not above zero action"]
    part = parts["gym, meta-train: improvement over joint"]
    assert part["verdict"] == IDLE and "point-robot: no scale" in part["lacks"][0]


def test_still_rising(store, table):
    curve = pd.DataFrame([[0.0, 6, 9, 9.9, 10]] * 5, columns=[0, 25, 50, 76, 100])
    make = lambda c: Scores("point-robot", "train", "f", "modern", {"independent": c}, {}, {})  # noqa: E731
    assert not make(curve).rising()
    assert make(pd.DataFrame([[0.0, 2.5, 5, 7.6, 10]] * 5, columns=curve.columns)).rising()


def test_every_table_shows_the_placebos_and_the_reference(store):
    rows = claims.ledger(store(GOOD))["scores"]
    for name in ALL:
        mine = {r["learner"]: r for r in rows if r["family"] == name and r["tasks"] == "train"}
        assert mine["zero action"]["mean"] == pytest.approx(-1.0) and mine["zero action"]["zero"]
        assert mine["independent"]["score"] == pytest.approx(1.0) and mine["pmeta"]["mean"] == pytest.approx(9.5)


def test_the_map_counts_cells(table):
    rows = [{"family": "point-robot", "h": h, "steps": 100, "learner": n, "seed": s, "return": v + 0.01 * s,
             "policy": "deployed"} for h, ours in ((0.0, 1.0), (0.5, 3.0), (1.0, 1.0)) for s in range(5)
            for n, v in (("pmeta", ours), ("independent", 2.0), ("joint", 2.0))]  # fmt: skip
    assert [r["verdict"] for r in judging.map_cells(pd.DataFrame(rows))] == [NOT, MET, NOT]
    (part,) = judging.map_parts(pd.DataFrame(rows))
    assert part.statistic[0] == 1 and part.verdict == (MET if part.threshold < 1 else NOT) and "3 cells" in part.n
    (short,) = judging.map_parts(pd.DataFrame(rows).query("learner != 'joint'"))
    assert short.verdict == OPEN and short.lacks == ("3 of 3 cells",)


def test_scratch_is_one_learner_of_the_adaptation_table(tmp_path, table):
    parts = [table({("point-robot", n): GOOD[n]}, way=True, few=False) for n in ("pmeta", "joint")]
    parts += [
        table({("point-robot", n): spread(3.0)}, way=True, few=False).assign(way="scratch") for n in ("pmeta", "joint")
    ]
    parts += [table({("point-robot", n): -1.0}, way=True, few=False).assign(way="random") for n in ("pmeta", "joint")]
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
    "options": (lambda t: t.assign(options=np.where(t["seed"] == 1, '{"lam": 0.5}', '{"lam": 1.0}')),
                r"pendulum-flip pmeta: options differ, lam: 1.0 in 4 runs, 0.5 in 1 runs"),
    "settings": (lambda t: t.assign(settings=[s.replace("{", '{"polyak": 0.5, ', 1) if k == 1 else s
                                              for k, s in zip(t["seed"], t["settings"])]),
                 r"pmeta: settings differ, polyak: none in 4 runs, 0.5 in 1 runs"),
    "no column": (lambda t: t.drop(columns="settings"), r"gym.parquet is not as it was made \(KeyError: 'settings'"),
    "no learner": (lambda t: t.drop(columns="learner"), r"gym.parquet is not as it was made \(KeyError: 'learner'"),
    "text": (lambda t: t.assign(**{"return": "high"}), r"gym.parquet is not as it was made \(TypeError"),
    "not JSON": (lambda t: t.assign(settings="{"), r"gym.parquet is not as it was made \(JSONDecodeError"),
    "tasks": (lambda t: t.assign(train_tasks=np.where(t["seed"] == 1, 4, 2)), r"train_tasks differs"),
    "family": (lambda t: t.assign(family="pendulum-flop"), r"Did you mean 'pendulum-flip'"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_mixed_tables_are_refused_with_a_list(tmp_path, table, what):
    spoil, message = REFUSED[what]
    spoil(table({("pendulum-flip", "pmeta"): 1.0})).to_parquet(tmp_path / "gym.parquet")
    with pytest.raises(UserError, match=rf"(?s)gym\.parquet.*{message}|{message}.*in gym\.parquet|{message}"):
        scores.load(tmp_path)


def test_runs_of_a_gpu_or_in_a_precision_that_this_processor_is_slow_at_are_not_to_be_repeated(table, monkeypatch):
    rows = table({("pendulum-flip", "pmeta"): 1.0}).assign(device="cpu")
    half = rows.assign(settings=[json.dumps(json.loads(s) | {"precision": "bfloat16"}) for s in rows["settings"]])
    for can, repeated in (({"avx2": True}, False), ({"avx512_bf16": True}, True)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda can=can: can, raising=False)
        assert scores.on_a_cpu(rows) and scores.on_a_cpu(half) == repeated
        assert not scores.on_a_cpu(rows.assign(device="cuda"))


def test_tables_of_two_machines_lie_side_by_side_but_share_no_family(tmp_path, table):
    table({("pendulum-flip", "pmeta"): 1.0}).to_parquet(tmp_path / "gym.parquet")
    other = table({("half-cheetah-dir", "pmeta"): 1.0}).assign(torch="3", device="cuda")
    other.to_parquet(tmp_path / "mujoco_gpu.parquet")
    assert [(s.name, s.source) for s in scores.load(tmp_path)] == [
        ("pendulum-flip", "gym.parquet"), ("half-cheetah-dir", "mujoco_gpu.parquet")]  # fmt: skip
    other.to_parquet(tmp_path / "mujoco.parquet")
    with pytest.raises(UserError, match=r"half-cheetah-dir is in mujoco\.parquet and in mujoco_gpu\.parquet"):
        scores.load(tmp_path)


def test_scales_lie_side_by_side_and_on_policy_learners_join_their_family(tmp_path, table):
    for name, value in (("mujoco", 1.0), ("mujoco_field", 2.0)):
        table({("half-cheetah-dir", "pmeta"): value}).to_parquet(tmp_path / f"{name}.parquet")
    table({("half-cheetah-dir", "promp"): 3.0}).to_parquet(tmp_path / "policy_gradient_field.parquet")
    field, desk = scores.load(tmp_path)
    assert (field.scale, set(field.curves), desk.scale, set(desk.curves)) == (
        "field", {"pmeta", "promp"}, "desk", {"pmeta"})  # fmt: skip
    assert field.final("pmeta").mean() == 2 and desk.final("pmeta").mean() == 1 and field.final("promp").mean() == 3


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


def test_other_physics_of_the_placebos_are_refused(tmp_path, table, placebos):
    table({("pendulum-flip", "pmeta"): 1.0}).to_parquet(tmp_path / "gym.parquet")
    placebos("pendulum-flip").assign(mujoco="2").to_parquet(tmp_path / "placebos.parquet")
    with pytest.raises(UserError, match=r"mujoco 3, placebos\.parquet 2"):
        scores.load(tmp_path)


def test_a_missing_folder_and_a_damaged_file(tmp_path):
    with pytest.raises(UserError, match=r"--data"):
        scores.load(tmp_path / "nowhere")
    (tmp_path / "gym.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"gym\.parquet cannot be read"):
        scores.load(tmp_path)
