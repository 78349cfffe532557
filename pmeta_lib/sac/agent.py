"""A stacked SAC agent: its tensors, its streams of randomness, and how it acts.

Shapes: S seeds, N tasks, G policies a seed (N, or 1 where all tasks share one), B = S G slots, n transitions a task, M
= n N / G transitions a slot, o observation, a action, P and Q parameters of an actor and a critic."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.optim.adam import adam

from pmeta_lib.files import UserError
from pmeta_lib.sac.networks import Layers, Shape, forward, gaussian, initialize

# Independent streams of one root seed. The environments' slots spawn theirs below ENVIRONMENTS, EVALUATION.
STREAMS = ("environments", "tasks", "networks", "replay", "noise", "evaluation", "learner")


def seed_sequence(seed: int, stream: str, *more: int) -> np.random.SeedSequence:
    """The stream's own branch of the root seed's tree; `more` names branches below (a slot, a step)."""
    return np.random.SeedSequence(seed, spawn_key=(STREAMS.index(stream), *more))


def children(seeds: list[int], count: int, stream: str, *more: int) -> list[np.random.SeedSequence]:
    """`count` branches below the stream's own for each of `seeds`, for an environment's slots; `UserError` for equal
    seeds, since what is stacked is to be independent."""
    if not len(seeds) or len(set(seeds)) != len(seeds):
        raise UserError(f"seeds are {list(seeds)}; give one or more different ones")
    return [child for seed in seeds for child in seed_sequence(seed, stream, *more).spawn(count)]


def generator(seed: int, stream: str, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator for one stream of one root seed."""
    state = seed_sequence(seed, stream).generate_state(2, np.uint32)
    return torch.Generator(device).manual_seed(int(state[0]) << 31 ^ int(state[1]))


@dataclass
class Adam:
    """PyTorch's fused Adam on one flat tensor: all slots in one kernel, its state in plain tensors."""

    parameters: Tensor
    learning_rate: float | Tensor  # a tensor on the device, where a captured graph must see it change

    def __post_init__(self):
        self.first, self.second = torch.zeros_like(self.parameters), torch.zeros_like(self.parameters)
        self.steps = torch.zeros((), device=self.parameters.device)
        if self.parameters.is_cuda:
            self.learning_rate = torch.tensor(float(self.learning_rate), device=self.parameters.device)

    def step(self, gradient: Tensor) -> None:
        adam([self.parameters], [gradient.view_as(self.parameters)], [self.first], [self.second], [], [self.steps],
             fused=True, amsgrad=False, beta1=0.9, beta2=0.999, lr=self.learning_rate, weight_decay=0.0, eps=1e-8,
             maximize=False)  # fmt: skip


class Agent:
    """All that learns. All policies of a seed start equal (as the algorithm's `theta_i = theta`), seeds differ.

    `envs` is E, environments a task; `target_entropy` is -a if not given; an update's hidden layers multiply in
    `product_type`. `extra` holds what a learner adds (a meta-policy, an encoder …)."""

    def __init__(
        self, seeds: list[int], policies: int, observation_size: int, action_size: int, *, hidden: tuple[int, ...],
        learning_rate: float, discount: float, polyak: float, initial_temperature: float = 1.0,
        target_entropy: float | None = None, envs: int = 1, product_type: torch.dtype = torch.float32,
        device: str = "cpu",
    ):  # fmt: skip
        self.discount, self.polyak, self.envs, self.product_type = discount, polyak, envs, product_type
        self.slots = len(seeds) * policies
        self.target_entropy = -float(action_size) if target_entropy is None else target_entropy
        self.actor_shape = Shape((observation_size, *hidden, 2 * action_size))
        self.critic_shape = Shape((observation_size + action_size, *hidden, 1))
        fresh = [generator(s, "networks") for s in seeds]
        actor = torch.stack([initialize(self.actor_shape, 1, g) for g in fresh])
        critic = torch.stack([initialize(self.critic_shape, 2, g) for g in fresh]).unsqueeze(1)
        self.actor = actor.repeat(1, policies, 1).to(device)  # (S, G, P)
        self.critic = critic.repeat(1, policies, 1, 1).to(device)  # (S, G, 2, Q)
        self.target = self.critic.clone()
        self.log_alpha = torch.full((len(seeds), policies), float(np.log(initial_temperature)), device=device)
        self.extra: dict[str, Tensor] = {}
        self.optimizers = {name: Adam(getattr(self, name), learning_rate) for name in ("actor", "critic", "log_alpha")}
        self.generators = {s: [generator(seed, s, device) for seed in seeds] for s in ("replay", "noise", "learner")}
        self.updates = 0
        self.layers: dict[str, Layers] = {}  # views of actor, critic, target, which change in place
        self.gradients = {}  # where an update writes them, and views
        self.shadows = {}  # pairs of hidden parameters and their copies in the products' type
        for name, shape in (("actor", self.actor_shape), ("critic", self.critic_shape), ("target", self.critic_shape)):
            flat = getattr(self, name).view(-1, shape.size)
            self.layers[name] = shape.layers(flat)
            if name in self.optimizers:
                gradient = torch.zeros_like(flat)
                self.gradients[name] = gradient, shape.layers(gradient)
            if product_type != torch.float32:
                *float32, head = self.layers[name]
                copies = [(w.to(product_type).contiguous(), b.to(product_type).contiguous()) for w, b in float32]
                self.shadows[name] = [pair for layers in zip(float32, copies) for pair in zip(*layers)]
                self.layers[name] = [*copies, head]

    def tensors(self) -> dict[str, Tensor]:
        """All that learning changes in place, by the names of checkpoints."""
        own = {name: getattr(self, name) for name in ("actor", "critic", "target", "log_alpha")}
        own |= {f"extra.{name}": x for name, x in self.extra.items()}
        keys = ("first", "second", "steps")
        return own | {f"adam.{n}.{key}": getattr(adam, key) for n, adam in self.optimizers.items() for key in keys}

    def cast(self, *names: str) -> None:
        """Let the hidden layers' copies follow the parameters `names`, which have changed; none exist in float32."""
        for name in names:
            for parameters, copy in self.shadows.get(name, ()):
                copy.copy_(parameters)

    def noise(self, *shape: int) -> Tensor:
        """Standard normal (S, *shape), every seed from its own generator."""
        return torch.stack([torch.randn(shape, generator=g, device=g.device) for g in self.generators["noise"]])


new_agent = Agent  # the same, by a verb


@torch.no_grad()
def act(shape: Shape, actor: Tensor, observation: Tensor, noise: Tensor | None = None) -> Tensor:
    """Actions (S, N, …, a) in (-1, 1) of `actor (S, G, P)` at `observation (S, N, …, o)`; the mode without `noise`."""
    x = observation.reshape(actor.shape[0] * actor.shape[1], -1, observation.shape[-1])
    mean, log_std = gaussian(forward(shape, actor.reshape(-1, shape.size), x))
    action = torch.tanh(mean if noise is None else mean + log_std.exp() * noise.reshape(mean.shape))
    return action.view(*observation.shape[:-1], -1)
