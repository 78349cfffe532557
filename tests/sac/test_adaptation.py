"""Meta-test: where each learner starts on tasks it never saw, what moves there, and what the references are."""

import functools
from dataclasses import replace

import pytest
import torch

from pmeta_lib.envs import family
from pmeta_lib.files import UserError
from pmeta_lib.sac.adaptation import COLUMNS, Plan, adapt, lived, random_returns, references
from pmeta_lib.sac.agent import act
from pmeta_lib.sac.evaluation import Evaluator
from pmeta_lib.sac.learners import LEARNERS, learner
from pmeta_lib.sac.settings import Settings
from pmeta_lib.sac.training import advance, start, train, update

PLACE = replace(family("pendulum-params", train=3, test=2), horizon=30)
SETTINGS = Settings(steps=60, hidden=(16, 16), batch_size=16, warm_up=20, evaluations=1, evaluation_episodes=1,
                    learning_rate=1e-3)  # fmt: skip
SHORT = {"pmeta": {"inner_steps": 7}, "reptile": {"inner_steps": 7}, "maml": {"inner_steps": 2}}
PLAN = Plan(steps=(0, 60, 120), episodes=0, every_way=True)
WAYS = {"independent": [], "pmeta": ["proximal", "sac"], "distral": ["kl", "sac"], "maml": ["inner + sac", "sac"],
        "pearl": ["context", "context + sac"]}  # fmt: skip


@functools.cache
def trained(name, seeds=(0,), **options):
    """A finished run, shared by the tests that only read it."""
    return train(PLACE, learner(name, **(SHORT.get(name, {}) | options)), SETTINGS, list(seeds))


def adapted(run, plan=PLAN, **how):
    settings = plan.settings(run.settings, run.family.horizon)
    return adapt(run.family, run.learner, run.agent, 3, settings, run.seeds, plan, **how)


def returns(table, way, policy="deployed"):
    rows = table[(table["way"] == way) & (table["policy"] == policy)]
    return rows.set_index(["seed", "step", "task"])["return"]


def on_test_tasks(run, way, steps=0):
    """A run of one of the learner's ways on the test tasks."""
    who, initial = run.learner.adapt_from(run.agent, 3)[way]
    place = replace(PLACE, train_tasks=PLACE.test_tasks)
    test = start(place, who, replace(SETTINGS, warm_up=0), run.seeds, initial=initial)
    for _ in range(steps):
        advance(test)
    return test


def test_what_is_brought_along_acts_from_the_first_step():
    """No uniform actions before the updates begin, as in a training (and in "scratch")."""
    run = trained("joint")
    for start_from, same in ((run.learner.adapt_from(run.agent, 3)["sac"][1], True), (None, False)):
        test = start(PLACE, learner("independent"), SETTINGS, [0], initial=start_from)
        (g,) = test.agent.generators["noise"]
        state = g.get_state()
        noise = test.agent.noise(3, 1, 1)
        g.set_state(state)
        want = act(test.agent.actor_shape, test.agent.actor, test.observation, noise)
        advance(test)
        assert torch.allclose(test.replay.rows[:, :, :1, 3:4], want) is same


def test_the_plan_lasts_for_its_steps_and_its_episodes():
    field = replace(SETTINGS, envs_per_task=4, replay_capacity=8)
    settings = Plan(steps=(50, 0, 400), episodes=2).settings(field, 200)
    assert (settings.steps, settings.warm_up, settings.learning_rate) == (400, 199, SETTINGS.learning_rate)
    assert (settings.envs_per_task, settings.replay_capacity) == (1, 0)  # an episode at a time, and all are kept
    assert Plan(steps=(50,), episodes=3).settings(SETTINGS, 200).steps == 600
    assert Plan(steps=(5,), episodes=0).settings(SETTINGS, 200).warm_up == 4  # shorter than an episode


def test_episodes_are_cut_where_they_end():
    """Rows (o, a, r, terminated, o') of horizon 4: one of 4 steps, one that falls after 2, one of 4, one not over."""
    rewards = torch.arange(1.0, 13.0)
    over = torch.zeros(12)
    over[5] = 1.0
    rows = torch.stack((torch.zeros(12), torch.zeros(12), rewards, over, torch.zeros(12)), 1)
    assert lived(rows, (1, 1), 4, 9) == [(4, 10.0), (6, 11.0), (10, 34.0)]
    assert lived(rows, (1, 1), 4, 2) == [(4, 10.0), (6, 11.0)]
    over[3] = 1.0  # terminates with the last step: one end, not two
    assert lived(torch.stack((rows[:, 0], rows[:, 0], rewards, over, rows[:, 0]), 1), (1, 1), 4, 1) == [(4, 10.0)]


@pytest.mark.parametrize("name", ["pmeta", "pearl", "scratch"])
def test_the_first_episodes_are_recorded_as_they_were_lived(name):
    """Against the rewards that the environments gave, summed here step by step."""
    plan = Plan(steps=(0,), episodes=3)
    run = trained("joint" if name == "scratch" else name)
    way = next(iter(run.learner.adapt_from(run.agent, 3)))
    table = references(PLACE, plan.settings(SETTINGS, 30), [0], plan) if name == "scratch" else adapted(run, plan)
    rows = table[(table["policy"] == "acting")]
    assert set(rows["way"]) == {"scratch" if name == "scratch" else way} and len(rows) == 3 * 2
    assert rows["episodes"].eq(1).all() and rows["step"].eq(30 * rows["episode"]).all()
    assert table.loc[table["policy"] == "deployed", "episode"].isna().all()
    who, initial = (learner("independent"), None) if name == "scratch" else run.learner.adapt_from(run.agent, 3)[way]
    initial = initial and {n: x for n, x in initial.items() if n not in ("critic", "log_alpha")}
    settings = plan.settings(SETTINGS, 30)
    test = start(replace(PLACE, train_tasks=PLACE.test_tasks), who.on(PLACE), settings, [0], initial=initial)
    want = torch.zeros(3, 2)
    for step in range(90):
        advance(test)
        want[step // 30] += test.replay.last[0, :, 0, 4]
        while test.agent.updates < settings.updates_until(test.step):
            update(test)
    got = rows.pivot_table("return", "episode", "task").to_numpy()
    torch.testing.assert_close(torch.tensor(got, dtype=torch.float32), want, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("options, text", [
    ({"steps": ()}, "steps"), ({"steps": (0, -1)}, "steps"), ({"steps": (0, 1.5)}, "steps"),
    ({"episodes": -1}, "episodes is -1"), ({"critics": "old"}, "'fresh' or 'learned'"),
    ({"steps": (0,), "episodes": 0}, "nothing would be adapted"),
])  # fmt: skip
def test_impossible_plans_are_named(options, text):
    with pytest.raises(UserError, match=text):
        Plan(**options)


@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_starts_from_what_it_has_learned(name):
    """At step 0: the return of its meta-policy (or its one policy), evaluated here without the adaptation's code."""
    run = trained(name, (0, 1))
    ways = run.learner.adapt_from(run.agent, 3)
    assert list(ways) == WAYS.get(name, ["sac"])
    table = adapted(run, replace(PLAN, steps=(0, 31)))
    assert list(table.columns) == list(COLUMNS) and len(table) == len(ways) * 2 * 2 * 2
    evaluator = Evaluator(PLACE, PLACE.test_tasks, [0, 1], 1)
    for way in ways:
        policies = run.learner.deployed(run.agent)
        actor = policies.get("meta", policies["deployed"])
        pad = (lambda x: torch.nn.functional.pad(x, (0, 5))) if name == "pearl" else lambda x: x
        if name == "joint-onehot":  # at the mean of the three indices
            pad = lambda x: torch.nn.functional.pad(x, (0, 3), value=1 / 3)  # noqa: E731
        policy = lambda x, actor=actor[:, :1], pad=pad: act(run.agent.actor_shape, actor, pad(x))  # noqa: E731
        want = evaluator.returns(policy, 0).mean(-1)
        for (seed, step, task), value in returns(table, way).items():
            if step == 0:
                assert value == pytest.approx(want[seed, task], rel=1e-4), way
    evaluator.close()


@pytest.mark.parametrize("name", [n for n in LEARNERS if n != "independent"])
def test_new_tasks_do_not_hear_of_each_other(name):
    """In every way: what is done to one task's slot is not seen in the other's."""
    run = trained(name)
    for way in run.learner.adapt_from(run.agent, 3):
        ends = []
        for disturbed in (False, True):
            test = on_test_tasks(run, way, steps=40)
            if disturbed:
                for x in (test.agent.actor, test.agent.critic, test.replay.rows):
                    x[:, 1:] += 0.01
            for _ in range(8):
                update(test)
            ends.append(test.agent)
        if test.agent.actor.shape[1] == 2:
            for x, y in ((getattr(a, n) for a in ends) for n in ("actor", "critic", "log_alpha")):
                assert torch.equal(x[:, 0], y[:, 0]) and not torch.equal(x[:, 1], y[:, 1]), way
        else:  # PEARL's context: nothing is trained
            assert way == "context" and torch.equal(ends[0].actor, run.agent.actor)


def test_scratch_is_an_independent_run_on_the_test_tasks():
    settings = PLAN.settings(SETTINGS, 30)
    table = references(PLACE, settings, [3, 5], PLAN)
    place = replace(PLACE, train_tasks=PLACE.test_tasks)
    curve = train(place, learner("independent"), replace(settings, evaluations=2), [3, 5]).curve
    want = curve.set_index(["seed", "step", "task"])["return"]
    assert sorted(set(curve["step"])) == [0, 60, 120]
    assert returns(table, "scratch").sort_index().equals(want.sort_index())
    uniform = random_returns(PLACE, PLACE.test_tasks, [3, 5], 1)
    assert returns(table, "random").equals(returns(uniform, "random")) and len(uniform) == 4


def test_random_is_uniformly_random():
    """On a point that walks, the return of a uniform walk is known: the mean of its distances to the goal."""
    place = family("point-robot", test=3)
    seeds = list(range(20))
    table = random_returns(place, place.test_tasks, seeds, 5)
    g = torch.Generator().manual_seed(0)
    walk = (0.1 * (2 * torch.rand(4000, 20, 2, generator=g) - 1)).cumsum(1)
    for task, goal in enumerate(place.test_tasks):
        want = -(walk - torch.tensor(goal).float()).norm(dim=-1).sum(1).mean()
        assert table[table["task"] == task]["return"].mean() == pytest.approx(float(want), rel=0.03)


def test_without_the_proximal_term_adaptation_is_plain_fine_tuning():
    free, held = (adapted(trained("pmeta", lam=lam)) for lam in (0.0, 5.0))
    assert returns(free, "proximal").equals(returns(free, "sac"))
    assert not returns(held, "proximal").equals(returns(held, "sac"))


@pytest.mark.parametrize("decoupled", [False, True])
def test_pmeta_stays_near_a_theta_that_rests(decoupled):
    run = trained("pmeta", lam=1e4 if decoupled else 20.0, decoupled=decoupled, critic_lam=0.1, tasks_per_round=1)
    ends = {}
    for way in ("proximal", "sac"):
        test = on_test_tasks(run, way, steps=40)
        for _ in range(30):
            update(test)
        theta = run.agent.extra["theta"]
        ends[way] = (test.agent.actor - theta).norm()
        if way == "proximal":
            assert torch.equal(test.agent.extra["theta"], theta) and torch.equal(
                test.agent.extra["meta_critic"], run.agent.extra["meta_critic"]
            )
    assert 0 < ends["proximal"] < 0.5 * ends["sac"]


def test_distral_rests_and_maml_begins_with_its_inner_steps():
    run = trained("distral")
    test = on_test_tasks(run, "kl", steps=40)
    for _ in range(5):
        update(test)
    assert torch.equal(test.agent.extra["theta"], run.agent.extra["theta"])
    moved = {}
    for size in (1e-6, 0.5):
        run = trained("maml", inner_step_size=size, inner_steps=3, first_order=True)
        test = on_test_tasks(run, "inner + sac", steps=40)
        test.agent.optimizers["actor"].learning_rate = 0.0
        moved[size] = []
        for _ in range(3):
            before = test.agent.actor.clone()
            update(test)
            moved[size].append(float((test.agent.actor - before).norm()))
    assert moved[0.5][0] > 1e3 * moved[1e-6][0] and moved[0.5][1:] == [0.0, 0.0]  # at the first update only


def test_pearl_adapts_by_its_context_alone():
    run = trained("pearl")
    table = adapted(run, Plan(steps=(0, 30, 60, 90), episodes=4))
    assert table["way"].unique().tolist() == ["context"]
    deployed = table[table["policy"] == "deployed"].pivot_table("return", "task", "step")
    assert (deployed[0] != deployed[30]).all()  # the first episode told something


def test_critics_and_temperature_are_fresh_unless_asked_for(monkeypatch):
    begun, run = [], trained("pmeta")
    monkeypatch.setattr(
        "pmeta_lib.sac.adaptation.train",
        lambda place, who, settings, seeds, initial=None, **how: begun.append(
            start(place, who, settings, seeds, initial=initial).agent
        ) or train(place, who, settings, seeds, initial=initial, **how),
    )  # fmt: skip
    learned, fresh = (adapted(run, Plan((0, 90), 0, critics)) for critics in ("learned", "fresh"))
    brought, anew = begun
    untrained = start(PLACE, learner("pmeta"), SETTINGS, [0]).agent
    for name in ("critic", "target", "log_alpha"):
        assert torch.equal(getattr(anew, name)[:, 0], getattr(untrained, name)[:, 0]), name
        assert not torch.equal(getattr(brought, name), getattr(anew, name)), name
    assert torch.equal(brought.actor, anew.actor) and not torch.equal(anew.actor[:, 0], untrained.actor[:, 0])
    assert returns(learned, "proximal")[0, 0].equals(returns(fresh, "proximal")[0, 0])
    assert not returns(learned, "proximal").equals(returns(fresh, "proximal"))


def test_a_killed_adaptation_ends_with_the_same_table(tmp_path):
    run = trained("pmeta")

    class Killed(BaseException):
        pass

    def kill(run):
        if run.step == 60:
            raise Killed

    how = {"folder": tmp_path, "checkpoint_seconds": 0.0}
    with pytest.raises(Killed):
        adapted(run, callback=kill, **how)
    assert adapted(run, **how).equals(adapted(run))


def test_adaptation_finds_the_goal_of_an_unseen_task():
    """Point robots that know no goal yet (-20, one stands a metre away from each) find their own in 800 steps."""
    place = family("point-robot", train=6, test=3)
    settings = Settings(steps=600, hidden=(32, 32), batch_size=64, warm_up=200, learning_rate=3e-3, evaluations=1,
                        discount=0.9)  # fmt: skip
    run = train(place, learner("pmeta", lam=0.001), settings, [0])
    plan = Plan(steps=(0, 800), episodes=0)
    table = adapt(place, run.learner, run.agent, 6, plan.settings(settings, 20), [0], plan)
    first, last = (table[table["step"] == s]["return"].to_numpy() for s in (0, 800))
    assert (last > first + 2).all() and last.mean() > -10, (first, last)
