"""Count parameters, FLOPs and memory of a model before training it.

The model is the one in params.yaml, changed by the settings, or that of a checkpoint. params.yaml stays as it is. The
model is not allocated, so even a very large one is counted in seconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_lm.terminal import Parser, size

NOTES = {
    "weights": "float32",
    "gradients": "float32",
    "optimizer": "momentum of Muon, two moments of AdamW, float32",
    "activations": "kept by autograd for the backward pass",
}


def main(argv: list[str]) -> None:
    parser = Parser("count-params", __doc__, "model=llama3-12l tokenizer=16k train.micro_batch_size=4")
    parser.add_argument("settings", nargs="*", metavar="SETTING", help="SECTION=PRESET or SECTION.KEY=VALUE")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="count this model, such as models/checkpoint")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    args = parser.parse_args(argv)
    if args.checkpoint and any(setting.startswith(("model", "tokenizer", "experiment")) for setting in args.settings):
        raise ValueError(f"--checkpoint {args.checkpoint}: has its own model and vocabulary; set only train.KEY=VALUE")
    counts = count(args.settings, args.checkpoint)
    print(json.dumps(counts, indent=2) if args.json else format_counts(counts))


def count(settings: list[str], checkpoint: Path | None) -> dict[str, Any]:
    """The output of `--json`."""
    import torch

    from tiny_lm.model.checkpoint import load_checkpoint
    from tiny_lm.model.registry import meta_model
    from tiny_lm.presets import params_with, vocabulary
    from tiny_lm.size import parameters_by_part, step_memory

    params, train, runtime = params_with(settings, "model", "train", "runtime")
    micro_batches = train.micro_batches_per_device(runtime.devices)
    if checkpoint:
        model, _ = load_checkpoint(checkpoint)
        params, vocab_size, source = model.params, model.vocab_size, str(checkpoint)
    else:
        vocab_size, source = vocabulary(settings)
    device = "cuda" if train.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    dtype = {"32": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}[train.precision]
    try:
        model = meta_model(params, vocab_size)
        memory = step_memory(params, vocab_size, train.micro_batch_size, dtype, train.optimizer, device, micro_batches)
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        raise ValueError(
            f"model.d_model = {params.d_model}, model.d_ff = {params.d_ff}, train.micro_batch_size = "
            f"{train.micro_batch_size}: must be smaller, because a tensor would have 2^63 bytes or more"
        ) from error
    parameters, flops = parameters_by_part(model), model.flops_per_token()
    return {
        "model": {key: getattr(params, key) for key in ("architecture", "n_layers", "d_model", "context_length")},
        "vocab_size": vocab_size,
        "vocab_size_from": source,
        "parameters": parameters,
        "total": sum(parameters.values()),
        "flops_per_token": {"forward": flops / 3, "backward": flops * 2 / 3},
        "micro_batch_size": train.micro_batch_size,
        "micro_batches": micro_batches,
        "precision": train.precision,
        "device": device,
        "memory_bytes": memory,
        "memory_total": sum(memory.values()),
    }


def format_counts(counts: dict[str, Any]) -> str:
    model, flops, total = counts["model"], counts["flops_per_token"], counts["total"]
    lines = [
        f"{model['architecture']}, {model['n_layers']} layers, d_model {model['d_model']}, context "
        f"{model['context_length']:,}, vocabulary {counts['vocab_size']:,} ({counts['vocab_size_from']})",
        "\nParameters\n",
    ]
    for part, number in counts["parameters"].items():
        note = "  tied to the embedding" if part == "head" and not number else ""
        lines.append(f"{part:<14}{number:>16,}{number / total:>8.1%}{note}")
    lines += [f"{'total':<14}{total:>16,}", "\nMillions of FLOPs per token\n"]
    for name, number in (*flops.items(), ("total", sum(flops.values()))):
        lines.append(f"{name:<14}{number / 1e6:>16,.2f}")
    lines.append(
        f"\nMemory of a micro-batch of {counts['micro_batch_size']} × {model['context_length']:,} tokens, precision "
        f"{counts['precision']}, on {'CUDA' if counts['device'] == 'cuda' else 'the CPU'}\n"
    )
    notes = NOTES | (
        {"gradients": "float32, with the sums over earlier micro-batches"} if counts["micro_batches"] > 1 else {}
    )
    for name, number in counts["memory_bytes"].items():
        lines.append(f"{name:<14}{size(number):>16}  {notes[name]}")
    lines.append(f"{'total':<14}{size(counts['memory_total']):>16}  without torch itself and workspaces of its kernels")
    return "\n".join(lines)
