"""RoPE against rotations of complex numbers."""

import torch

from tiny_lm.model.position import LearnedPositionalEmbedding, RoPE


def test_rope_turns_halves_as_complex_numbers() -> None:
    x = torch.randn(2, 3, 9, 8)
    frequencies = 500.0 ** (-torch.arange(4) / 4)
    turns = torch.polar(torch.ones(9, 4), torch.outer(torch.arange(9.0) + 5, frequencies))
    turned = torch.complex(x[..., :4], x[..., 4:]) * turns
    torch.testing.assert_close(RoPE(16, 8, 500.0)(x, start=5), torch.cat((turned.real, turned.imag), -1))


def test_rope_scores_depend_on_distance_only() -> None:
    rope, q, k = RoPE(64, 8, 10000.0), torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)
    near = (rope(q, 9) * rope(k, 4)).sum()
    far = (rope(q, 49) * rope(k, 44)).sum()
    torch.testing.assert_close(near, far, atol=1e-5, rtol=1e-5)


def test_rope_theta_and_dtype() -> None:
    x = torch.randn(1, 1, 4, 8)
    assert not torch.allclose(RoPE(4, 8, 100.0)(x, 0), RoPE(4, 8, 10000.0)(x, 0))
    assert RoPE(4, 8, 100.0)(x.bfloat16(), 0).dtype == torch.bfloat16


def test_rope_tables_are_not_saved() -> None:
    assert RoPE(4, 8, 100.0).state_dict() == {}


def test_learned_positions_start_where_told() -> None:
    embedding = LearnedPositionalEmbedding(6, 2)
    torch.nn.init.normal_(embedding.weight)
    assert torch.equal(embedding(2, 3), embedding.weight[2:5])
