"""The speed and memory of a training step, measured with real steps on random tokens in a separate process, which may
run out of memory without harm.

`run` starts the process, and the tool in it calls `measure`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiny_lm.runner.messages import OUT_OF_MEMORY

if TYPE_CHECKING:
    from torch import Tensor

    from tiny_lm.model.transformer import TransformerParams
    from tiny_lm.training.params import TrainParams

CODE = "from tiny_lm.cli import main; main()"
OVER_LIMIT = 77  # exit code of a measuring process that exceeded its memory limit
CGROUPS = (  # limit and usage, in cgroup v2 and v1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def run(command: list[str]) -> dict[str, Any] | None:
    """The result of a measuring process, or None if it ran out of memory. ValueError for any other failure."""
    environment = {"GOMP_SPINCOUNT": "5000", **os.environ}  # as in stages/__main__.py
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        process_group=0,  # only this process gets Ctrl-C, and kills the other one
    )  # fmt: skip
    if done.returncode == 0:
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result
    if done.returncode in (OVER_LIMIT, -9) or OUT_OF_MEMORY.search(done.stderr):  # -9: killed by the kernel
        return None
    last = done.stderr.strip().splitlines()[-1:] or [f"the measuring process failed with exit code {done.returncode}"]
    raise ValueError(last[0].removeprefix("tiny-lm find-batch-size: "))


def measure(
    params: TransformerParams,
    train: TrainParams,
    devices: int,
    vocab_size: int,
    memory: int | None,
    seconds: float,
    parent: int | None,
) -> dict[str, float]:
    """Memory limit and peak in bytes, and tokens per second of all devices, whose communication is not measured: over a
    whole run, and in steps whose loss is over the whole vocabulary. Ends this process if it needs more memory than the
    limit, or when `parent` has ended.
    """
    import torch

    from tiny_lm.device import keep_memory, set_arithmetic, uses_cuda
    from tiny_lm.model.registry import build_model
    from tiny_lm.training.optimizer import build_optimizer
    from tiny_lm.training.tree import GradientTree

    device = "cuda" if uses_cuda("train", train.accelerator, train.precision) else "cpu"
    limit = _stay_under(memory, device, parent)
    keep_memory()
    set_arithmetic(train.threads, train.portable, cuda=device == "cuda")
    torch.use_deterministic_algorithms(train.deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    model = build_model(params, vocab_size, train.initialization).to(device)
    optimizer = build_optimizer(model, train, weight_decay=0.0)  # with a learning rate of 0, so the loss stays finite
    scaler = torch.amp.GradScaler(device, enabled=train.precision == "16-mixed")
    dtype = torch.float16 if train.precision == "16-mixed" else torch.bfloat16
    if train.compile:
        model.compile_loss()
    x, y = random_tokens(vocab_size, (2, train.micro_batch_size, params.context_length), device)  # (B, T) each

    accumulate = train.micro_batches_per_device(devices)
    # Steps here have two micro-batches at most. What a run also holds: other subtrees of gradients, and on the CPU, the
    # weights with the lowest validation loss.
    passes, tree = min(accumulate, 2), GradientTree()
    copies = max(0, accumulate.bit_length() - 2) + (device == "cpu")
    held = [torch.ones_like(p) for p in model.parameters() for _ in range(copies)]

    def micro_batch(vocabulary: float, last: bool) -> None:
        with torch.autocast(device, dtype, enabled=train.precision != "32"):
            loss = model.summed_loss(x, y, vocabulary) / y.numel() / accumulate
        scaler.scale(loss).backward()
        if not last:
            tree.take(model)
        elif passes == 2:
            tree.add_to({p: p.grad for p in model.parameters() if p.grad is not None})

    def update() -> None:
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.gradient_clip)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        tree.clear()

    def timed(work: Callable[..., None], *arguments: float) -> float:
        start = time.perf_counter()
        work(*arguments)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    micro: dict[float, list[float]] = {vocabulary: [] for vocabulary in train.vocabularies}  # seconds
    updates: list[float] = []
    started = time.perf_counter()
    while len(updates) < 2 * len(micro) or time.perf_counter() - started < seconds:
        for vocabulary, times in micro.items():
            times += [timed(micro_batch, vocabulary, each == passes - 1) for each in range(passes)]
            updates.append(timed(update))
        if len(updates) == len(micro):  # the first steps are slower
            started = time.perf_counter()
    each = {vocabulary: statistics.median(times[passes:]) for vocabulary, times in micro.items()}
    rest = statistics.median(updates[len(micro) :])
    del held

    def speed(micro_batch_seconds: float) -> float:
        return train.batch_size * params.context_length / (accumulate * micro_batch_seconds + rest)

    return {
        "memory_limit": limit,
        "memory_bytes": torch.cuda.max_memory_reserved() if device == "cuda" else peak_memory(),
        "tokens_per_second": speed(sum(steps * each[vocabulary] for vocabulary, steps in train.vocabularies.items())),
        "whole_vocabulary_tokens_per_second": speed(each[1.0]),
    }


def random_tokens(vocab_size: int, shape: tuple[int, ...], device: str) -> Tensor:
    """As frequent as those of a text, by Zipf's law: how many different ones there are counts in a sampled softmax."""
    import torch

    return (vocab_size ** torch.rand(shape, device=device)).long() - 1


def _stay_under(memory: int | None, device: str, parent: int | None) -> int:
    """Ends this process when it exceeds `memory` (None: what is available) or when `parent` has ended. Returns the
    limit in bytes. If the system runs out of memory first, it kills this process before others.
    """
    import torch

    if device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (memory or total) / total))
    limit = memory or (total if device == "cuda" else available())
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")

    def watch() -> None:
        while (device == "cuda" or peak_memory() <= limit) and os.getppid() == (parent or os.getppid()):
            time.sleep(0.02)
        os._exit(OVER_LIMIT)

    threading.Thread(target=watch, daemon=True).start()
    return limit


def peak_memory() -> int:
    """Peak resident memory of this process, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # because ru_maxrss includes the peak of the process that started this one
        return 1024 * int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1])  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def available() -> int:
    """Bytes that a process can use now, in this system and in this container."""
    info = Path("/proc/meminfo")
    if info.exists():
        left = [1024 * int(re.search(r"MemAvailable:\s*(\d+)", info.read_text())[1])]  # type: ignore[index]
    else:
        left = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for limit, used in CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            left.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
    return max(1, min(left))
