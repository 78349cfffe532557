"""Stacked networks: B perceptrons of one shape in one flat tensor (B, P), evaluated together.

Shapes: B slots (seeds x policies), n rows a slot, i inputs, o outputs, a action dimensions. A slot's parameters are one
row of the flat tensor, so that whatever mixes policies (a proximal term, a mean over tasks, a gradient projection, an
optimizer) is one line of arithmetic on rows."""

import functools
import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from pmeta_lib.files import UserError

threshold_backward = torch.ops.aten.threshold_backward  # ReLU's: the gradient where the activation is above 0
LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
Layers = list[tuple[Tensor, Tensor]]  # (W (B, i, o), b (B, 1, o)) of every layer, views of one flat tensor


def hidden_type(precision: str, device: str | torch.device) -> torch.dtype:
    """The type of the hidden layers' products; "auto" is bfloat16 where the processor multiplies it fast. Raises
    `UserError` for "bfloat16" where it does not: emulated, it would be several times slower than float32."""
    if torch.device(device).type == "cuda":
        fast, wanted = torch.cuda.get_device_capability(device) >= (8, 0), "a GPU from Ampere on"
    else:
        can = getattr(torch.cpu, "get_capabilities", dict)()
        fast, wanted = can.get("avx512_bf16") or can.get("amx_bf16"), "a processor with AVX512-BF16 or AMX"
    if not fast and precision == "bfloat16":
        raise UserError(f'setting precision is "bfloat16", which needs {wanted}; use "float32", another run')
    return torch.bfloat16 if fast and precision != "float32" else torch.float32


class Shape(NamedTuple):
    """A perceptron's layer sizes: `widths = (inputs, hidden..., outputs)`, ReLU between layers."""

    widths: tuple[int, ...]

    @property
    def size(self) -> int:
        """P, the length of a slot's row (weights, biases and alignment padding, which stays zero)."""
        return sum(_padded(i * o) + _padded(o) for i, o in pairwise(self.widths))

    def layers(self, flat: Tensor) -> Layers:
        """Views `(W (B, i, o), b (B, 1, o))` of every layer of `flat (B, P)`."""
        views, at = [], 0
        for i, o in pairwise(self.widths):
            bias = at + _padded(i * o)
            views.append((flat[:, at : at + i * o].view(-1, i, o), flat[:, bias : bias + o].view(-1, 1, o)))
            at = bias + _padded(o)
        return views


def _padded(n: int) -> int:
    return -(-n // 16) * 16  # floats: every weight matrix starts on a 64-byte boundary, which the matrix products like


def initialize(shape: Shape, slots: int, generator: torch.Generator) -> Tensor:
    """(B, P) on the generator's device: U(-1/sqrt(i), 1/sqrt(i)) for weights and biases, PyTorch's own default."""
    flat = torch.zeros(slots, shape.size, device=generator.device)
    for weight, bias in shape.layers(flat):
        bound = 1.0 / math.sqrt(weight.shape[1])
        for view in (weight, bias):
            view.copy_(torch.empty(view.shape, device=flat.device).uniform_(-bound, bound, generator=generator))
    return flat


def forward(shape: Shape, flat: Tensor, x: Tensor, activation: Callable[[Tensor], Tensor] = torch.relu) -> Tensor:
    """`x (B, n, i)` -> (B, n, o) by plain differentiable operations: readable, twice differentiable."""
    *hidden, (weight, bias) = shape.layers(flat)
    for w, b in hidden:
        x = activation(torch.baddbmm(b, x, w))
    return torch.baddbmm(bias, x, weight)


def hidden_layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """ReLU of `x (B, n, i)` times `weight (B, i, o)` plus `bias (B, 1, o)`; on a GPU, bias and ReLU in one pass."""
    if not x.is_cuda and x.dtype == torch.bfloat16:  # faster apart, and so is ReLU on the bits
        out = (x @ weight).add_(bias)
        _bits(out).clamp_min_(0)
        return out
    if not x.is_cuda:
        return torch.baddbmm(bias, x, weight).relu_()
    if odd := -x.shape[2] % (16 // x.element_size()):  # tensor cores want whole 16 bytes; zeros cost less than without
        x, weight = torch.nn.functional.pad(x, (0, odd)), torch.nn.functional.pad(weight, (0, 0, 0, odd))
    return _kernel("bias_relu", "T x, T b", "x + b > T(0) ? x + b : T(0)")(x @ weight, bias)


def _bits(x: Tensor) -> Tensor:
    """Where x is bfloat16, its bits as whole numbers, which a processor compares with 0 five times as fast: they are
    below it where x is. (NaN that arithmetic makes counts as below; the products before and behind show it.)"""
    return x.view(torch.int16) if x.dtype == torch.bfloat16 else x


@functools.cache
def _kernel(name: str, arguments: str, value: str):
    """An elementwise GPU kernel from a line of C++, which PyTorch compiles: one pass over memory, not two or three."""
    return torch.cuda.jiterator._create_jit_fn(f"template <typename T> T {name}({arguments}) {{ return {value}; }}")


def forward_saved(layers: Layers, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """`forward` and every layer's input, which `backward` needs; no autograd graph, ReLU in place. A layer computes in
    its weights' type: bfloat16 hidden layers, say, under a float32 head."""
    *hidden, (weight, bias) = layers
    inputs = [x.to(layers[0][0].dtype)]
    for w, b in hidden:
        inputs.append(hidden_layer(inputs[-1], w, b))
    # a product with few columns leaves the multiplier idle; its transpose, with few rows, is up to twice as fast
    return torch.baddbmm(bias.mT, weight.mT, inputs[-1].to(weight.dtype).mT).mT, inputs


def backward(
    layers: Layers, inputs: list[Tensor], grad: Tensor, into: Layers | None = None, columns: slice | None = None
) -> Tensor | None:
    """From a loss's gradient `grad (B, n, o)` at the output: parameters' gradients, written over the views `into`, and
    the gradient (B, n, ·) at the input's `columns`, which is returned. What is not asked for is not computed. By hand,
    because autograd over views of one flat tensor costs several times the arithmetic."""
    asked, scale = grad.dtype, None
    for k in range(len(layers) - 1, -1, -1):
        weight, entered = layers[k][0], inputs[k]
        if into is not None:
            to_weight, to_bias = into[k]
            x = entered.to(grad.dtype)
            to_bias.copy_(grad.sum(1, keepdim=True))  # in bfloat16, too, sums and products add up in float32
            if grad.is_cuda and grad.dtype == to_weight.dtype:
                torch.bmm(x.mT, grad, out=to_weight)
            # on a CPU, products straight into the strided views would fall back to one call a slot: copy instead
            elif grad.shape[2] < x.shape[2]:
                to_weight.copy_((grad.mT @ x).mT)
            else:
                to_weight.copy_(x.mT @ grad)
        if k == 0:
            break
        narrow = grad.shape[2] == 1
        if narrow:
            row, column = weight.mT.to(entered.dtype), grad.to(entered.dtype)
        if narrow and grad.is_cuda:
            grad = _kernel("where_active", "T w, T g, T x", "x > T(0) ? w * g : T(0)")(row, column, entered)
        elif narrow and entered.dtype != torch.bfloat16:
            grad = threshold_backward(row.expand_as(entered), entered, 0.0).mul_(column)
        elif narrow and into is None and k == len(layers) - 1:  # every row's factor can wait until the rows are short
            scale, grad = grad, threshold_backward(_bits(row).expand_as(entered), _bits(entered), 0).view(row.dtype)
        else:
            grad = column @ row if narrow else (grad @ weight.mT).to(entered.dtype)
            bits = _bits(grad)
            threshold_backward.grad_input(bits, _bits(entered), 0, grad_input=bits)
    if columns is None:
        return None
    of_input = (layers[0][0][:, columns] @ grad.mT).mT.to(asked)
    return of_input if scale is None else of_input.mul_(scale)


class _Fused(torch.autograd.Function):
    """`forward`, same numbers to rounding, several times faster to differentiate; first derivatives only."""

    @staticmethod
    def forward(ctx, shape: Shape, flat: Tensor, x: Tensor) -> Tensor:
        out, inputs = forward_saved(shape.layers(flat), x)
        ctx.save_for_backward(flat, *inputs)
        ctx.shape = shape
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        flat, *inputs = ctx.saved_tensors
        _, needs_flat, needs_x = ctx.needs_input_grad
        grad_flat = torch.zeros_like(flat) if needs_flat else None
        into = ctx.shape.layers(grad_flat) if needs_flat else None
        return None, grad_flat, backward(ctx.shape.layers(flat), inputs, grad, into, slice(None) if needs_x else None)


fused = _Fused.apply


def fold(shape: Shape, flat: Tensor, at: int, context: Tensor) -> Tensor:
    """Perceptrons (S, N, P) that ignore the inputs from column `at` on, because they have `context (S, N, k)` there:
    `flat (S, G, P)`, G = 1 or N, sees k such inputs; held constant, they are part of the first layer's bias."""
    folded = flat.expand(-1, context.shape[1], -1).clone()
    weight, bias = shape.layers(folded.flatten(0, 1))[0]
    columns = weight[:, at : at + context.shape[2]]
    bias += context.reshape(-1, 1, context.shape[2]) @ columns
    columns.zero_()
    return folded


def gaussian(head: Tensor) -> tuple[Tensor, Tensor]:
    """Split an actor's output (B, n, 2a) into the mean and the log standard deviation, clamped."""
    mean, log_std = head.chunk(2, dim=-1)
    return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)


def squash(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Action `tanh(mean + std * noise)` (B, n, a) in (-1, 1) and its log density (B, n), as in SAC (Haarnoja et al.
    2018, arXiv 1812.05905, appendix C), with `log(1 - tanh(u)^2) = 2 (log 2 + u - softplus(2u))`, which does not lose
    all digits where tanh saturates. Few operations: on small tensors each costs more than its arithmetic."""
    u = torch.addcmul(mean, log_std.exp(), noise)
    density = torch.addcmul(log_std, noise, noise, value=0.5)  # minus the log density, up to a constant
    density = density.add(u, alpha=2.0).sub(torch.nn.functional.softplus(u, beta=2), alpha=4.0)
    constant = mean.shape[-1] * (0.5 * math.log(2 * math.pi) + 2 * math.log(2.0))
    return torch.tanh(u), torch.rsub(density.sum(-1), -constant)
