"""Tokens per second of our generation vs. transformers' `generate`, with the same weights, in one run.

    PYTHONPATH=src python benchmarks/generation.py                 # models/export and a 12-layer Llama, two threads
    PYTHONPATH=src python benchmarks/generation.py --rounds 21     # on a busy machine
    PYTHONPATH=src python benchmarks/generation.py --device cuda --compile --threads 8

Both generate the same number of tokens from the same prompts of random ids, with the same number of threads,
alternating, so that a slow minute of the machine affects both. Greedy ids are compared before anything is timed.
"sampled" means temperature 0.8 and top-p 0.95. Times include prefill.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers

from tiny_lm.export.from_hf import load_export
from tiny_lm.export.huggingface import huggingface_config, huggingface_tensors
from tiny_lm.generation.generate import generate_batch
from tiny_lm.model.llama3 import Llama3Params
from tiny_lm.model.registry import build_model

LARGER = Llama3Params(
    architecture="llama3", context_length=1024, d_model=384, n_layers=12, n_heads=12, n_kv_heads=4, d_ff=None,
    rope_theta=1e4, norm_eps=1e-6, embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--export", type=Path, default=Path("models/export"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--compile", action="store_true", help="ours as in `tiny-lm generate --compile`")
    parser.add_argument("--only", choices=["export", "larger"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {args.threads} threads, torch "
        f"{version('torch')}, transformers {version('transformers')}; median of {args.rounds} rounds, tokens per second"
    )
    print(f"{'model':<10}{'prompts':>8}{'length':>8}  {'':<8}{'ours':>9}{'theirs':>9}{'ratio':>7}{'of the best':>13}")
    for name, models in pairs(args).items():
        ours, theirs = (model.to(args.device) for model in models)
        for count in (1, 16):
            for length in (8, 160):
                for temperature in (0.0, 0.8):
                    row = compare(ours, theirs, count, length, temperature, args)
                    print(
                        f"{name:<10}{count:>8}{length:>8}  {'sampled' if temperature else 'greedy':<8}{row}", flush=True
                    )


def pairs(args: argparse.Namespace) -> dict[str, tuple[Any, Any]]:
    """Our model and transformers' model, with the same weights."""
    found: dict[str, tuple[Any, Any]] = {}
    if args.only != "larger":
        found["export"] = load_export(args.export)[0], open_in_transformers(args.export)
    if args.only != "export":
        torch.manual_seed(0)
        model = build_model(LARGER, 16384).eval()
        with tempfile.TemporaryDirectory() as folder:
            config = transformers.LlamaConfig(**huggingface_config(model))
            theirs = transformers.LlamaForCausalLM(config)
            theirs.load_state_dict({**huggingface_tensors(model), "lm_head.weight": model.lm_head.weight})
            theirs.save_pretrained(folder)
            found["12 layers"] = model, open_in_transformers(Path(folder))
    return found


def open_in_transformers(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


def compare(ours: Any, theirs: Any, count: int, length: int, temperature: float, args: argparse.Namespace) -> str:
    generator = torch.Generator().manual_seed(length)
    prompts = torch.randint(0, ours.vocab_size - 4, (count, length), generator=generator)
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 0.95}

    def run_ours() -> list[list[int]]:
        texts: list[list[int]] = [[] for _ in range(count)]
        for index, token in generate_batch(
            ours, prompts.tolist(), seeds=range(count), batch_size=count, max_new_tokens=args.new_tokens,
            temperature=temperature, top_k=None, top_p=0.95 if temperature else None, eos_id=None,
            compiled=args.compile,
        ):  # fmt: skip
            if token is not None:
                texts[index].append(token)
        return texts

    @torch.inference_mode()
    def run_theirs() -> list[list[int]]:
        given = prompts.to(args.device)
        tokens: Any = theirs.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=args.new_tokens,
            min_new_tokens=args.new_tokens, eos_token_id=None, pad_token_id=0, **sampling,
        )  # fmt: skip
        return tokens[:, length:].tolist()

    our_ids, their_ids = run_ours(), run_theirs()
    if not temperature and our_ids != their_ids:
        raise SystemExit(f"the greedy ids differ with {count} prompts of {length} tokens")
    seconds: dict[Callable[[], Any], list[float]] = {run_ours: [], run_theirs: []}
    for _ in range(args.rounds):
        for contender, times in seconds.items():
            start = time.perf_counter()
            contender()
            times.append(time.perf_counter() - start)
    (ours_median, ours_best), (theirs_median, theirs_best) = ((statistics.median(t), min(t)) for t in seconds.values())
    tokens = count * args.new_tokens
    return (
        f"{tokens / ours_median:>9.0f}{tokens / theirs_median:>9.0f}{theirs_median / ours_median:>7.2f}"
        f"{theirs_best / ours_best:>13.2f}"
    )


if __name__ == "__main__":
    main()
