"""Floating-point operations of a training step, counted as the field does."""


def flops_per_token(parameters: int, n_layers: int, d_model: int, context_length: int) -> float:
    """Forward and backward of one token: 6 per parameter that multiplies, 12·L·d·T for attention over a full context.

    Source: Chowdhery et al. 2022, PaLM, appendix B. `parameters` counts the tied embedding once, for the product of the
    head, and leaves learned positions out.
    """
    return 6.0 * parameters + 12.0 * n_layers * d_model * context_length
