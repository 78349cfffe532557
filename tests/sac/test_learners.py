"""The limits that tie learners to each other, and pMeta's switches."""

import pytest
import torch

from pmeta_lib import moreau
from pmeta_lib.envs import family
from pmeta_lib.files import UserError
from pmeta_lib.sac.learners import LEARNERS, learner
from pmeta_lib.sac.settings import Settings
from pmeta_lib.sac.training import advance, start, update


@pytest.mark.parametrize("decoupled", [False, True])
def test_without_the_proximal_term_pmeta_is_independent_exactly(small, decoupled):
    pmeta, independent = small("pmeta", options={"lam": 0.0, "decoupled": decoupled}), small("independent")
    for name in ("actor", "critic", "target", "log_alpha"):
        assert torch.equal(getattr(pmeta.agent, name), getattr(independent.agent, name))
    assert [r for r in pmeta.rows if r[2] == "deployed"] == independent.rows


def test_joint_with_one_task_is_independent_with_one_task(small):
    joint, independent = small("joint", tasks=1), small("independent", tasks=1)
    assert torch.equal(joint.agent.actor, independent.agent.actor) and joint.rows == independent.rows


def test_joint_is_one_network_that_sees_every_task(small):
    run = small("joint")
    assert run.agent.actor.shape[:2] == (1, 1) and run.agent.slots == 1
    assert run.curve.groupby("step").size().tolist() == [3, 3, 3]  # evaluated on every task
    batch = run.replay.sample(4, run.agent.generators["replay"])
    losses = run.learner.update(run.agent, batch)
    assert losses["critic_loss"].shape == (1,)


def test_with_one_task_pmeta_is_sac_with_a_moving_anchor(small):
    run = small("pmeta", tasks=1, options={"inner_steps": 50, "lam": 0.05})
    extra = run.agent.extra
    assert run.agent.updates == 100 and torch.equal(extra["theta"], extra["w"])
    torch.testing.assert_close(extra["theta"], run.agent.actor)  # eta lam = beta = 1: the anchor lands on the policy


@pytest.mark.parametrize("decoupled", [False, True])
def test_a_strong_proximal_term_holds_the_policies_together(small, decoupled):
    # decoupled: an implicit step, so that any strength is stable; coupled passes through Adam
    weak, strong = (small("pmeta", options={"lam": lam, "decoupled": decoupled, "inner_steps": 10})
                    for lam in (0.0, 1e6 if decoupled else 10.0))  # fmt: skip

    def distance(run):
        return (run.agent.actor - run.agent.extra["theta"]).norm()

    assert distance(strong) < (1e-4 if decoupled else 0.5) * distance(weak)


def make(options=None, seeds=(0,), tasks=3, warm_up=60):
    settings = Settings(steps=500, hidden=(16, 16), batch_size=16, warm_up=warm_up)
    run = start(family("pendulum-params", train=tasks), learner("pmeta", **(options or {})), settings, list(seeds))
    for _ in range(warm_up):
        advance(run)
    return run


def test_local_and_meta_steps_are_those_of_the_pseudocode():
    run = make({"inner_steps": 3, "local_steps": 2, "eta_lam": 0.5, "beta": 0.7, "lam": 0.2})
    theta, w = run.agent.extra["theta"].clone(), run.agent.extra["w"].clone()
    for k in range(1, 13):
        update(run)
        if k % 3 == 0:
            w = moreau.local_step(w, run.agent.actor, 0.5)
        if k % 6 == 0:
            theta = 0.3 * theta + 0.7 * w.mean(1, keepdim=True)
            w = theta.expand_as(w).clone()
        torch.testing.assert_close(run.agent.extra["w"], w)
        torch.testing.assert_close(run.agent.extra["theta"], theta)
    assert (run.agent.extra["theta"] - run.agent.actor).abs().max() > 1e-4


def test_the_coupled_term_is_in_the_gradient():
    run, free = make({"lam": 0.3, "inner_steps": 1000}), make({"lam": 0.0, "inner_steps": 1000})
    for r in (run, free):
        r.agent.extra["w"] += 0.5
        batch = r.replay.sample(16, r.agent.generators["replay"])
        r.learner.update(r.agent, batch)
    start_from = make().agent.actor
    first, plain = (r.agent.optimizers["actor"].first / 0.1 for r in (run, free))  # Adam's moment after one step
    torch.testing.assert_close(first - plain, 0.3 * (start_from - run.agent.extra["w"]), rtol=1e-3, atol=1e-5)


def test_cold_start_restarts_from_the_anchor():
    run = make({"inner_steps": 4, "warm_start": False, "beta": 0.5, "eta_lam": 0.5})
    for _ in range(4):
        update(run)
    assert torch.equal(run.agent.actor, run.agent.extra["theta"].expand_as(run.agent.actor))


def test_a_cold_start_deploys_what_it_adapted_not_where_it_restarts():
    """After the K-th update of a round the actors are theta again; of undrawn tasks, the last round's stay."""
    run = make({"inner_steps": 4, "warm_start": False, "tasks_per_round": 2, "lam": 0.1})
    extra, start_from = run.agent.extra, run.agent.actor.clone()
    best = start_from.clone()
    for _ in range(4):
        drawn = extra["drawn"].clone()
        for _ in range(3):
            update(run)
            assert torch.equal(extra["adapted"], best)
        before = run.agent.actor.clone()
        update(run)
        assert torch.equal(run.agent.actor, extra["theta"].expand_as(before))
        best = torch.where(drawn[..., None] > 0, extra["adapted"], best)  # one more step of Adam than `before`
        assert torch.equal(extra["adapted"], best) and torch.equal((best != before).any(2) & (drawn > 0), drawn > 0)
        assert ((best - before).abs().amax(2)[drawn > 0] < 1e-3).all()
        torch.testing.assert_close(extra["theta"], (best * drawn[..., None]).sum(1, keepdim=True) / 2)
    assert run.learner.deployed(run.agent)["deployed"] is extra["adapted"]
    still, initial = run.learner.adapt_from(run.agent, 3)["proximal"]
    fresh = make().agent  # on new tasks nothing restarts: the actor itself is deployed
    still.start(fresh, 3)
    assert still.deployed(fresh)["deployed"] is fresh.actor and torch.equal(initial["actor"], extra["theta"])


def test_identical_tasks_and_data_stay_identical():
    run = make({"inner_steps": 5})
    for x in (run.replay.rows,):
        x.copy_(x[:, :1].expand_as(x).clone())
    noise = run.agent.noise
    run.agent.noise = lambda *shape: noise(*shape)[:, :, :1].expand(1, *shape)
    sample = run.replay.sample
    for _ in range(20):
        batch = sample(16, run.agent.generators["replay"])
        run.learner.update(run.agent, type(batch)(*(x[:, :1].expand_as(x) for x in batch)))
    for x in (run.agent.actor, run.agent.critic, run.agent.log_alpha):
        # to rounding: on some processors the batched products of a slot depend on where it lies in memory
        torch.testing.assert_close(x, x[:, :1].expand_as(x), rtol=1e-4, atol=1e-6)


def test_a_round_updates_the_drawn_tasks_only():
    run = make({"tasks_per_round": 2, "inner_steps": 6, "lam": 0.1}, seeds=(0, 1), tasks=5)
    for _ in range(5):
        drawn = run.agent.extra["drawn"].clone()
        assert (drawn.sum(1) == 2).all()
        before = [x.clone() for x in (run.agent.actor, run.agent.critic, run.agent.optimizers["actor"].first)]
        for _ in range(6):
            update(run)
        for old, new in zip(before, (run.agent.actor, run.agent.critic, run.agent.optimizers["actor"].first)):
            moved = (old != new).flatten(2).any(2)
            assert torch.equal(moved, drawn > 0)
        want = (run.agent.actor * drawn[..., None]).sum(1, keepdim=True) / 2  # eta lam = beta = 1
        torch.testing.assert_close(run.agent.extra["theta"], want)


def test_the_meta_step_may_run_over_all_actors_absent_ones_as_they_are():
    run = make({"tasks_per_round": 2, "inner_steps": 3, "aggregate": "all", "eta_lam": 0.5, "beta": 0.8}, tasks=5)
    extra, theta = run.agent.extra, run.agent.extra["theta"].clone()
    extra["w"].copy_(theta.expand_as(extra["w"]))
    for _ in range(4):
        absent, before = extra["drawn"] == 0, run.agent.actor.clone()
        for _ in range(3):
            update(run)
        assert absent.sum() == 3 and torch.equal(run.agent.actor[absent], before[absent])
        theta = 0.2 * theta + 0.8 * (theta - 0.5 * (theta - run.agent.actor)).mean(1, keepdim=True)
        torch.testing.assert_close(extra["theta"], theta)
    with pytest.raises(ValueError, match="must be 'drawn' or 'all'"):
        make({"aggregate": "drwan"})


def test_tied_critics_and_shared_temperatures():
    tied, free = (make({"critic_lam": lam, "inner_steps": 5}) for lam in (1e5, 0.0))
    shared = make({"shared_temperature": True})
    for run in (tied, free, shared):
        for _ in range(10):
            update(run)
    spread = [(r.agent.critic - r.agent.critic.mean(1, keepdim=True)).norm() for r in (tied, free)]
    assert spread[0] < 0.2 * spread[1]
    assert shared.agent.log_alpha.std() == 0 and free.agent.log_alpha.std() > 0


def test_updates_of_one_phase_do_the_same():
    """What a CUDA graph relies on."""
    made = learner("pmeta", inner_steps=3, local_steps=2)
    assert [made.phase(k) for k in range(6)] == [
        (False, False), (False, False), (True, False), (False, False), (False, False), (True, True)]  # fmt: skip
    assert learner("pmeta", tasks_per_round=2).phase(0) is None
    assert learner("joint").phase(0) == learner("joint").phase(7) is not None


@pytest.mark.parametrize("name, options, text", [
    ("pmetta", {}, "Did you mean 'pmeta'"), ("pmeta", {"lamda": 1}, "Did you mean 'lam'"),
    ("pmeta", {"lam": "big"}, "lam"), ("pmeta", {"lam": -1.0}, "lam"), ("pmeta", {"lam": float("nan")}, "lam"),
    ("pmeta", {"lam": float("inf")}, "lam"), ("pmeta", {"inner_steps": 0}, "inner_steps"),
    ("pmeta", {"inner_steps": 1.5}, "inner_steps"), ("pmeta", {"beta": 3.0}, "beta"),
    ("pmeta", {"decoupled": 1}, "decoupled"), ("joint", {"lam": 1.0}, "it has none"),
])  # fmt: skip
def test_bad_options_are_named(name, options, text):
    with pytest.raises(UserError, match=text):
        learner(name, **options)


def test_whole_numbers_are_taken_for_floats_and_too_many_tasks_per_round_are_refused():
    assert learner("pmeta", lam=1) == learner("pmeta", lam=1.0) and isinstance(learner("pmeta", lam=1).lam, float)
    with pytest.raises(UserError, match="there are 3 tasks"):
        make({"tasks_per_round": 4})


@pytest.mark.parametrize("name", LEARNERS)
def test_policies_for_evaluation_have_the_actors_shape(small, name):
    run = small(name)
    for actor in run.learner.deployed(run.agent).values():
        assert actor.shape[0] == 1 and actor.shape[1] in (1, 3) and actor.shape[2] == run.agent.actor_shape.size
        action = run.mode(actor, torch.zeros(1, 6, 3))
        assert action.shape == (1, 6, 1) and action.abs().max() <= 1
