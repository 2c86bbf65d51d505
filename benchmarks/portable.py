"""Cost of `portable`, and whether it gives the same bytes on other kinds of CPU.

    python benchmarks/portable.py [--steps 30] [--rounds 3]

Trains the default model on random tokens, in a separate process per run: native bf16-mixed and float32, and portable.
If `qemu-x86_64` is installed (Debian: qemu-user), a few steps are repeated on CPUs that it emulates.
"""

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

CPUS = ("Nehalem", "Haswell", "max")  # SSE4.2; AVX2; everything that QEMU supports
STEP = """
import hashlib, sys, time
import torch
from tiny_lm.device import keep_memory, set_arithmetic
from tiny_lm.model.registry import MODELS, build_model

from tiny_lm.io.params import load_params, read_yaml
from tiny_lm.training.optimizer import build_optimizer
from tiny_lm.training.params import TrainParams
from pathlib import Path

mode, steps, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
values = read_yaml(Path("params.yaml"))
section = values["train"] | {"accelerator": "cpu", "portable": mode == "portable"}
section["precision"] = "bf16-mixed" if mode == "bf16-mixed" else "32"
params = load_params("train", section, TrainParams)
keep_memory()
set_arithmetic(params.threads, params.portable)
torch.manual_seed(0)
size = load_params("model", values["model"], MODELS)
model = build_model(size, 4096, params.initialization)
optimizer = build_optimizer(model, params, weight_decay=0.0)
tokens = torch.randint(0, 4096, (batch, size.context_length + 1))
times = []
for step in range(steps):
    start = time.perf_counter()
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "bf16-mixed"):
        loss = model.summed_loss(tokens[:, :-1], tokens[:, 1:]) / tokens[:, 1:].numel()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    times.append(time.perf_counter() - start)
weights = b"".join(p.detach().contiguous().numpy().tobytes() for p in model.parameters())
print(batch * size.context_length / sorted(times)[len(times) // 2], hashlib.sha256(weights).hexdigest()[:16])
"""


def train(mode: str, steps: int, batch: int, emulator: tuple[str, ...] = ()) -> tuple[float, str]:
    """Tokens per second in the median step, and a hash of the weights."""
    python = str(Path(sys.executable).resolve())  # an emulator does not follow the symlinks of a virtual environment
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(["src", *(path for path in sys.path if "-packages" in path)])
    }
    command = [*emulator, python, "-c", STEP, mode, str(steps), str(batch)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    speed, digest = done.stdout.split()
    return float(speed), digest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    modes = ("bf16-mixed", "32", "portable")
    runs = [{mode: train(mode, args.steps, 8) for mode in modes} for _ in range(args.rounds)]
    speed = {mode: statistics.median(run[mode][0] for run in runs) for mode in modes}
    print(f"{platform.machine()}, {os.cpu_count()} cores; tokens per second, median of {args.rounds} rounds")
    for mode in modes:
        same = "same bytes in every round" if len({run[mode][1] for run in runs}) == 1 else "DIFFERENT BYTES"
        print(f"  {mode:<12}{speed[mode]:>10,.0f}   {speed['bf16-mixed'] / speed[mode]:5.2f} times the time   {same}")
    emulator = shutil.which("qemu-x86_64")
    if not emulator:
        print("qemu-x86_64 is not installed; other CPUs were not tried")
        return
    for mode in ("32", "portable"):
        here = train(mode, 3, 1)[1]
        for cpu in CPUS:
            there = train(mode, 3, 1, (emulator, "-cpu", cpu))[1]
            print(f"  {mode:<12}{cpu:<10}{'same bytes as here' if there == here else 'different bytes'}")


if __name__ == "__main__":
    main()
