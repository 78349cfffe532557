"""CUDA graphs: the update recorded once and replayed, because small networks leave a GPU waiting for Python.

What a graph reads must stay where it is: parameters, moments, replay and counters are tensors changed in place, and the
learning rate is one too. Random numbers stay fresh because each generator is registered with the graph."""

import itertools
import warnings
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor


def use_tensor_cores() -> None:
    """Let a GPU's matrix products of float32 round their factors to TF32 (10 bits): about 1.5 times faster here, and
    noise far below that of sampled batches. The CPU computes as before."""
    products = torch.backends.cuda.matmul
    if hasattr(products, "fp32_precision"):
        products.fp32_precision = "tf32"
    else:  # PyTorch before 2.9
        products.allow_tf32 = True


class Graphed:
    """`update(run)` with one graph for each of the learner's phases; eager while warming up, and where it has none. The
    returned losses are overwritten by the next update of the same phase."""

    WARM_UP = 3  # eager updates of a phase before it is recorded: libraries allocate their workspaces then

    def __init__(self, update: Callable[..., dict[str, Tensor]]):
        self.update, self.stream = update, torch.cuda.Stream()
        self.graphs, self.seen = {}, Counter()  # by phase

    def __call__(self, run) -> dict[str, Tensor]:
        phase = run.learner.phase(run.agent.updates)
        if phase is None:
            return self.update(run)
        if self.seen[phase] < self.WARM_UP:  # on the stream that graphs are recorded on, as PyTorch's notes ask
            self.seen[phase] += 1
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                losses = self.update(run)
            torch.cuda.current_stream().wait_stream(self.stream)
            return losses
        if phase in self.graphs:
            graph, losses = self.graphs[phase]
            run.agent.updates += 1
        else:
            graph = torch.cuda.CUDAGraph()
            with warnings.catch_warnings(action="ignore"):  # newer PyTorch registers by itself and says so
                for g in itertools.chain(*run.agent.generators.values()):
                    graph.register_generator_state(g)
            with torch.cuda.graph(graph, stream=self.stream):  # nothing is executed yet, but Python counts the update
                losses = self.update(run)
            self.graphs[phase] = graph, losses
        graph.replay()
        return losses
