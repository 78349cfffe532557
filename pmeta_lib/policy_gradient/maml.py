"""MAML by policy gradients (Finn et al., ICML 2017): TRPO on the return after inner steps on sampled episodes.

The outer gradient goes through the inner steps with the sampling of their episodes included (`dice`), which the
authors' first code dropped. The outer step is TRPO, as theirs: natural gradient in the Fisher information of the
adapted policies (the curvature of the inner step enters the gradient, not the metric, which decides about the
direction's length alone), then a line search that holds the adapted policies' divergence.
"""

from typing import ClassVar

import torch
from torch import Tensor

from pmeta_lib.options import options
from pmeta_lib.policy_gradient.learner import OnPolicy, adapted, dice, grouped, log_probability, spread
from pmeta_lib.policy_gradient.outer import trust_region_step
from pmeta_lib.policy_gradient.policy import gaussian
from pmeta_lib.policy_gradient.rollout import Window


@options
class TrustRegion(OnPolicy):
    """One TRPO step on what the policies gain after `phases() - 1` inner steps (0: on their own return)."""

    def update(self, run, theta: Tensor, windows: list[Window]) -> tuple[Tensor, dict[str, Tensor]]:
        *inner, post = windows
        groups, shape = theta.shape[:2], run.shape

        def after(x: Tensor, graph: bool = False):
            rows = adapted(spread(x, run.tasks), inner, log_probability(shape), self.surrogate, self.inner_step_size,
                           graph=graph)[-1]  # fmt: skip
            return rows, gaussian(shape, rows, post.observation)

        def gain(policy) -> Tensor:
            ratio = torch.exp(policy.log_prob(post.action) - post.log_prob)
            return grouped((ratio * post.advantage).mean((1, 2)), groups)

        theta = theta.detach().requires_grad_()
        rows, policy = after(theta, graph=True)
        (gradient,) = torch.autograd.grad(gain(policy).sum(), theta)
        moved = lambda policy: grouped(post.policy.kl(policy).mean((1, 2)), groups)  # noqa: E731
        with torch.no_grad():
            new = trust_region_step(
                theta.detach(), gradient, self.fisher(shape, rows, post, groups), lambda x: gain(after(x)[1]),
                lambda x: moved(after(x)[1]), self.kl_limit,
            )  # fmt: skip
            policy = after(new)[1]
        return new, {"objective": gain(policy).detach(), "kl": moved(policy).detach()}


@options
class MAML(TrustRegion):
    """See the module; `inner_steps` steps of size `inner_step_size`, each on `episodes` episodes a task."""

    name: ClassVar[str] = "pg-maml"
    surrogate = staticmethod(dice)
