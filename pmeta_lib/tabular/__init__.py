"""Finite MDPs: exact, stacked over tasks. Shapes: N tasks, S states, A actions; NumPy float64 throughout."""

from pmeta_lib.tabular.algorithm import pmeta
from pmeta_lib.tabular.learners import adapt, fomaml, independent, joint, maml, maml_gradients, pcgrad, reptile
from pmeta_lib.tabular.loop import Diverged, History
from pmeta_lib.tabular.mdp import TaskBatch, optimal_policies, optimal_values
from pmeta_lib.tabular.policies import evaluate, hessian_vector_products, policy_gradients, softmax, values
from pmeta_lib.tabular.proximal import envelope, envelope_gradients, prox
from pmeta_lib.tabular.sampling import sample, sampled
from pmeta_lib.tabular.scores import conflict_rate, gradient_cosines, normalised_returns, project_conflicts

LEARNERS = {f.__name__: f for f in (pmeta, independent, joint, maml, fomaml, reptile, pcgrad)}

__all__ = [
    "LEARNERS", "Diverged", "History", "TaskBatch", "adapt", "conflict_rate", "envelope",
    "envelope_gradients", "evaluate", "fomaml", "gradient_cosines", "hessian_vector_products", "independent", "joint",
    "maml", "maml_gradients", "normalised_returns", "optimal_policies", "optimal_values", "pcgrad", "pmeta",
    "policy_gradients", "project_conflicts", "prox", "reptile", "sample", "sampled", "softmax", "values",
]  # fmt: skip
