"""PCGrad's projections against the paper's algorithm, word by word, and against `joint` where nothing conflicts."""

import numpy as np
import torch
from plain_sac import agent_of, batches

from pmeta_lib.sac.learners import learner
from pmeta_lib.sac.learners.pcgrad import project_conflicts
from pmeta_lib.tabular.learners import project_conflicts as tabular


def test_the_papers_two_vectors():
    """Figure 2: conflicting gradients, each put onto the other's normal plane; and a pair that agrees, kept."""
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    order = torch.tensor([[[1], [0]]])
    got = project_conflicts(torch.stack((first, second))[None], order)[0]
    torch.testing.assert_close(got, torch.tensor([[0.5, 0.5], [0.0, 1.0]]))
    assert abs(got[0] @ second) < 1e-6 and abs(got[1] @ first) < 1e-6
    agreeing = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    assert torch.equal(project_conflicts(agreeing, order), agreeing)
    opposed = torch.tensor([[[1.0, -2.0], [-2.0, 4.0]]])
    assert project_conflicts(opposed, order).abs().max() < 1e-6
    with_zero = torch.tensor([[[0.0, 0.0], [-2.0, 4.0]]])
    assert torch.equal(project_conflicts(with_zero, order), with_zero)


def test_many_gradients_in_any_order_equal_algorithm_1():
    g = torch.Generator().manual_seed(0)
    gradients = torch.randn(3, 6, 4, generator=g, dtype=torch.float64)
    others = torch.rand(3, 6, 5, generator=g).argsort(-1)
    order = (others + 1 + torch.arange(6)[:, None]) % 6
    got, projected = project_conflicts(gradients, order), 0
    for s in range(3):
        for i in range(6):
            want = gradients[s, i].clone()
            for j in order[s, i]:
                dot = want @ gradients[s, j]
                if dot < 0:
                    want -= dot / (gradients[s, j] @ gradients[s, j]) * gradients[s, j]
                    projected += 1
            torch.testing.assert_close(got[s, i], want)
    assert projected > 20
    in_turn = ((torch.arange(6)[:, None] + torch.arange(1, 6)) % 6).expand(3, 6, 5)
    for s, x in enumerate(project_conflicts(gradients, in_turn)):  # the tabular learner's default order
        np.testing.assert_allclose(x, tabular(gradients[s].numpy()[:, None], None)[:, 0], atol=1e-12)


def test_the_order_is_random_and_holds_every_other_task_once():
    made, agent = learner("pcgrad"), agent_of(seeds=(0, 1))
    seen = torch.stack([made.order(agent) for _ in range(200)])  # (200, S, N, N - 1)
    own = torch.arange(5).view(1, 1, 5, 1)
    everybody = torch.cat((seen, own.expand(200, 2, 5, 1)), -1).sort(-1)[0]
    assert torch.equal(everybody, torch.arange(5).expand(200, 2, 5, 5))
    first = torch.stack([(seen[..., 0] == j).float().mean(0) for j in range(5)], -1)  # how often j is the first met
    assert (first.diagonal(dim1=1, dim2=2) == 0).all() and ((first == 0) | ((first - 0.25).abs() < 0.13)).all()
    assert not torch.equal(seen[:, 0], seen[:, 1])


PARAMETERS = ("actor", "critic", "target", "log_alpha")


def both(batch, noise):
    """Agents of pcgrad and joint after one update of `batch`, from the same parameters."""
    agents = []
    for name in ("pcgrad", "joint"):
        made, agent = learner(name), agent_of(policies=learner(name).policies(5))
        for x, one in ((getattr(agent, k), getattr(agent_of(), k)) for k in PARAMETERS):
            x.copy_(one[:, :1].expand_as(x))
        made.start(agent, 5)
        agent.noise = lambda *shape: noise
        for _ in range(5):
            made.update(agent, batch)
        agents.append(agent)
    return agents


def test_without_conflict_it_is_joint():
    """Five tasks with equal transitions and noise have equal gradients."""
    batch, noise = next(batches(1))
    agree = type(batch)(*(x[:, :1].expand_as(x) for x in batch))
    pcgrad, joint = both(agree, noise[:, :, :1].expand_as(noise))
    for name in PARAMETERS:
        got, want = getattr(pcgrad, name), getattr(joint, name)
        torch.testing.assert_close(got, want.expand_as(got), rtol=1e-4, atol=1e-5)
    opposed = batch._replace(reward=batch.reward + torch.tensor([9.0, -9.0, 9.0, -9.0, 0.0]).view(1, 5, 1))
    pcgrad, joint = both(opposed, noise)  # these conflict, and it is not
    assert (pcgrad.actor - joint.actor).abs().max() > 1e-3 and (pcgrad.critic - joint.critic).abs().max() > 1e-3
    assert all(torch.equal(x[:, :1].expand_as(x), x) for x in (getattr(pcgrad, name) for name in PARAMETERS))
