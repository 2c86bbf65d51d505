"""A training step as users of other libraries write it: `transformers`, `litgpt` and a plain PyTorch loop.

`training.py` runs this file, for litgpt in a separate environment, so it imports none of our code:

    python benchmarks/peers.py PEER '{"shape": …}'

Each peer trains on windows of the same file of uint16 tokens, drawn at random from a memory map as in nanoGPT, with
AdamW (fused), norm clipping and autocast. It reads numbers of steps from standard input, and answers each with the
seconds that they took and the peak memory of the process so far.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]  # of x (B, T) and y (B, T)


def transformers_model(shape: dict[str, Any]) -> tuple[nn.Module, Loss]:
    import transformers

    if shape["architecture"] == "llama3":
        config: Any = transformers.LlamaConfig(  # type: ignore[call-arg]
            vocab_size=shape["vocab_size"], hidden_size=shape["d_model"], intermediate_size=shape["d_ff"],
            num_hidden_layers=shape["n_layers"], num_attention_heads=shape["n_heads"],
            num_key_value_heads=shape["n_kv_heads"], max_position_embeddings=shape["context_length"],
            tie_word_embeddings=True, attn_implementation="sdpa", use_cache=False,
        )  # fmt: skip
        model: nn.Module = transformers.LlamaForCausalLM(config)
    else:
        config = transformers.GPT2Config(  # type: ignore[call-arg]
            vocab_size=shape["vocab_size"], n_embd=shape["d_model"], n_inner=shape["d_ff"], n_layer=shape["n_layers"],
            n_head=shape["n_heads"], n_positions=shape["context_length"], attn_implementation="sdpa", use_cache=False,
            embd_pdrop=shape["dropout"], attn_pdrop=shape["dropout"], resid_pdrop=shape["dropout"],
        )  # fmt: skip
        model = transformers.GPT2LMHeadModel(config)
    return model, lambda x, y: model(input_ids=x, labels=x).loss  # it shifts the labels itself


def litgpt_model(shape: dict[str, Any]) -> tuple[nn.Module, Loss]:
    from litgpt import GPT, Config
    from litgpt.utils import chunked_cross_entropy

    config = Config(
        block_size=shape["context_length"], vocab_size=shape["vocab_size"], padded_vocab_size=shape["vocab_size"],
        n_layer=shape["n_layers"], n_head=shape["n_heads"], n_query_groups=shape["n_kv_heads"],
        n_embd=shape["d_model"], head_size=shape["d_model"] // shape["n_heads"], intermediate_size=shape["d_ff"],
        bias=False, rotary_percentage=1.0, parallel_residual=False, norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
    )  # fmt: skip
    model = GPT(config)
    model.lm_head.weight = model.transformer.wte.weight
    return model, lambda x, y: chunked_cross_entropy(model(x), y, chunk_size=0)  # as in litgpt's pretraining


class PlainGPT2(nn.Module):
    """A GPT-2 in the style of nanoGPT: one matmul for queries, keys and values, SDPA, all logits at once."""

    def __init__(self, shape: dict[str, Any]) -> None:
        super().__init__()
        d_model, self.n_heads = shape["d_model"], shape["n_heads"]
        self.token_emb = nn.Embedding(shape["vocab_size"], d_model)
        self.position_emb = nn.Embedding(shape["context_length"], d_model)
        self.dropout, self.rate = nn.Dropout(shape["dropout"]), shape["dropout"]
        self.blocks: Any = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(d_model), "qkv": nn.Linear(d_model, 3 * d_model),
                    "out": nn.Linear(d_model, d_model), "norm2": nn.LayerNorm(d_model),
                    "fc1": nn.Linear(d_model, shape["d_ff"]), "fc2": nn.Linear(shape["d_ff"], d_model),
                }
            )
            for _ in range(shape["n_layers"])
        )  # fmt: skip
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, shape["vocab_size"], bias=False)
        self.head.weight = self.token_emb.weight

    def forward(self, x: Tensor) -> Tensor:
        batch, length = x.shape
        x = self.dropout(self.token_emb(x) + self.position_emb.weight[:length])  # (B, T, d_model)
        for block in self.blocks:
            parts = block["qkv"](block["norm1"](x)).view(batch, length, 3, self.n_heads, -1).unbind(2)
            q, k, v = (part.transpose(1, 2) for part in parts)  # (B, H, T, D) each
            rate = self.rate if self.training else 0.0
            attended = F.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True)
            x = x + self.dropout(block["out"](attended.transpose(1, 2).reshape(batch, length, -1)))
            x = x + self.dropout(block["fc2"](F.gelu(block["fc1"](block["norm2"](x)))))
        return self.head(self.norm(x))  # (B, T, V)


def plain_model(shape: dict[str, Any]) -> tuple[nn.Module, Loss]:
    model = PlainGPT2(shape)
    return model, lambda x, y: F.cross_entropy(model(x).flatten(0, 1), y.flatten())


PEERS = {"transformers": transformers_model, "litgpt": litgpt_model, "plain loop": plain_model}


def batches(file: str, batch: int, length: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    rng = np.random.default_rng(0)
    while True:
        tokens = np.memmap(file, dtype=np.uint16, mode="r")
        starts = rng.integers(0, len(tokens) - length - 1, batch)
        windows = torch.from_numpy(np.stack([tokens[i : i + length + 1] for i in starts]).astype(np.int64))
        yield windows[:, :-1].to(device), windows[:, 1:].to(device)


def prepare(peer: str, work: dict[str, Any]) -> Callable[[], None]:
    """One optimizer step of a peer, as a function."""
    shape, device = work["shape"], work["device"]
    torch.set_num_threads(work["threads"])
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    model, loss_of = PEERS[peer](shape)
    model.to(device).train()
    if work["compile"]:
        loss_of = torch.compile(loss_of)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    source = batches(work["tokens"], work["batch"], shape["context_length"], device)

    def step() -> None:
        for _ in range(work["accumulate"]):
            x, y = next(source)
            with torch.autocast(device, torch.bfloat16, enabled=work["precision"] == "bf16-mixed"):
                loss = loss_of(x, y) / work["accumulate"]
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def seconds_on_demand() -> Iterator[None]:
    """Resume this generator after each step; when all steps are done, it reads the next number of steps."""
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        print(json.dumps({"seconds": seconds, "bytes": peak or memory}), flush=True)
    raise SystemExit


def main() -> None:
    step = prepare(sys.argv[1], json.loads(sys.argv[2]))
    for _ in seconds_on_demand():
        step()


if __name__ == "__main__":
    main()
