"""The references of the deep engine's tests: a perceptron and a single-task SAC in everyday PyTorch."""

import torch
from torch import nn

from pmeta_lib.sac.agent import new_agent
from pmeta_lib.sac.networks import Shape
from pmeta_lib.sac.replay import split

O, A, N, ROWS = 4, 2, 5, 32  # sizes of observation and action, tasks, transitions a task


def as_module(shape: Shape, row: torch.Tensor) -> nn.Sequential:
    """The same perceptron built from torch.nn.Linear, one slot."""
    layers = []
    for w, b in shape.layers(row[None]):
        linear = nn.Linear(w.shape[1], w.shape[2], dtype=row.dtype)
        linear.weight.data.copy_(w[0].T)
        linear.bias.data.copy_(b[0, 0])
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def agent_of(seeds=(0,), policies=N, hidden=(16, 24), dtype=torch.float32, **options):
    """An agent whose slots all differ (fresh ones of a seed are equal)."""
    options = {"learning_rate": 1e-3, "discount": 0.97, "polyak": 0.01} | options
    agent = new_agent(list(seeds), policies, O, A, hidden=hidden, **options)
    g = torch.Generator().manual_seed(5)
    for x in (agent.actor, agent.critic, agent.target):
        x.mul_(1 + 0.3 * torch.randn(x.shape, generator=g))
    agent.log_alpha.copy_(torch.randn(agent.log_alpha.shape, generator=g) * 0.3 - 1)
    return agent


def batches(count, seeds=1, tasks=N, g=None):
    g = g or torch.Generator().manual_seed(7)
    for _ in range(count):
        rows = torch.randn(seeds, tasks, ROWS, 2 * O + A + 2, generator=g)
        rows[..., O : O + A].tanh_()
        rows[..., O + A + 1] = (rows[..., O + A + 1] > 1).float()
        yield split(rows, O, A), torch.randn(seeds, 2, tasks, ROWS, A, generator=g)


class Plain:
    """SAC for one task in everyday PyTorch: nn.Module, torch.optim.Adam, backward(). The reference."""

    def __init__(self, agent, slot):
        self.actor = as_module(agent.actor_shape, agent.actor.flatten(0, 1)[slot])
        critics = agent.critic.flatten(0, 1)[slot]
        self.critics = nn.ModuleList(as_module(agent.critic_shape, row) for row in critics)
        self.targets = nn.ModuleList(as_module(agent.critic_shape, row) for row in agent.target.flatten(0, 1)[slot])
        self.log_alpha = agent.log_alpha.flatten()[slot].clone().requires_grad_()
        rate = agent.optimizers["actor"].learning_rate
        self.optimizers = [torch.optim.Adam(p, lr=rate) for p in
                           (self.actor.parameters(), self.critics.parameters(), [self.log_alpha])]  # fmt: skip
        self.discount, self.polyak, self.target_entropy = agent.discount, agent.polyak, agent.target_entropy

    def sample(self, observation, noise):
        mean, log_std = self.actor(observation).chunk(2, -1)
        log_std = log_std.clamp(-20, 2)
        normal = torch.distributions.Normal(mean, log_std.exp())
        u = mean + log_std.exp() * noise
        return torch.tanh(u), (normal.log_prob(u) - torch.log(1 - torch.tanh(u) ** 2)).sum(-1)

    def update(self, batch, noise):
        alpha = self.log_alpha.exp().detach()
        action, log_prob = self.sample(batch.observation, noise[0])
        with torch.no_grad():
            next_action, next_log_prob = self.sample(batch.next_observation, noise[1])
            pair = torch.cat((batch.next_observation, next_action), -1)
            value = torch.min(*(t(pair)[:, 0] for t in self.targets)) - alpha * next_log_prob
            target = batch.reward + self.discount * (1 - batch.terminated) * value
        temperature = -(self.log_alpha * (log_prob.detach() + self.target_entropy)).mean()
        self.step(2, temperature)
        pair = torch.cat((batch.observation, batch.action), -1)
        critic = 0.5 * sum(nn.functional.mse_loss(c(pair)[:, 0], target) for c in self.critics)
        self.step(1, critic)
        pair = torch.cat((batch.observation, action), -1)
        actor = (alpha * log_prob - torch.min(*(c(pair)[:, 0] for c in self.critics))).mean()
        self.step(0, actor)
        with torch.no_grad():
            for target, online in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
                target.mul_(1 - self.polyak).add_(online, alpha=self.polyak)
        return {"temperature_loss": temperature, "critic_loss": critic, "actor_loss": actor}

    def step(self, which, loss):
        self.optimizers[which].zero_grad()
        loss.backward(retain_graph=which == 2)
        if which == 1:  # copies: the actor's loss will flow into the critics too
            self.critic_gradients = [layers_of(c, grad=True) for c in self.critics]
        self.optimizers[which].step()


def layers_of(module: nn.Sequential, grad=False):
    pick = (lambda p: p.grad.clone()) if grad else (lambda p: p.detach())
    return [(pick(m.weight).T, pick(m.bias)) for m in module[::2]]


def assert_slot(shape, row, layers, tolerance=1e-5):
    for (w, b), (want_w, want_b) in zip(shape.layers(row[None]), layers, strict=True):
        torch.testing.assert_close(w[0], want_w, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(b[0, 0], want_b, rtol=tolerance, atol=tolerance)
