"""Tokens per second and memory of our training step vs. transformers, litgpt and a plain loop, in one run.

    python benchmarks/training.py                                   # the shapes of CPU runs, float32 and bf16
    python benchmarks/training.py --shape gpt2-2l --precision 32    # some of these; --rounds, --steps, --help
    python benchmarks/training.py --device cuda --compile --shape gpt2-2l --batch 56 --accumulate 4 --steps 20

Each contender is a separate process, with the same tokens and number of threads; `whole path` is the train stage
itself, with Lightning, logging, callbacks and data loading, `bare step` is our model, loss and optimizer in a plain
loop on one batch. All train the same model with AdamW; only `with Muon` is a bare step with our default optimizer. They
alternate in rounds of a few steps; figures are medians over the rounds, ratios are those of consecutive rounds. The
last column is throughput as a percentage of that of a large matmul in the same precision, with PaLM's FLOP count. With
`--compile` all contenders are compiled. litgpt needs its own environment in `.work/litgpt`:

    python -m venv .work/litgpt && .work/litgpt/bin/pip install litgpt==0.5.13 torch==2.13.0
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
LITGPT = HERE.parent / ".work/litgpt/bin/python"
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {
        "architecture": "llama3", "context_length": 256, "d_model": 256, "n_layers": 4, "n_heads": 8, "n_kv_heads": 4,
        "d_ff": 768, "vocab_size": 4096, "batch": 16, "dropout": 0.0,
    },
    "gpt2": {
        "architecture": "gpt2", "context_length": 256, "d_model": 256, "n_layers": 4, "n_heads": 8, "n_kv_heads": 8,
        "d_ff": 1024, "vocab_size": 4096, "batch": 16, "dropout": 0.0,
    },
    "gpt2-2l": {
        "architecture": "gpt2", "context_length": 1024, "d_model": 768, "n_layers": 2, "n_heads": 4, "n_kv_heads": 4,
        "d_ff": 3072, "vocab_size": 8192, "batch": 4, "dropout": 0.0,
    },
    "llama3-12l": {
        "architecture": "llama3", "context_length": 1024, "d_model": 384, "n_layers": 12, "n_heads": 12,
        "n_kv_heads": 4, "d_ff": 1024, "vocab_size": 16384, "batch": 4, "dropout": 0.0,
    },
}  # fmt: skip
SPECIALS = {"pad": 0, "eos": 1, "bos": 2, "unk": 3}


def write_tokens(folder: Path, vocab_size: int, tokens: int, validation: int = 4) -> None:
    """Shards of random ids, a few of them frequent, in documents of 300."""
    from tiny_lm.encoding.encode import ShardsParams, write_shards

    def encode(texts: Any) -> Any:
        parts = []
        for text in texts:
            rng = np.random.default_rng(int(text))
            ids = 4 + (np.minimum(rng.zipf(1.1, 298), 2**40) - 1) % (vocab_size - 4)
            parts.append(np.concatenate([[SPECIALS["bos"]], ids, [SPECIALS["eos"]]]).astype(np.uint32))
        return np.concatenate(parts)

    texts = {"train": [f"{i:0300d}" for i in range(tokens // 300)], "val": [f"{i:0300d}" for i in range(validation)]}
    write_shards(
        folder, texts, encode, ShardsParams(shard_tokens=2**31 - 1), vocab_size=vocab_size, special_ids=SPECIALS,
        tokenizer="0" * 64, workers=1,
    )  # fmt: skip


def model_section(shape: dict[str, Any]) -> dict[str, Any]:
    model = {key: value for key, value in shape.items() if key not in ("vocab_size", "batch", "dropout")}
    model |= dict.fromkeys(("embedding_dropout", "attention_dropout", "residual_dropout"), shape["dropout"])
    if shape["architecture"] == "gpt2":
        return model | {"qkv_bias": False}
    return model | {"rope_theta": 1e4, "norm_eps": 1e-6, "tie_embeddings": True, "attention_bias": False}


def sections(work: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The sections `model` and `train` of such a run: the repository's own, overridden by what the peers do."""
    from tiny_lm.io.params import read_yaml

    train = read_yaml(HERE.parent / "params.yaml")["train"] | {
        "initialization": "gpt2", "optimizer": "adamw", "weight_decay": 0.1, "vocabulary_sample": 1.0, "steps": 10**6,
        "batch_size": work["batch"] * work["accumulate"], "micro_batch_size": work["batch"],
        "validate_every": 10**6, "checkpoint_every": 10**6,
        "log_every": work["log_every"], "accelerator": work["device"], "precision": work["precision"],
        "threads": work["threads"], "compile": work["compile"], "deterministic": work["deterministic"],
    }  # fmt: skip
    return {"model": model_section(work["shape"]), "train": train}


def whole_path(work: dict[str, Any]) -> None:
    """The train stage itself, which waits for permission to continue after each step."""
    from peers import seconds_on_demand

    from tiny_lm.io.params import load_params
    from tiny_lm.stages import train
    from tiny_lm.training import fit

    permits = seconds_on_demand()

    class Stepwise(fit.GpuStatsMonitor):
        def on_step_end(self, trainer: Any, module: Any) -> None:
            super().on_step_end(trainer, module)
            next(permits)

    fit.GpuStatsMonitor = Stepwise  # type: ignore[misc]
    values = sections(work)
    stage = SimpleNamespace(
        values=values, say=partial(print, file=sys.stderr),  # stdout is for the seconds
        runtime=SimpleNamespace(progress=True, loggers=(), workers=0, launcher="none", devices=1, nodes=1),
        section=lambda name, choices: load_params(name, values[name], choices), work_folder=lambda: Path("work"),
        warn_of_changes=lambda: None,
    )  # fmt: skip
    os.chdir(work["folder"])
    train.main(stage)  # type: ignore[arg-type]


def bare_step(work: dict[str, Any], optimizer_name: str = "adamw") -> None:
    """The stage's model, loss and optimizer in a plain loop on one batch."""
    import torch
    from peers import batches, seconds_on_demand

    from tiny_lm.device import keep_memory, set_arithmetic
    from tiny_lm.io.params import load_params
    from tiny_lm.model.registry import MODELS, build_model
    from tiny_lm.training.optimizer import build_optimizer
    from tiny_lm.training.params import TrainParams

    values, device = sections(work), work["device"]
    params = load_params("train", values["train"] | {"optimizer": optimizer_name}, TrainParams)
    keep_memory()
    set_arithmetic(params.threads, params.portable, cuda=device == "cuda")
    torch.use_deterministic_algorithms(params.deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # as in the stage
    model = build_model(load_params("model", values["model"], MODELS), work["shape"]["vocab_size"]).to(device).train()
    optimizer = build_optimizer(model, params, values["train"]["weight_decay"])
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    x, y = next(batches(work["tokens"], work["batch"], model.params.context_length, device))
    if params.compile:
        model.compile_loss()
    for _ in seconds_on_demand():
        for _ in range(params.micro_batches):
            with torch.autocast(device, torch.bfloat16, enabled=params.precision == "bf16-mixed"):
                loss = model.summed_loss(x, y) / y.numel()
            (loss / params.micro_batches).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), params.gradient_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


OURS: dict[str, Callable[[dict[str, Any]], None]] = {
    "whole path": whole_path, "bare step": bare_step, "with Muon": partial(bare_step, optimizer_name="muon"),
}  # fmt: skip


class Contender:
    """A process that runs a given number of steps on request."""

    def __init__(self, name: str, work: dict[str, Any]) -> None:
        python = str(LITGPT) if name == "litgpt" else sys.executable
        script = HERE / ("training.py" if name in OURS else "peers.py")
        command = [python, str(script), *(["--contender"] if name in OURS else []), name, json.dumps(work)]
        self.name = name
        path = os.pathsep.join([str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")])
        self.log = Path(work["folder"], name + ".log").open("w+")  # noqa: SIM115  # closed with the contender
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
            env={"GOMP_SPINCOUNT": "5000"} | os.environ | {"PYTHONPATH": path},  # as in stages
        )  # fmt: skip
        self.tokens = work["batch"] * work["accumulate"] * work["shape"]["context_length"]
        self.speeds: list[float] = []
        self.bytes = 0

    def run(self, steps: int) -> float:
        """Tokens per second."""
        self.ask(steps)
        return self.answer(steps)

    def ask(self, steps: int) -> None:
        assert self.process.stdin
        with contextlib.suppress(OSError):  # if it has exited, `answer` reports why
            self.process.stdin.write(f"{steps}\n")
            self.process.stdin.flush()

    def answer(self, steps: int) -> float:
        """Tokens per second."""
        assert self.process.stdout
        try:
            answer = json.loads(self.process.stdout.readline())
        except (OSError, ValueError):
            self.log.seek(0)
            raise SystemExit(f"{self.name} failed:\n{self.log.read()[-3000:]}") from None
        self.bytes = answer["bytes"]
        return steps * self.tokens / answer["seconds"]

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()
        self.log.close()


def matmul_rate(device: str, precision: str, threads: int) -> float:
    """FLOP/s of a large matmul, as the upper bound: best of a few."""
    import torch

    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high")
    size = 8192 if device == "cuda" else 2048
    dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(10):
        start = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def flops_per_token(shape: dict[str, Any]) -> float:
    from tiny_lm.io.params import load_params
    from tiny_lm.model.registry import MODELS, meta_model

    return meta_model(load_params("model", model_section(shape), MODELS), shape["vocab_size"]).flops_per_token()


def compare(name: str, precision: str, args: argparse.Namespace) -> None:
    shape = SHAPES[name]
    peers = [peer for peer in ("transformers", "litgpt", "plain loop") if applies(peer, shape)]
    with tempfile.TemporaryDirectory() as folder:
        write_tokens(Path(folder, "data/shards"), shape["vocab_size"], 2_000_000)
        Path(folder, "work").mkdir()
        work = {
            "shape": shape, "folder": folder, "tokens": f"{folder}/data/shards/train/00000.bin", "device": args.device,
            "batch": args.batch or shape["batch"], "accumulate": args.accumulate, "precision": precision,
            "threads": args.threads, "log_every": args.steps, "compile": args.compile,
            "deterministic": not args.nondeterministic,
        }  # fmt: skip
        contenders = [Contender(each, work) for each in (*OURS, *peers)]
        for contender in contenders:
            contender.ask(3)  # warm-up, all at once, because importing and compiling take a while
        for contender in contenders:
            contender.answer(3)
        for _ in range(args.rounds):
            for contender in contenders:
                contender.speeds.append(contender.run(args.steps))
        for contender in contenders:
            contender.close()
    ours = contenders[0].speeds
    rate = matmul_rate(args.device, precision, args.threads)
    batch = f"{work['batch']} × {args.accumulate}" if args.accumulate > 1 else work["batch"]
    print(
        f"\n{name}, {precision}, batch {batch} × {shape['context_length']}; a matmul runs at {rate / 1e9:,.0f} GFLOP/s"
    )
    for contender in contenders:
        ratio = statistics.median(a / b for a, b in zip(ours, contender.speeds, strict=True))
        speed, share = statistics.median(contender.speeds), flops_per_token(shape) / rate
        spread = f"({min(contender.speeds):,.0f} – {max(contender.speeds):,.0f})"
        figures = f"{ratio:>6.2f} ×{contender.bytes / 1e9:>7.2f} GB{speed * share:>8.0%}"
        print(f"  {contender.name:<14}{speed:>10,.0f} tokens/s {spread:<22}{figures}", flush=True)


def applies(peer: str, shape: dict[str, Any]) -> bool:
    if peer == "litgpt":
        return shape["architecture"] == "llama3" and LITGPT.exists()
    return peer == "transformers" or shape["architecture"] == "gpt2"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", choices=SHAPES, help="default: all")
    parser.add_argument("--precision", action="append", choices=("32", "bf16-mixed"), help="default: both")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch", type=int, help="sequences per micro-batch; default: the shape's")
    parser.add_argument("--accumulate", type=int, default=1, help="micro-batches per step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=5, help="per round")
    parser.add_argument("--compile", action="store_true", help="torch.compile for all")
    parser.add_argument("--nondeterministic", action="store_true", help="train.deterministic: false, like the others")
    parser.add_argument("--contender", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        OURS[args.contender[0]](json.loads(args.contender[1]))
        return
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {args.threads} threads; median of {args.rounds} rounds of "
        f"{args.steps} steps (slowest – fastest)\n× is the whole path's speed relative to this one's; then peak memory "
        "and throughput as a percentage of a large matmul's"
    )
    for name in args.shape or SHAPES:
        for precision in args.precision or ("32", "bf16-mixed"):
            compare(name, precision, args)


if __name__ == "__main__":
    main()
