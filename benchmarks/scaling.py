"""How tokens per second and memory of a training step scale with layers, width, context, vocabulary and batch size.

    python benchmarks/scaling.py                        # about six minutes; writes docs/images/scaling.png
    python benchmarks/scaling.py --factor layers --steps 2 --picture /tmp/scaling.png

Varies one factor at a time around a small Llama (4 layers, d_model 256, context 256, vocabulary 4096, batch 16). Each
point is a separate process that runs the bare step of `training.py`, alternating with the base, so that a slow minute
of the machine affects both. A point's speed is the base's speed times the median ratio of consecutive rounds. When the
context varies, the tokens per step stay the same, so that only attention changes: batch 16 at 256 is batch 1 at 4096.

Each measurement is printed with its expected value, computed from the base alone: tokens per second are inversely
proportional to the FLOPs per token (`flops_per_token`); memory is that of the base plus the difference in weights,
gradients, optimizer state and activations (`step_memory`).
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from training import SHAPES, Contender, sections, write_tokens

from tiny_lm.io.params import load_params
from tiny_lm.model.registry import MODELS, meta_model
from tiny_lm.report.charts import png
from tiny_lm.size import step_memory

PICTURE = Path(__file__).resolve().parent.parent / "docs/images/scaling.png"
BASE = SHAPES["llama"]
FACTORS: dict[str, list[int]] = {
    "layers": [1, 2, 4, 8],
    "width": [128, 256, 512, 768],
    "context": [256, 512, 1024, 2048, 4096],
    "vocabulary": [1024, 4096, 16384, 32768],
    "batch": [1, 4, 16, 32],
}
AT_BASE = {
    "layers": BASE["n_layers"], "width": BASE["d_model"], "context": BASE["context_length"],
    "vocabulary": BASE["vocab_size"], "batch": BASE["batch"],
}  # fmt: skip


def shape_of(factor: str, value: int) -> dict[str, Any]:
    """The base with one factor changed; heads stay 32 wide, and the feed-forward layer three times the width."""
    changes: dict[str, dict[str, int]] = {
        "layers": {"n_layers": value},
        "width": {"d_model": value, "n_heads": value // 32, "n_kv_heads": value // 64, "d_ff": 3 * value},
        "context": {"context_length": value, "batch": BASE["batch"] * BASE["context_length"] // value},
        "vocabulary": {"vocab_size": value},
        "batch": {"batch": value},
    }
    return BASE | changes[factor]


def measure(shape: dict[str, Any], base: Contender, args: argparse.Namespace) -> tuple[float, float]:
    """Speed relative to the base, and peak memory of the process in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        contender = Contender("bare step", work_in(folder, shape, args))
        contender.run(1)  # warm-up
        times = statistics.median(contender.run(1) / base.run(1) for _ in range(args.steps))
        contender.close()
    return times, contender.bytes


def work_in(folder: str, shape: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """The work, with tokens for it in `folder`."""
    write_tokens(Path(folder), shape["vocab_size"], 100_000)
    return work_of(shape, args) | {"folder": folder, "tokens": f"{folder}/train/00000.bin"}


def work_of(shape: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    return {
        "shape": shape, "device": "cpu", "batch": shape["batch"], "accumulate": 1, "precision": args.precision,
        "threads": args.threads, "log_every": 1, "compile": False, "deterministic": True,
    }  # fmt: skip


def arithmetic(shape: dict[str, Any], args: argparse.Namespace) -> tuple[float, float]:
    """FLOPs per token, and memory of a step in bytes."""
    params = load_params("model", sections(work_of(shape, args))["model"], MODELS)
    dtype = torch.bfloat16 if args.precision == "bf16-mixed" else torch.float32
    memory = sum(step_memory(params, shape["vocab_size"], shape["batch"], dtype, "adamw").values())
    return meta_model(params, shape["vocab_size"]).flops_per_token(), memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--factor", action="append", choices=FACTORS, help="default: all")
    parser.add_argument("--precision", default="32", choices=("32", "bf16-mixed"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5, help="measured steps per point, after one of warm-up")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    args = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {args.threads} threads, torch {torch.__version__}, "
        f"{args.precision}; median of {args.steps} steps; × is measured over expected"
    )
    folder = tempfile.TemporaryDirectory()
    base = Contender("bare step", work_in(folder.name, BASE, args))
    base.run(1)
    base_speed, base_bytes = statistics.median(base.run(1) for _ in range(args.steps)), base.bytes
    base_flops, base_memory = arithmetic(BASE, args)
    rows = []
    for factor in args.factor or FACTORS:
        print(f"\n{factor:<12}{'tokens/s':>10}{'expected':>10}{'×':>7}{'MB':>9}{'expected':>10}{'×':>7}")
        for value in FACTORS[factor]:
            shape = shape_of(factor, value)
            times, peak = (1.0, base_bytes) if value == AT_BASE[factor] else measure(shape, base, args)
            speed = base_speed * times
            flops, memory = arithmetic(shape, args)
            expected_speed, expected_bytes = base_speed * base_flops / flops, base_bytes - base_memory + memory
            print(
                f"{value:<12}{speed:>10,.0f}{expected_speed:>10,.0f}{speed / expected_speed:>7.2f}"
                f"{peak / 1e6:>9,.0f}{expected_bytes / 1e6:>10,.0f}{peak / expected_bytes:>7.2f}",
                flush=True,
            )
            for kind, (tokens, size) in (
                ("measured", (speed, peak)), ("expected", (expected_speed, expected_bytes))
            ):  # fmt: skip
                rows.append({"factor": factor, "value": value, "kind": kind, "tokens": tokens, "MB": size / 1e6})
    base.close()
    folder.cleanup()
    args.picture.write_bytes(png(chart(rows)))
    print(f"\n{args.picture}")


def chart(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A column per factor, tokens per second above and memory below; expected values as a dashed line."""
    columns = []
    for factor in dict.fromkeys(row["factor"] for row in rows):
        data = [row for row in rows if row["factor"] == factor]
        ticks = sorted({row["value"] for row in data})
        axis = {"values": ticks, "grid": False, "labelOverlap": False, "labelAngle": -40}
        both = []
        for field, title in (("tokens", "tokens per second"), ("MB", "memory, MB")):
            values = [row[field] for row in rows]  # all factors, so that columns are comparable
            scale = {"type": "log", "nice": False, "domain": [0.9 * min(values), 1.1 * max(values)]}
            y = {"field": field, "type": "quantitative", "title": title, "scale": scale, "axis": {"format": ",.0f"}}
            x = {"field": "value", "type": "quantitative", "title": factor, "scale": {"type": "log", "nice": False}}
            stroke = {"field": "kind", "type": "nominal", "title": None, "sort": ["measured", "expected"]}
            mark = {"type": "line", "point": {"size": 22}, "strokeWidth": 1.5}
            encoding = {"x": x | {"axis": axis}, "y": y, "color": stroke, "strokeDash": stroke | {"legend": None}}
            both.append({"width": 150, "height": 140, "mark": mark, "encoding": encoding})
        columns.append({"data": {"values": data}, "vconcat": both})
    return {
        "background": "white",
        "hconcat": columns,
        "config": {"view": {"stroke": None}, "legend": {"orient": "top"}},
    }


if __name__ == "__main__":
    main()
