"""joint-onehot: what is appended, and that the update is SAC's on the widened transitions."""

import torch
from plain_sac import A, N, O, Plain, agent_of, assert_slot, batches, layers_of

from pmeta_lib.sac.agent import new_agent
from pmeta_lib.sac.learners import learner


def test_observations_end_with_the_tasks_index():
    made, x = learner("joint-onehot"), torch.randn(2, 3, 7, O)
    got = made.inputs(agent_of(), x)
    assert got.shape == (2, 3, 7, O + 3) and torch.equal(got[..., :O], x) and made.context_size(3) == 3
    for i in range(3):
        assert torch.equal(got[:, i, :, O:], torch.eye(3)[i].expand(2, 7, 3))


def test_an_update_is_that_of_plain_sac_on_all_tasks_rows_with_their_index():
    made = learner("joint-onehot")
    agent = new_agent([0], made.policies(N), O + N, A, hidden=(16, 24), learning_rate=1e-3, discount=0.97, polyak=0.01)
    plain = Plain(agent, 0)
    for batch, noise in batches(3):
        agent.noise = lambda *shape, noise=noise: noise
        index = torch.eye(N).repeat_interleave(batch.reward.shape[2], 0)
        rows = type(batch)(*(x[0].flatten(0, 1) for x in batch))
        rows = rows._replace(observation=torch.cat((rows.observation, index), -1),
                             next_observation=torch.cat((rows.next_observation, index), -1))  # fmt: skip
        got, want = made.update(agent, batch), plain.update(rows, noise[0].flatten(1, 2))
        for name, x in want.items():
            torch.testing.assert_close(got[name][0], x.detach(), rtol=1e-5, atol=1e-5)
        assert_slot(agent.actor_shape, agent.actor[0, 0], layers_of(plain.actor))
        for k in range(2):
            assert_slot(agent.critic_shape, agent.critic[0, 0, k], layers_of(plain.critics[k]))


def test_the_policy_depends_on_the_index(small):
    run = small("joint-onehot")
    actions = run.mode(run.learner.deployed(run.agent)["deployed"], torch.zeros(1, 3, 3))
    assert len(set(actions.flatten().tolist())) == 3
