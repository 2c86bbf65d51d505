"""Tokens per second of evaluation vs. the forward pass in training, with the same weights, alternating.

    PYTHONPATH=src python benchmarks/evaluation.py           # the CPU shape of training.py; --rounds, --device

Evaluation reads validation documents from shards, in windows as long as the documents, and sums the losses per
document. Training's forward pass reads full windows in memory and keeps what the backward pass needs; its loss also
computes the gradients of the head, two more matmuls. The third contender is the bare forward pass over the same
windows: it keeps nothing and ends with the loss of each token. Only targets count as tokens, not padding.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from training import SHAPES, SPECIALS, model_section, write_tokens

from tiny_lm.device import keep_memory, set_arithmetic
from tiny_lm.evaluation.losses import DocumentLosses
from tiny_lm.evaluation.predictions import predictions
from tiny_lm.io.params import load_params
from tiny_lm.model.registry import MODELS, build_model
from tiny_lm.shards.stream import TokenStream
from tiny_lm.shards.windows import DocumentWindows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args()
    keep_memory()
    set_arithmetic(args.threads, portable=False, cuda=args.device == "cuda")
    shape, device = SHAPES[args.shape], args.device
    torch.manual_seed(0)
    model = build_model(load_params("model", model_section(shape), MODELS), shape["vocab_size"]).to(device)
    length = model.params.context_length
    print(f"{platform.machine()}, {os.cpu_count()} cores, {args.threads} threads, torch {torch.__version__}")
    print(f"{args.shape}; tokens per second, median of {args.rounds} rounds (slowest – fastest)")
    with tempfile.TemporaryDirectory() as folder:
        write_tokens(Path(folder), shape["vocab_size"], 30_000, validation=128)
        windows = DocumentWindows(TokenStream(Path(folder), "val"), length, 32, None)
        batches = [windows[i] for i in range(len(windows))]
        targets = sum(int((batch.y != -100).sum()) for batch in batches)
        full = torch.randint(0, model.vocab_size, (targets // (32 * length) + 1, 32, length + 1), device=device)

        def evaluation() -> int:
            losses = DocumentLosses(documents=len(windows.lengths), context_length=length, eos_id=SPECIALS["eos"])
            read = (windows[i] for i in range(len(windows)))
            for batch in predictions(model.eval(), read, precision=precision, progress=False):
                losses.add(batch)
            return targets

        def forward(loss: Callable[..., torch.Tensor]) -> int:
            model.train()
            for tokens in full:
                with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16-mixed"):
                    loss(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()).sum().item()
            return full[:, :, 1:].numel()

        contenders: dict[str, Callable[[], int]] = {
            "evaluation": evaluation,
            "training's forward pass": lambda: forward(model.summed_loss),
            "bare forward pass": lambda: forward(model.token_losses),
        }

        for precision in ("32", "bf16-mixed"):
            speeds: dict[str, list[float]] = {name: [] for name in contenders}
            for number in range(args.rounds + 1):
                for name, contender in contenders.items():
                    start = time.perf_counter()
                    tokens = contender()
                    if number:  # the first is warm-up
                        speeds[name].append(tokens / (time.perf_counter() - start))
            for name, each in speeds.items():
                spread = f"({min(each):,.0f} – {max(each):,.0f})"
                print(f"  {precision:<12}{name:<26}{statistics.median(each):>10,.0f} {spread}", flush=True)


if __name__ == "__main__":
    main()
