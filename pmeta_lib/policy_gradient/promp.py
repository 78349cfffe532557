"""ProMP (Rothfuss et al., ICLR 2019): the low-variance curvature estimator, and PPO on the return after inner steps.

The outer objective is PPO's clipped one for the adapted policies, minus a weight times the divergence of the policies
that acted before adapting; the weight follows that divergence (`adapted_weight`), and a step that ends beyond twice
the target is drawn back.
"""

from typing import ClassVar

import torch
from torch import Tensor

from pmeta_lib.options import Count, Positive, options
from pmeta_lib.policy_gradient.learner import OnPolicy, adapted, grouped, log_probability, low_variance, spread
from pmeta_lib.policy_gradient.outer import adapted_weight, clipped, within
from pmeta_lib.policy_gradient.policy import gaussian
from pmeta_lib.policy_gradient.rollout import Window
from pmeta_lib.sac.agent import Adam


@options
class ProMP(OnPolicy):
    """`epochs` steps of Adam an iteration; `kl_limit` is the target of the divergence before adaptation."""

    name: ClassVar[str] = "promp"
    surrogate = staticmethod(low_variance)

    inner_steps: Count = 1  # policy-gradient steps from the meta-policy to a task's own
    epochs: Count = 5  # steps of Adam an iteration
    clip: Positive = 0.3  # how far a likelihood ratio may move

    def state(self, policies: Tensor) -> dict[str, Tensor]:
        return {"policy": policies, **fresh_adam(policies), "weight": torch.full(policies.shape[:2], 5e-4)}

    def update(self, run, theta: Tensor, windows: list[Window]) -> tuple[Tensor, dict[str, Tensor]]:
        *inner, post = windows
        groups, shape, state = theta.shape[:2], run.shape, run.state
        new = theta.detach().clone()
        optimizer = adam(new, run.settings.learning_rate, state)

        def moved(rows: list[Tensor]) -> Tensor:
            apart = [w.policy.kl(gaussian(shape, r, w.observation)).mean((1, 2)) for r, w in zip(rows, inner)]
            return grouped(torch.stack(apart).mean(0), groups)

        def path(x: Tensor, windows: list[Window], graph: bool) -> list[Tensor]:
            return adapted(spread(x, run.tasks), windows, log_probability(shape), self.surrogate,
                           self.inner_step_size, graph=graph)  # fmt: skip

        for _ in range(self.epochs):
            x = new.detach().requires_grad_()
            rows = path(x, inner, graph=True)
            ratio = torch.exp(gaussian(shape, rows[-1], post.observation).log_prob(post.action) - post.log_prob)
            gain = grouped(clipped(ratio, post.advantage, self.clip).mean((1, 2)), groups)
            (gradient,) = torch.autograd.grad((gain - state["weight"] * moved(rows[:-1])).sum(), x)
            optimizer.step(-gradient)
        with torch.no_grad():
            apart = lambda x: moved(path(x, inner[:-1], graph=False))  # noqa: E731
            new = within(theta.detach(), new, lambda x: apart(x) <= 2.0 * self.kl_limit)
            kl = apart(new)
        state["weight"] = adapted_weight(state["weight"], kl, self.kl_limit)
        return new, {"objective": gain.detach(), "kl": kl}


def adam(parameters: Tensor, learning_rate: float, state: dict[str, Tensor]) -> Adam:
    """Adam on `parameters` whose moments are those in `state`, which it changes in place."""
    optimizer = Adam(parameters, learning_rate)
    optimizer.first, optimizer.second, optimizer.steps = (state[f"adam.{k}"] for k in ("first", "second", "steps"))
    return optimizer


def fresh_adam(parameters: Tensor) -> dict[str, Tensor]:
    """The state of Adam before its first step."""
    return {"adam.steps": torch.zeros(()), **{f"adam.{k}": torch.zeros_like(parameters) for k in ("first", "second")}}
