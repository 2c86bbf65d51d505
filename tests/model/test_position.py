"""RoPE against rotations of complex numbers."""

import torch

from tiny_lm.model.position import LearnedPositionalEmbedding, RoPE


def test_rope_turns_halves_as_complex_numbers() -> None:
    x = torch.randn(2, 3, 9, 8)
    frequencies = 500.0 ** (-torch.arange(4) / 4)
    turns = torch.polar(torch.ones(9, 4), torch.outer(torch.arange(9.0), frequencies))
    turned = torch.complex(x[..., :4], x[..., 4:]) * turns
    torch.testing.assert_close(RoPE(16, 8, 500.0)(x), torch.cat((turned.real, turned.imag), -1))


def test_rope_scores_depend_on_distance_only() -> None:
    rope, q, k = RoPE(64, 8, 10000.0), torch.randn(8), torch.randn(8)
    turned_q, turned_k = rope(q.expand(64, 8)), rope(k.expand(64, 8))  # (T, D): the same vector at every position
    near = (turned_q[9] * turned_k[4]).sum()
    far = (turned_q[49] * turned_k[44]).sum()
    torch.testing.assert_close(near, far, atol=1e-5, rtol=1e-5)


def test_rope_theta_and_dtype() -> None:
    x = torch.randn(1, 1, 4, 8)
    assert not torch.allclose(RoPE(4, 8, 100.0)(x), RoPE(4, 8, 10000.0)(x))
    assert RoPE(4, 8, 100.0)(x.bfloat16()).dtype == torch.bfloat16


def test_rope_tables_are_not_saved() -> None:
    assert RoPE(4, 8, 100.0).state_dict() == {}


def test_learned_positions_are_the_first() -> None:
    embedding = LearnedPositionalEmbedding(6, 2)
    torch.nn.init.normal_(embedding.weight)
    assert torch.equal(embedding(3), embedding.weight[:3])
