"""`tiny-lm count-params`: parameters, FLOPs and memory of a model, before it is trained.

The model is that of params.yaml, with settings in front of it as `tiny-lm preset` takes them, or that of a checkpoint.
Nothing is written, and no model of params.yaml is built: a wide one takes no longer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_lm.terminal import Parser, size

NOTES = {
    "head": "the embedding's weight, counted there",
    "weights": "float32",
    "gradients": "float32",
    "optimizer": "two averages of AdamW, float32",
    "activations": "what autograd keeps for the backward pass",
}


def main(argv: list[str]) -> None:
    parser = Parser("count-params", __doc__, "model=llama3-12l tokenizer=16k train.micro_batch_size=4")
    parser.add_argument("settings", nargs="*", metavar="SECTION=PRESET or SECTION.KEY=VALUE")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="count this model, such as models/checkpoint")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    args = parser.parse_args(argv)
    if args.checkpoint and any(setting.startswith(("model", "tokenizer")) for setting in args.settings):
        raise ValueError(f"--checkpoint {args.checkpoint}: has a model and a vocabulary of its own; set only train.…")
    facts = count(args.settings, args.checkpoint)
    print(json.dumps(facts, indent=2) if args.json else report(facts))


def count(settings: list[str], checkpoint: Path | None) -> dict[str, Any]:
    """What `--json` prints."""
    import torch

    from tiny_lm.model.registry import meta_model
    from tiny_lm.presets import params_with, vocabulary
    from tiny_lm.size import parameters_by_part, step_memory

    params, train = params_with(settings, "model", "train")
    if checkpoint:
        params, vocab_size, source = _checkpoint(checkpoint)
    else:
        vocab_size, source = vocabulary(settings)
    on_cuda = train.accelerator != "cpu" and torch.cuda.is_available()
    dtype = {"32": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}[train.precision]
    try:
        model = meta_model(params, vocab_size)
        memory = step_memory(params, vocab_size, train.micro_batch_size, dtype, "cuda" if on_cuda else "cpu")
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        raise ValueError(
            f"model.d_model = {params.d_model}, model.d_ff = {params.d_ff}, train.micro_batch_size = "
            f"{train.micro_batch_size}: must be smaller, so that no tensor has 2^63 bytes"
        ) from error
    flops = model.flops_per_token()
    return {
        "model": {key: getattr(params, key) for key in ("architecture", "n_layers", "d_model", "context_length")},
        "vocab_size": vocab_size,
        "vocab_size_from": source,
        "parameters": parameters_by_part(model),
        "total": sum(parameters_by_part(model).values()),
        "flops_per_token": {"forward": flops / 3, "backward": flops * 2 / 3},
        "micro_batch_size": train.micro_batch_size,
        "precision": train.precision,
        "device": "cuda" if on_cuda else "cpu",
        "memory_bytes": memory,
        "memory_total": sum(memory.values()),
    }


def report(facts: dict[str, Any]) -> str:
    model, flops = facts["model"], facts["flops_per_token"]
    total, memory = facts["total"], facts["memory_bytes"]
    lines = [
        f"{model['architecture']}, {model['n_layers']} layers, d_model {model['d_model']}, context "
        f"{model['context_length']:,}, vocabulary {facts['vocab_size']:,} ({facts['vocab_size_from']})\n"
    ]
    for part, number in facts["parameters"].items():
        lines.append(f"{part:<14}{number:>16,}{number / total:>8.1%}  {NOTES.get(part, '')}".rstrip())
    lines.append(f"{'parameters':<14}{total:>16,}\n")
    for name, number in (*flops.items(), ("both", sum(flops.values()))):
        lines.append(f"{name:<14}{number / 1e6:>16,.2f}  million FLOPs per token")
    batch = facts["micro_batch_size"]
    lines.append(
        f"\nMemory of a micro-batch of {batch} × {model['context_length']:,} tokens, precision {facts['precision']}, "
        f"on {'CUDA' if facts['device'] == 'cuda' else 'the CPU'}\n"
    )
    for name, number in memory.items():
        lines.append(f"{name:<14}{size(number):>16}  {NOTES[name]}")
    lines.append(f"{'together':<14}{size(facts['memory_total']):>16}  torch and its kernels' workspace come on top")
    return "\n".join(lines)


def _checkpoint(folder: Path) -> tuple[Any, int, str]:
    from tiny_lm.model.checkpoint import load_checkpoint

    model, _ = load_checkpoint(folder)
    return model.params, model.vocab_size, str(folder)
