"""pMeta's limits: one task is SAC with a proximal term, a strong term the averaged policy (more in test_learners)."""

import pytest
import torch
from plain_sac import Plain, agent_of, assert_slot, batches, layers_of

from pmeta_lib.sac.learners import learner


class Proximal(Plain):
    """SAC in everyday PyTorch with `(lam/2) ||theta - w||^2` in the actor's loss."""

    def __init__(self, agent, slot, lam):
        super().__init__(agent, slot)
        self.lam = lam
        self.w = [p.detach().clone() for p in self.actor.parameters()]

    def step(self, which, loss):
        if which == 0:
            pairs = zip(self.actor.parameters(), self.w, strict=True)
            loss = loss + 0.5 * self.lam * sum((p - w).square().sum() for p, w in pairs)
        super().step(which, loss)


@pytest.mark.parametrize("tasks", [1, 3])
def test_it_is_sac_with_a_proximal_term_to_an_anchor_that_moves_every_k_updates(tasks):
    """With one task the anchor lands on the policy itself, with several on their mean (eta lam = beta = 1)."""
    agent = agent_of(policies=tasks)
    made = learner("pmeta", lam=0.5, inner_steps=3)
    made.start(agent, tasks)
    agent.extra["w"].copy_(agent.actor)  # as if a round had just begun there
    plain = [Proximal(agent, i, 0.5) for i in range(tasks)]
    for k, (batch, noise) in enumerate(batches(7, tasks=tasks), 1):
        agent.noise = lambda *shape, noise=noise: noise
        made.update(agent, batch)
        for i in range(tasks):
            plain[i].update(type(batch)(*(x[0, i] for x in batch)), noise[0, :, i])
            assert_slot(agent.actor_shape, agent.actor[0, i], layers_of(plain[i].actor), tolerance=1e-4)
        if k % 3 == 0:
            parameters = zip(*(p.actor.parameters() for p in plain), strict=True)
            mean = [torch.stack(x).mean(0).detach() for x in parameters]
            for p in plain:
                p.w = mean
    assert (agent.extra["theta"] - agent.actor).abs().max() > 5e-4


def test_a_strong_proximal_term_makes_every_policy_the_averaged_one(small):
    """They lie closer together than the way they went, the more so the larger lambda; their curves are one."""
    begin = small("pmeta", steps=41).agent.extra["theta"]
    ratio, gap = {}, {}
    for lam in (0.0, 1e3, 1e5):
        run = small("pmeta", options={"lam": lam, "inner_steps": 1, "decoupled": True}, learning_rate=1e-3)
        theta = run.agent.extra["theta"]
        ratio[lam] = float((run.agent.actor - theta).norm(dim=-1).mean() / (theta - begin).norm())
        deployed, meta = (torch.tensor([r[4] for r in run.rows if r[2] == p]) for p in ("deployed", "meta"))
        gap[lam] = float((deployed - meta).abs().max())
    assert ratio[1e5] < 0.02 and ratio[1e5] < ratio[1e3] < 0.1 * ratio[0.0], ratio
    assert gap[1e5] < 0.1 < gap[0.0], gap
