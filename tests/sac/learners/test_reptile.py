"""Reptile against its two lines of pseudocode and against the limit of pMeta that it is."""

import pytest
import torch

from pmeta_lib.sac.training import update


def test_it_is_pmeta_without_a_proximal_term_from_a_cold_start(small):
    reptile = small("reptile", (0, 1), {"inner_steps": 10, "epsilon": 0.7})
    limit = {"inner_steps": 10, "lam": 0.0, "warm_start": False, "beta": 0.7}
    pmeta = small("pmeta", (0, 1), limit)
    for name in ("actor", "critic", "target", "log_alpha"):  # w - (w - y) is y but for rounding
        torch.testing.assert_close(getattr(reptile.agent, name), getattr(pmeta.agent, name), rtol=1e-3, atol=1e-4)
    for name in ("theta", "adapted"):
        torch.testing.assert_close(reptile.agent.extra[name], pmeta.agent.extra[name], rtol=1e-3, atol=1e-4)
    pairs = zip(reptile.rows, pmeta.rows, strict=True)  # and so do the curves, of adapted actors, not of theta
    assert all(a[:4] == b[:4] and a[4] == pytest.approx(b[4], rel=1e-3, abs=0.1) for a, b in pairs)


def test_a_round_restarts_at_theta_and_moves_it_towards_the_mean(small):
    run = small("reptile", (0, 1), {"inner_steps": 4, "epsilon": 0.3})
    extra, agent = run.agent.extra, run.agent
    for _ in range(3):
        theta = extra["theta"].clone()
        assert torch.equal(agent.actor, theta.expand_as(agent.actor)) and agent.updates % 4 == 0
        for _ in range(3):
            update(run)
            assert torch.equal(extra["theta"], theta) and not torch.equal(agent.actor[:, 0], agent.actor[:, 1])
        before = agent.actor.clone()
        update(run)
        adapted = extra["adapted"]
        assert not torch.equal(adapted, before) and (adapted - before).abs().max() < 3e-3  # one more step of Adam
        torch.testing.assert_close(extra["theta"], theta + 0.3 * (adapted - theta).mean(1, keepdim=True))
    deployed = run.learner.deployed(agent)
    assert deployed["deployed"] is extra["adapted"] and deployed["meta"] is extra["theta"]
