"""Normalization and feed-forward layers against their formulas."""

import math

import pytest
import torch
from torch.nn import functional as F

from tiny_lm.model.feedforward import FeedForward, SwiGLU
from tiny_lm.model.normalization import LayerNorm, RMSNorm


def test_layer_norm_formula() -> None:
    norm, x = LayerNorm(8, 1e-3), torch.randn(3, 8)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    scaled = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-3).sqrt()
    torch.testing.assert_close(norm(x), scaled * norm.weight + norm.bias)


def test_rms_norm_formula() -> None:
    norm, x = RMSNorm(8, 1e-3), torch.randn(3, 8)
    torch.nn.init.normal_(norm.weight)
    torch.testing.assert_close(norm(x), x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight)


def test_rms_norm_has_the_gradients_of_torch() -> None:
    norm, x = RMSNorm(8, 1e-3), torch.randn(2, 3, 8, requires_grad=True)
    torch.nn.init.normal_(norm.weight)
    gradient = torch.randn(2, 3, 8)
    wanted = torch.autograd.grad(F.rms_norm(x, (8,), norm.weight, 1e-3), (x, norm.weight), gradient)
    torch.testing.assert_close(torch.autograd.grad(norm(x), (x, norm.weight), gradient), wanted)


@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm])
def test_norms_end_in_the_type_of_autocast_and_are_rounded_once(kind) -> None:
    norm, x = kind(8, 1e-3), torch.randn(2, 3, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = norm(x)
        with torch.no_grad():
            assert norm(x).dtype == torch.bfloat16
    assert torch.equal(out, norm(x).bfloat16())
    (grad,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(grad, torch.autograd.grad(norm(x).sum(), x)[0])


def test_feed_forward_formula_with_gelu_by_tanh() -> None:
    layer, x = FeedForward(4, 6), 3 * torch.randn(3, 4)
    h = x @ layer.fc1.weight.T + layer.fc1.bias
    hidden = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
    torch.testing.assert_close(layer(x), hidden @ layer.fc2.weight.T + layer.fc2.bias)


def test_swiglu_formula_gate_down_up() -> None:
    layer, x = SwiGLU(4, 6), torch.randn(3, 4)
    gate = x @ layer.w1.weight.T
    torch.testing.assert_close(layer(x), (gate * gate.sigmoid() * (x @ layer.w3.weight.T)) @ layer.w2.weight.T)
    assert [name for name, _ in layer.named_parameters()] == ["w1.weight", "w2.weight", "w3.weight"]
