"""The parts of the transformer against their formulas, and invalid params."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from tiny_lm.model.transformer import (
    FeedForward,
    LayerNorm,
    LearnedPositionalEmbedding,
    MultiHeadAttention,
    RMSNorm,
    RoPE,
    SwiGLU,
    TransformerParams,
    rotate,
)


def test_rope_rotates_halves_as_complex_numbers() -> None:
    x = torch.randn(2, 9, 3, 8)  # (B, T, H, D)
    frequencies = 500.0 ** (-torch.arange(4) / 4)
    rotations = torch.polar(torch.ones(9, 1, 4), torch.outer(torch.arange(9.0), frequencies)[:, None])
    rotated = torch.complex(x[..., :4], x[..., 4:]) * rotations
    torch.testing.assert_close(rotate(x, RoPE(16, 8, 500.0)(9)), torch.cat((rotated.real, rotated.imag), -1))


def test_rope_scores_depend_on_distance_only() -> None:
    rotation, q, k = RoPE(64, 8, 10000.0)(64), torch.randn(8), torch.randn(8)
    rotated_q, rotated_k = (rotate(part.expand(1, 64, 1, 8), rotation)[0, :, 0] for part in (q, k))  # (T, D)
    near = (rotated_q[9] * rotated_k[4]).sum()
    far = (rotated_q[49] * rotated_k[44]).sum()
    torch.testing.assert_close(near, far, atol=1e-5, rtol=1e-5)


def test_rope_theta_and_dtype() -> None:
    x = torch.randn(1, 4, 1, 8)
    assert not torch.allclose(rotate(x, RoPE(4, 8, 100.0)(4)), rotate(x, RoPE(4, 8, 10000.0)(4)))
    assert rotate(x.bfloat16(), RoPE(4, 8, 100.0)(4)).dtype == torch.bfloat16


def test_positions_can_be_given_as_a_tensor() -> None:
    positions = torch.tensor([[3, 1], [0, 3]])
    rope, embedding = RoPE(4, 8, 100.0), LearnedPositionalEmbedding(4, 2)
    torch.nn.init.normal_(embedding.weight)
    for given, first in zip(rope(positions), rope(4), strict=True):
        assert torch.equal(given, first[positions])  # (B, T, 1, D)
    assert torch.equal(embedding(positions), embedding(4)[positions])


def test_rope_tables_are_not_saved() -> None:
    assert RoPE(4, 8, 100.0).state_dict() == {}


def test_learned_positions_start_at_the_first() -> None:
    embedding = LearnedPositionalEmbedding(6, 2)
    torch.nn.init.normal_(embedding.weight)
    assert torch.equal(embedding(3), embedding.weight[:3])


@pytest.mark.parametrize("positions", [RoPE(4, 8, 100.0), LearnedPositionalEmbedding(4, 8)])
def test_more_positions_than_the_context_length_are_an_error(positions) -> None:
    with pytest.raises(ValueError, match="5 positions do not fit in the model's context_length = 4"):
        positions(5)


def make(n_kv_heads: int, *, dropout: float = 0.0) -> MultiHeadAttention:
    torch.manual_seed(0)
    params = SimpleNamespace(d_model=24, n_heads=6, n_kv_heads=n_kv_heads, dim_per_head=4, attention_dropout=dropout)
    return MultiHeadAttention(params, qkv_bias=True, out_bias=True)


@pytest.mark.parametrize("n_kv_heads", [6, 3, 2, 1])
def test_attention_equals_a_loop_over_heads(n_kv_heads: int) -> None:
    attention = make(n_kv_heads)
    x = torch.randn(2, 7, 24)
    q, k, v = attention.W_q(x), attention.W_k(x), attention.W_v(x)
    heads = []
    for head in range(6):
        shared = head // (6 // n_kv_heads)  # heads 0 and 1 read key/value head 0, and so on
        qh, kh, vh = q[..., 4 * head :][..., :4], k[..., 4 * shared :][..., :4], v[..., 4 * shared :][..., :4]
        scores = qh @ kh.transpose(1, 2) / math.sqrt(4)
        scores = scores.masked_fill(torch.ones(7, 7).triu(1).bool(), -math.inf)
        heads.append(scores.softmax(-1) @ vh)
    torch.testing.assert_close(attention(x), attention.out_proj(torch.cat(heads, -1)))


def test_rotation_changes_attention() -> None:
    x = torch.randn(1, 5, 24)
    assert not torch.allclose(make(3)(x), make(3)(x, RoPE(8, 4, 10000.0)(5)))


def test_dropout_is_active_in_training_only() -> None:
    attention, x = make(3, dropout=0.5), torch.randn(1, 5, 24)
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))


def test_bfloat16_autocast_is_close_to_float32() -> None:
    attention, x, rotation = make(3), torch.randn(2, 8, 24), RoPE(8, 4, 10000.0)(8)
    with torch.autocast("cpu", torch.bfloat16):
        half = attention(x, rotation)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), attention(x, rotation), atol=2e-2, rtol=2e-2)


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


def test_the_gradients_of_rms_norm_equal_torch() -> None:
    norm, x = RMSNorm(8, 1e-3), torch.randn(2, 3, 8, requires_grad=True)
    torch.nn.init.normal_(norm.weight)
    gradient = torch.randn(2, 3, 8)
    expected = torch.autograd.grad(F.rms_norm(x, (8,), norm.weight, 1e-3), (x, norm.weight), gradient)
    torch.testing.assert_close(torch.autograd.grad(norm(x), (x, norm.weight), gradient), expected)


@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm])
def test_norms_return_the_dtype_of_autocast_and_are_rounded_once(kind) -> None:
    norm, x = kind(8, 1e-3), torch.randn(2, 3, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = norm(x)
        with torch.no_grad():
            assert norm(x).dtype == torch.bfloat16
    assert torch.equal(out, norm(x).bfloat16())
    (grad,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(grad, torch.autograd.grad(norm(x).sum(), x)[0])


def test_feed_forward_formula_with_tanh_gelu() -> None:
    layer, x = FeedForward(4, 6), 3 * torch.randn(3, 4)
    h = x @ layer.fc1.weight.T + layer.fc1.bias
    hidden = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
    torch.testing.assert_close(layer(x), hidden @ layer.fc2.weight.T + layer.fc2.bias)


def test_swiglu_formula_gate_down_up() -> None:
    layer, x = SwiGLU(4, 6), torch.randn(3, 4)
    gate = x @ layer.w1.weight.T
    torch.testing.assert_close(layer(x), (gate * gate.sigmoid() * (x @ layer.w3.weight.T)) @ layer.w2.weight.T)
    assert [name for name, _ in layer.named_parameters()] == ["w1.weight", "w2.weight", "w3.weight"]


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ((24, 5, 5), "n_heads = 5: must be a divisor of d_model = 24"),
        ((24, 0, 1), "n_heads = 0: must be at least 1"),
        ((24, 6, 4), "n_kv_heads = 4: must be a divisor of n_heads = 6"),
        ((24, 6, 0), "n_kv_heads = 0: must be a divisor of n_heads = 6"),
        ((24, 6, 12), "n_kv_heads = 12: must be a divisor of n_heads = 6"),
    ],
)
def test_indivisible_heads_are_an_error(heads: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        TransformerParams(
            architecture="any", context_length=8, d_model=heads[0], n_layers=1, n_heads=heads[1], n_kv_heads=heads[2],
            embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0,
        )  # fmt: skip


@pytest.mark.parametrize("n_kv_heads", [6, 2])
def test_qk_norm_normalizes_queries_and_keys_of_each_head_before_rope(n_kv_heads: int) -> None:
    params = SimpleNamespace(d_model=24, n_heads=6, n_kv_heads=n_kv_heads, dim_per_head=8, attention_dropout=0.0)
    attention = MultiHeadAttention(params, qkv_bias=False, out_bias=False, qk_norm_eps=1e-3)
    torch.nn.init.normal_(attention.q_norm.weight)
    torch.nn.init.normal_(attention.k_norm.weight)
    x, rotation = torch.randn(2, 7, 24), RoPE(8, 8, 500.0)(7)
    q, k, v = (layer(x).view(2, 7, -1, 8) for layer in (attention.W_q, attention.W_k, attention.W_v))
    q = rotate(F.rms_norm(q, (8,), attention.q_norm.weight, 1e-3), rotation).transpose(1, 2)
    k = rotate(F.rms_norm(k, (8,), attention.k_norm.weight, 1e-3), rotation).transpose(1, 2)
    out = F.scaled_dot_product_attention(q, k, v.transpose(1, 2), is_causal=True, enable_gqa=True)
    torch.testing.assert_close(attention(x, rotation), attention.out_proj(out.transpose(1, 2).flatten(2)))
