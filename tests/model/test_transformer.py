"""What the params of both architectures refuse."""

import pytest

from tiny_lm.model.transformer import TransformerParams


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ((24, 5, 5), "n_heads = 5: must be a divisor of d_model = 24"),
        ((24, 0, 1), "n_heads = 0: must be a divisor of d_model = 24"),
        ((24, 6, 4), "n_kv_heads = 4: must be a divisor of n_heads = 6"),
        ((24, 6, 0), "n_kv_heads = 0: must be a divisor of n_heads = 6"),
        ((24, 6, 12), "n_kv_heads = 12: must be a divisor of n_heads = 6"),
    ],
)
def test_uneven_heads_are_an_error(heads: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        TransformerParams(
            architecture="any", context_length=8, d_model=heads[0], n_layers=1, n_heads=heads[1], n_kv_heads=heads[2],
            embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0,
        )  # fmt: skip
