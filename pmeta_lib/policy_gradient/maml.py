"""MAML by policy gradients (Finn et al., ICML 2017): TRPO on the return after inner steps on sampled episodes.

The outer gradient goes through the inner steps with the sampling of their episodes included (`dice`), which the
authors' first code dropped. The outer step is TRPO, as theirs: natural gradient in the Fisher information of the
adapted policies (the curvature of the inner step enters the gradient, not the metric, which decides about the
direction's length alone), then a line search that holds the adapted policies' divergence.

Two controls take that outer step on returns before any inner step: one shares nothing, the other everything."""

import torch
from torch import Tensor

from pmeta_lib.policy_gradient.learner import Gaussian, OnPolicy, dice, gaussian, grouped, low_variance, spread
from pmeta_lib.policy_gradient.outer import trust_region_step
from pmeta_lib.policy_gradient.rollout import Window


class TrustRegion(OnPolicy):
    """One TRPO step on what the policies gain after `phases() - 1` inner steps (0: on their own return)."""

    def update(self, run, theta: Tensor, windows: list[Window]) -> tuple[Tensor, dict[str, Tensor]]:
        *inner, post = windows
        groups, shape, tasks = theta.shape[:2], run.shape, run.sampler.tasks

        def scored(x: Tensor, graph: bool = False) -> tuple[Tensor, Tensor, Tensor]:
            """The adapted policies, what they gain, and how far they are from those that acted, (S, G) each."""
            rows = self.adapted(shape, spread(x, tasks), inner, graph)[-1]
            policy = gaussian(shape, rows, post.observation)
            gain, apart = low_variance(policy.log_prob(post.action), post), post.policy.kl(policy)
            return rows, grouped(gain.mean((1, 2)), groups), grouped(apart.mean((1, 2)), groups)

        theta = theta.detach().requires_grad_()
        rows, gain, _ = scored(theta, graph=True)
        (gradient,) = torch.autograd.grad(gain.sum(), theta)
        rows = rows.detach().requires_grad_()
        policy = gaussian(shape, rows, post.observation[:, :, ::5])
        apart = Gaussian(*(x.detach() for x in policy)).kl(policy).mean((1, 2)).sum()
        (slope,) = torch.autograd.grad(apart, rows, create_graph=True)

        def fisher(v: Tensor) -> Tensor:
            """The Fisher information of `rows` times v (S, G, P), mean over a policy's tasks, every fifth step."""
            (out,) = torch.autograd.grad(slope, rows, spread(v, tasks), retain_graph=True)
            return grouped(out, groups) + 1e-2 * v

        return trust_region_step(theta.detach(), gradient, fisher, lambda x: scored(x)[1:], self.kl_limit)


class MAML(TrustRegion):
    """See the module; `inner_steps` steps of size `inner_step_size`, each on `episodes` episodes a task."""

    name = "pg-maml"
    surrogate = staticmethod(dice)


class Independent(TrustRegion):
    """A policy for each task, by its own return. It brings nothing along to a new task and takes no inner steps."""

    name = "pg-independent"
    one_policy = False
    training_steps = False


class Joint(TrustRegion):
    """One policy for all tasks, by their mean return. Inner steps at meta-test only: policy-gradient fine-tuning."""

    name = "pg-joint"
    training_steps = False
