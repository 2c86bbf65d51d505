"""Attention against plain arithmetic, and what the params refuse."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from tiny_lm.model import attention as attention_module
from tiny_lm.model.attention import MultiHeadAttention
from tiny_lm.model.position import RoPE


def make(n_kv_heads: int, *, dropout: float = 0.0, rope: RoPE | None = None) -> MultiHeadAttention:
    torch.manual_seed(0)
    params = SimpleNamespace(d_model=24, n_heads=6, n_kv_heads=n_kv_heads, attention_dropout=dropout)
    return MultiHeadAttention(params, qkv_bias=True, out_bias=True, rope=rope)


@pytest.mark.parametrize("n_kv_heads", [6, 3, 2, 1])
def test_equals_attention_written_out_head_by_head(n_kv_heads: int) -> None:
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


def test_position_is_injected() -> None:
    x = torch.randn(1, 5, 24)
    assert not torch.allclose(make(3)(x), make(3, rope=RoPE(8, 4, 10000.0))(x))


def test_dropout_only_while_training() -> None:
    attention, x = make(3, dropout=0.5), torch.randn(1, 5, 24)
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))


def test_bfloat16_autocast_stays_near_float32() -> None:
    attention, x = make(3, rope=RoPE(8, 4, 10000.0)), torch.randn(2, 8, 24)
    with torch.autocast("cpu", torch.bfloat16):
        half = attention(x)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), attention(x), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("length", [1, 128, 129, 300])
@pytest.mark.parametrize("n_kv_heads", [6, 2, 1])
def test_attention_in_blocks_and_its_gradients_are_those_of_torch(n_kv_heads: int, length: int) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, heads, length, 8, dtype=torch.float64) for heads in (6, n_kv_heads, n_kv_heads)]
    ours, theirs = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))
    out = attention_module._attend_in_blocks(*ours)
    expected = F.scaled_dot_product_attention(*theirs, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


@pytest.mark.parametrize(
    ("dtype", "length", "dropout", "in_blocks"),
    [
        (torch.bfloat16, 1024, 0.0, True),
        (torch.bfloat16, 1025, 0.0, False),
        (torch.bfloat16, 16, 0.5, False),
        (torch.float32, 16, 0.0, False),
    ],
)
def test_blocks_are_for_short_texts_in_bfloat16(monkeypatch, dtype, length, dropout, in_blocks) -> None:
    seen = []
    blocks = attention_module._attend_in_blocks
    monkeypatch.setattr(attention_module, "_attend_in_blocks", lambda *parts: seen.append(parts) or blocks(*parts))
    make(3, dropout=dropout).to(dtype)(torch.randn(1, length, 24, dtype=dtype))
    assert bool(seen) == in_blocks
