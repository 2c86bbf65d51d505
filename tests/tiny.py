"""Params of tiny models; a test changes what it needs with `replace`."""

from tiny_lm.model.gpt2 import GPT2Params
from tiny_lm.model.llama3 import Llama3Params

NO_DROPOUT = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0}
LLAMA3 = Llama3Params(
    context_length=16, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=24, rope_theta=500.0, **NO_DROPOUT
)
GPT2 = GPT2Params(
    context_length=16, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=20, qkv_bias=True, **NO_DROPOUT
)
