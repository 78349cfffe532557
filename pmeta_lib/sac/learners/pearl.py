"""PEARL: one actor and one pair of critics that see a latent task z, inferred from the latest transitions.

Rakelly, Zhou, Quillen, Finn, Levine, "Efficient Off-Policy Meta-Reinforcement Learning via Probabilistic Context
Variables", ICML 2019 (arXiv 1903.08254). With a context c of m transitions c_j = (s, a, r, s') of one task:

    q(z|c) ∝ N(z; 0, I) prod_j N(z; mu(c_j), var(c_j))        permutation-invariant encoder (section 4.1, eq. 2)
    encoder's loss = critic_loss(z) + kl_weight KL(q(z|c) || N(0, I)),   z = mean + std noise     (section 4.2)

z is appended to what actor and critics see, and drawn anew for every batch. As the authors' code does, the encoder
learns from the critics' loss alone: actor, temperature and targets see z as a constant. Training episodes alternate:
one acts on a z drawn from the prior and *is* the context to come, the next acts on a z from the posterior and only
goes to the replay. The encoder thus sees what it will see at meta-test, the exploration of the current policy: context
from the replay at large would let it read the task off what the policy has already learnt to do there.

At meta-test (`Inference`) the first n episodes each act on a z of the prior, and they alone are the context; all later
ones act on a z of the posterior given those n. Policies act by their mode; no weight is trained.

`docs/pearl.md` lists every difference from the authors' code (github.com/katerakelly/oyster) that we can see."""

import math
from dataclasses import asdict, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from pmeta_lib.envs.families import TaskFamily
from pmeta_lib.options import Count, NotNegative, options
from pmeta_lib.sac.agent import Adam, Agent
from pmeta_lib.sac.learners.base import Learner, Ways, appended, brought, widened
from pmeta_lib.sac.memory import check_size
from pmeta_lib.sac.networks import Shape, fold, fused, initialize
from pmeta_lib.sac.replay import Batch, Replay
from pmeta_lib.sac.update import sac_update


def posterior(factors: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (…, k) of N(0, I) times the Gaussian `factors (…, m, 2k)` that are `counted (…, m)`.

    A factor is a mean and a number whose softplus is the variance. Precisions add up; means are weighted by them."""
    mean, raw = factors.chunk(2, -1)
    precision = counted.unsqueeze(-1) / softplus(raw).clamp(min=1e-6)
    variance = 1.0 / (1.0 + precision.sum(-2))
    return variance * (precision * mean).sum(-2), variance


def divergence(mean: Tensor, variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, I)), summed over the last axis."""
    return 0.5 * (variance + mean.square() - 1.0 - variance.log()).sum(-1)


@options
class Pearl(Learner):
    """A task's E environments collect apart; k = `latent_size`, m = `context_batch`, W = `context_window`."""

    name = "pearl"
    cost = 1.4
    one_phase = True
    one_policy = True

    latent_size: Count = 5  # k, numbers in z
    kl_weight: NotNegative = 0.01  # of KL(q || prior) beside the critics' loss; the authors' 0.1 is 0.032 on our losses
    context_batch: Count = 64  # transitions of each task that an update infers z from
    context_window: Count = 400  # the latest transitions of exploration, of each environment, that they are drawn from

    def context_size(self, tasks: int) -> int:
        return self.latent_size

    def start(self, agent: Agent, tasks: int) -> None:
        device, shape, slots = agent.actor.device, self._encoder(agent), (len(agent.actor), tasks, agent.envs)
        context = (*slots, self.context_window, shape.widths[0])
        check_size({"option context_window": 4 * math.prod(context) / 2**30}, device)
        encoder = torch.stack([initialize(shape, 1, g) for g in agent.generators["learner"]])
        agent.optimizers["encoder"] = Adam(encoder, agent.optimizers["actor"].learning_rate)
        agent.extra |= {
            "encoder": encoder,  # (S, 1, ·)
            "context": torch.zeros(context, device=device),  # (S, N, E, W, 2o + a + 1): the latest W of exploration
            "seen": torch.zeros(slots, dtype=torch.float64, device=device),  # (S, N, E) transitions ever put there
            "explores": torch.ones(slots, device=device),  # (S, N, E), 1 where the episode is one of exploration
            "z": agent.noise(tasks, agent.envs, self.latent_size),  # (S, N, E, k), which acts
        }

    def inputs(self, agent: Agent, observation: Tensor) -> Tensor:
        z = agent.extra["z"]  # what an evaluation deploys has its own z in the networks, and ignores this one
        return appended(observation, z if observation.shape[2] == z.shape[2] else z[:, :, :1])

    @torch.enable_grad()
    def update(self, agent: Agent, batch: Batch) -> dict[str, Tensor]:
        encoder = agent.extra["encoder"].detach().requires_grad_()
        mean, variance = self._infer(agent, *self._draw(agent), encoder)
        z = mean + variance.sqrt() * agent.noise(*mean.shape[1:])
        of_z = slice(batch.observation.shape[-1], batch.observation.shape[-1] + self.latent_size)
        with_z = widened(batch, lambda x: appended(x, z.detach().unsqueeze(2)))
        losses = sac_update(agent, with_z, context=of_z)
        from_critics = losses.pop("context").view(*batch.reward.shape, -1).sum(2)  # (S, N, k)
        surrogate = (z * from_critics).sum() + self.kl_weight * divergence(mean, variance).mean(1).sum()
        agent.optimizers["encoder"].step(*torch.autograd.grad(surrogate, encoder))
        return losses

    @torch.no_grad()
    def stepped(self, agent: Agent, replay: Replay, ended: np.ndarray) -> None:
        extra = agent.extra
        at = (extra["seen"] % self.context_window).long()[..., None, None]
        at = at.expand(-1, -1, -1, 1, extra["context"].shape[-1])
        kept = extra["explores"].clone()
        flag = sum(replay.sizes) + 1  # the column of the terminated flag, which is no part of the context
        row = torch.cat((replay.last[..., :flag], replay.last[..., flag + 1 :]), -1).unsqueeze(3)
        extra["context"].scatter_(3, at, torch.where(kept[..., None, None] > 0, row, extra["context"].gather(3, at)))
        extra["seen"] += kept
        noise = agent.noise(*extra["z"].shape[1:])  # always, lest one seed's episodes shift another's
        if ended.any():
            finished = torch.from_numpy(ended).to(noise.device).view(kept.shape)
            extra["explores"].copy_(torch.where(finished, self.turn(agent, finished), kept))
            mean, variance = self.inferred(agent)
            drawn = torch.where(extra["explores"].unsqueeze(-1) > 0, noise, mean + variance.sqrt() * noise)
            extra["z"].copy_(torch.where(finished.unsqueeze(-1), drawn, extra["z"]))

    def turn(self, agent: Agent, finished: Tensor) -> Tensor:
        """(S, N, E): 1 where the episode after one that is `finished` is to explore, else 0."""
        return 1.0 - agent.extra["explores"]

    @torch.no_grad()
    def inferred(self, agent: Agent) -> tuple[Tensor, Tensor]:
        """Mean and variance (S, N, E, k) of z given all that each environment explored; the prior's at first."""
        rows = agent.extra["context"]
        counted = torch.arange(self.context_window, device=rows.device) < agent.extra["seen"].unsqueeze(-1)
        return self._infer(agent, rows, counted, agent.extra["encoder"])

    def deployed(self, agent: Agent) -> dict[str, Tensor]:
        """By the mean of z: the posterior's ("deployed") or the prior's ("meta"), put into the actor itself."""
        mean = self.inferred(agent)[0][:, :, 0]  # by one environment's context: no more of it than with E = 1
        z, at = {"deployed": mean, "meta": torch.zeros_like(mean)}, agent.actor_shape.widths[0] - self.latent_size
        return {name: fold(agent.actor_shape, agent.actor, at, x) for name, x in z.items()}

    def adapt_from(self, agent: Agent, tasks: int) -> Ways:
        meta = brought(agent) | {"encoder": agent.extra["encoder"]}
        return {"context": (Inference(**asdict(self)), meta), "context + sac": (TunedInference(**asdict(self)), meta)}

    def _encoder(self, agent: Agent) -> Shape:
        """(s, a, r, s') -> mean and raw variance of a factor, with the actor's hidden layers."""
        inputs, *hidden, head = agent.actor_shape.widths
        return Shape((2 * (inputs - self.latent_size) + head // 2 + 1, *hidden, 2 * self.latent_size))

    def _draw(self, agent: Agent) -> tuple[Tensor, Tensor]:
        """m transitions of each task's context (S, N, m, ·), with replacement, and whether they count (S, N, m)."""
        rows, seen, window = agent.extra["context"].flatten(2, 3), agent.extra["seen"], self.context_window
        size, streams = (rows.shape[1], self.context_batch), agent.generators["learner"]
        uniform = [torch.rand(size, dtype=torch.float64, generator=g, device=g.device) for g in streams]
        drawn_at = torch.stack(uniform) * agent.envs  # one number draws the environment and, by its fraction, the row
        env = drawn_at.long()
        seen = seen.gather(2, env)
        at = env * window + ((drawn_at - env) * seen.clamp(max=window)).long()
        return torch.take_along_dim(rows, at.unsqueeze(-1), 2), seen > 0

    def _infer(self, agent: Agent, rows: Tensor, counted: Tensor, encoder: Tensor) -> tuple[Tensor, Tensor]:
        factors = fused(self._encoder(agent), encoder.squeeze(1), rows.flatten(1, -2))
        return posterior(factors.view(*rows.shape[:-1], -1), counted)


@options
class Inference(Pearl):
    """Meta-test as described above, n = `explorations`; "episodes" (S, N, E) in `agent.extra` counts what has ended."""

    by_mode = True
    one_phase = False

    explorations: Count = 2  # n, episodes of exploration; 5 on point-robot

    def on(self, family: TaskFamily) -> "Inference":
        """With the family's n, and room for all that it explores."""
        n = 5 if family.name == "point-robot" else self.explorations
        return replace(self, explorations=n, context_window=n * family.horizon)

    def start(self, agent: Agent, tasks: int) -> None:
        super().start(agent, tasks)
        agent.extra["episodes"] = torch.zeros_like(agent.extra["explores"])

    def turn(self, agent: Agent, finished: Tensor) -> Tensor:
        agent.extra["episodes"] += finished
        return (agent.extra["episodes"] < self.explorations).float()

    def update(self, agent: Agent, batch: Batch) -> dict[str, Tensor]:
        agent.updates += 1
        return {}


class TunedInference(Inference):
    """The same, while SAC trains every task's own copy of actor and critics on the z of its context."""

    by_mode = False
    one_policy = False

    @torch.no_grad()
    def update(self, agent: Agent, batch: Batch) -> dict[str, Tensor]:
        mean, variance = self._infer(agent, *self._draw(agent), agent.extra["encoder"])
        z = mean + variance.sqrt() * agent.noise(*mean.shape[1:])
        return sac_update(agent, widened(batch, lambda x: appended(x, z.unsqueeze(2))))
