"""Stacked perceptrons against torch.nn, and the squashed Gaussian against numerical integration."""

import math

import numpy as np
import pytest
import torch
from plain_sac import as_module

from pmeta_lib.files import UserError
from pmeta_lib.sac.networks import Shape, backward, forward, forward_saved, fused, hidden_type, initialize, squash

SHAPES = [(3, 8, 8, 1), (5, 16, 4), (4, 7, 9, 11, 2), (23, 32, 32, 12), (2, 3)]


def stacked(widths, slots=4, dtype=torch.float64):
    flat = torch.stack([initialize(Shape(widths), 1, torch.Generator().manual_seed(k))[0] for k in range(slots)]).to(
        dtype
    )
    return Shape(widths), flat


@pytest.mark.parametrize("widths", SHAPES)
def test_every_slot_is_a_plain_perceptron(widths):
    shape, flat = stacked(widths)
    x = torch.randn(4, 6, widths[0], dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    out = forward(shape, flat, x)
    for b in range(4):
        torch.testing.assert_close(out[b], as_module(shape, flat[b])(x[b]).detach(), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(forward_saved(shape.layers(flat), x)[0], out, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("widths", SHAPES)
def test_backward_by_hand_equals_autograd(widths):
    shape, flat = stacked(widths)
    x = torch.randn(4, 6, widths[0], dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    gradient = torch.randn(4, 6, widths[-1], dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    flat.requires_grad_()
    x.requires_grad_()
    want_flat, want_x = torch.autograd.grad((forward(shape, flat, x) * gradient).sum(), (flat, x))
    got_flat, got_x = torch.autograd.grad((fused(shape, flat, x) * gradient).sum(), (flat, x))
    torch.testing.assert_close(got_flat, want_flat, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(got_x, want_x, rtol=1e-11, atol=1e-12)
    with torch.no_grad():
        layers = shape.layers(flat)
        _, saved = forward_saved(layers, x)
        last = backward(layers, saved, gradient, columns=slice(widths[0] - 1, None))
    torch.testing.assert_close(last, want_x[..., -1:], rtol=1e-11, atol=1e-12)


def without_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)


def test_the_products_type_is_what_the_processor_has(monkeypatch):
    assert hidden_type("float32", "cpu") == torch.float32
    for name in ("avx512_bf16", "amx_bf16"):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda name=name: {name: True}, raising=False)
        assert hidden_type("auto", "cpu") == hidden_type("bfloat16", "cpu") == torch.bfloat16
    without_bfloat16(monkeypatch)
    assert hidden_type("auto", "cpu") == torch.float32
    with pytest.raises(UserError, match="needs a processor with AVX512-BF16 or AMX") as error:
        hidden_type("bfloat16", "cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("outputs", [1, 12])
def test_bfloat16_layers_round_their_factors_and_nothing_else(outputs):
    """Against plain arithmetic in float64 on weights, inputs and activations that are rounded where the layers do."""
    shape, flat = stacked((23, 64, 48, outputs), dtype=torch.float32)
    g = torch.Generator().manual_seed(2)
    x, grad = torch.randn(4, 200, 23, generator=g), torch.randn(4, 200, outputs, generator=g)
    *hidden, head = shape.layers(flat)
    layers = [*(tuple(t.bfloat16() for t in layer) for layer in hidden), head]
    gradient = torch.zeros_like(flat)
    out, saved = forward_saved(layers, x)
    of_input = backward(layers, saved, grad, shape.layers(gradient), slice(None))
    assert out.dtype == of_input.dtype == torch.float32 and [t.dtype for t in saved] == [torch.bfloat16] * 3

    def rounded(t):
        return t.bfloat16().double()

    def close(got, want):  # a result is rounded to 8 bits once more
        assert (got.double() - want).norm() < 6e-3 * want.norm()

    (w1, b1), (w2, b2), (w3, b3) = [*((rounded(w), rounded(b)) for w, b in hidden), tuple(t.double() for t in head)]
    h1 = rounded((rounded(x) @ w1 + b1).relu())
    h2 = rounded((h1 @ w2 + b2).relu())
    close(saved[1], h1)
    close(saved[2], h2)
    h1, h2 = saved[1].double(), saved[2].double()  # lest an activation whose rounding is 0 here is none there
    back2 = rounded(grad.double() @ w3.mT) * (h2 > 0)
    back1 = rounded(back2 @ w2.mT) * (h1 > 0)
    want = [(rounded(x).mT @ back1, back1), (h1.mT @ back2, back2), (h2.mT @ grad.double(), grad.double())]
    close(out, h2 @ w3 + b3)
    close(of_input, back1 @ w1.mT)
    close(backward(layers, saved, grad, columns=slice(17, 23)), (back1 @ w1.mT)[..., 17:])  # the input's alone
    for (to_w, to_b), (of_w, of_b) in zip(shape.layers(gradient), want, strict=True):
        close(to_w, of_w)
        close(to_b, of_b.sum(1, keepdim=True))


def test_rows_are_initialised_like_torch_and_padding_is_zero():
    shape = Shape((50, 40, 3))
    flat = initialize(shape, 30, torch.Generator().manual_seed(0))
    used = 0
    for w, b in shape.layers(flat):
        bound = 1 / math.sqrt(w.shape[1])
        for view in (w, b):
            assert view.abs().max() <= bound and view.abs().max() > 0.95 * bound and abs(view.mean()) < 0.1 * bound
            used += view[0].numel()
    assert shape.size > used  # there is padding, so that the next line says something
    assert (flat != 0).sum() <= 30 * used


@pytest.mark.parametrize("mean, log_std", [(0.0, 0.0), (0.7, -1.0), (-1.5, 0.3), (2.0, -2.0)])
def test_density_of_the_squashed_gaussian_integrates_to_one(mean, log_std):
    mean, log_std = torch.tensor(mean, dtype=torch.float64), torch.tensor(log_std, dtype=torch.float64)
    noise = torch.linspace(-9, 9, 200_001, dtype=torch.float64)
    action, log_density = squash(mean.expand(1, len(noise), 1), log_std.expand(1, len(noise), 1), noise[None, :, None])
    a, density = action[0, :, 0].numpy(), log_density[0].exp().numpy()
    assert np.trapezoid(density, a) == pytest.approx(1.0, abs=1e-6)
    weight = torch.exp(-0.5 * noise**2) / math.sqrt(2 * math.pi)
    by_noise = np.trapezoid(torch.tanh(mean + log_std.exp() * noise).numpy() * weight.numpy(), noise.numpy())
    assert np.trapezoid(a * density, a) == pytest.approx(by_noise, abs=1e-6)  # the same mean action


def test_density_equals_torch_distributions_and_survives_saturation():
    g = torch.Generator().manual_seed(3)
    mean, log_std, noise = (torch.randn(2, 5, 3, dtype=torch.float64, generator=g) for _ in range(3))
    action, log_density = squash(mean, log_std, noise)
    normal = torch.distributions.Normal(mean, log_std.exp())
    squashed = torch.distributions.TransformedDistribution(normal, torch.distributions.TanhTransform())
    torch.testing.assert_close(log_density, squashed.log_prob(action).sum(-1), rtol=1e-7, atol=1e-7)
    far = torch.full((1, 1, 1), 40.0)
    action, log_density = squash(far, torch.zeros_like(far), torch.zeros_like(far))
    assert action.item() == 1.0 and log_density.item() == pytest.approx(-0.5 * math.log(2 * math.pi) + 80 - math.log(4))
