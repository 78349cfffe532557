"""ProMP (Rothfuss et al., ICLR 2019): the low-variance curvature estimator, and PPO on the return after inner steps.

The outer objective is PPO's clipped one for the adapted policies, minus a weight times the divergence of the policies
that acted before adapting (`penalised_step`)."""

import torch
from torch import Tensor

from pmeta_lib.options import Count, Positive, options
from pmeta_lib.policy_gradient.learner import OnPolicy, gaussian, grouped, low_variance, spread
from pmeta_lib.policy_gradient.outer import clipped, new_state, penalised_step
from pmeta_lib.policy_gradient.rollout import Window


@options
class ProMP(OnPolicy):
    """`epochs` steps of Adam an iteration; `kl_limit` is the target of the divergence before adaptation."""

    name = "promp"
    surrogate = staticmethod(low_variance)

    inner_steps: Count = 1  # policy-gradient steps from the meta-policy to a task's own
    epochs: Count = 5  # steps of Adam an iteration
    clip: Positive = 0.3  # how far a likelihood ratio may move

    def state(self, policies: Tensor) -> dict[str, Tensor]:
        return new_state(policies, weight=5e-4)

    def update(self, run, theta: Tensor, windows: list[Window]) -> tuple[Tensor, dict[str, Tensor]]:
        *inner, post = windows
        groups, shape, tasks = theta.shape[:2], run.shape, run.sampler.tasks

        def moved(rows: list[Tensor]) -> Tensor:
            apart = [w.policy.kl(gaussian(shape, r, w.observation)).mean((1, 2)) for r, w in zip(rows, inner)]
            return grouped(torch.stack(apart).mean(0), groups)

        def objective(x: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
            rows = self.adapted(shape, spread(x, tasks), inner, graph=True)
            ratio = torch.exp(gaussian(shape, rows[-1], post.observation).log_prob(post.action) - post.log_prob)
            gain = grouped(clipped(ratio, post.advantage, self.clip).mean((1, 2)), groups)
            return gain, gain - run.state["weight"] * moved(rows[:-1])

        apart = lambda x: moved(self.adapted(shape, spread(x, tasks), inner[:-1]))  # noqa: E731
        return penalised_step(run, objective, range(self.epochs), apart, self.kl_limit)
