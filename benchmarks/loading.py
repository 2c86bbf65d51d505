"""How long a training step waits for data at a GPU's speed, and how startup and memory grow with the tokens.

    PYTHONPATH=src python benchmarks/loading.py                # about four minutes, 4 GB in the temporary folder
    PYTHONPATH=src python benchmarks/loading.py --megabytes 200 --steps 50 --folder .work    # less, elsewhere

Waits: a consumer takes micro-batches from the train stage's loader, 224 sequences of 1024 tokens per step in
micro-batches of 56, and sleeps for the time that a GPU at 2 million tokens per second would need for them. The time
spent in `next` is the wait. The stage loads with a thread on CUDA and synchronously on a CPU; a torch worker process is
included for comparison. Warm: the files were just read. Cold: the kernel has dropped their pages
(POSIX_FADV_DONTNEED). Each run is a separate process.

Startup and memory: 1 M, 100 M and 10 G tokens; the last in sparse files that contain only the first and last token of
each document, with correct metadata. Startup is opening the shards, after the imports, and the first micro-batch;
memory is what the process has allocated (RssAnon), minus what it had before opening the shards. The stage also verifies
the checksum of every byte first; this is measured separately by `checksums.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tiny_lm.encoding.writer import SplitWriter, write_metadata
from tiny_lm.shards.format import (
    FORMAT,
    Lengths,
    Shard,
    ShardsMetadata,
    Split,
    dtype_for,
    mean_length,
    shard_name,
)

LOADERS = ("synchronous", "one worker", "thread")
VOCABULARY, SHARD_TOKENS = 8192, 50_000_000
PAD, EOS, BOS, UNK = range(4)
BATCH, MICRO_BATCH, CONTEXT = 224, 56, 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=4000, help="of shards to read from, warm and cold")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--speed", type=float, default=2e6, help="tokens per second of the GPU")
    parser.add_argument("--folder", type=Path, help="folder for the shards; default: the system's temporary folder")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        work = json.loads(args.child)
        print(json.dumps((opening if work["steps"] == 0 else waits)(work)))
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        show_waits(Path(name, "shards"), args)
        show_sizes(Path(name))


def show_waits(folder: Path, args: argparse.Namespace) -> None:
    write_shards(folder, args.megabytes * 10**6 // 2)
    seconds = BATCH * CONTEXT / args.speed
    print(
        f"\nwaits of {args.steps} steps of {1000 * seconds:.1f} ms, {BATCH} × {CONTEXT} tokens each, "
        f"{args.megabytes} MB of shards; {args.rounds} rounds\n"
        f"{'loader':<14}{'cache':<6}{'% of the step':>18}{'mean':>9}{'median':>9}{'slowest':>9} step"
    )
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(args.rounds):
        for loader in LOADERS:
            for cache in ("cold", "warm"):
                for file in folder.rglob("*.bin"):
                    drop(file) if cache == "cold" else file.read_bytes()
                work = {"folder": str(folder), "loader": loader, "steps": args.steps, "seconds": seconds}
                found.setdefault((loader, cache), []).append(child(work))
    for (loader, cache), rounds in found.items():
        share, mean, median, worst = (
            statistics.median(one[key] for one in rounds) for key in ("share", "mean", "median", "worst")
        )
        print(
            f"{loader:<14}{cache:<6}{100 * share:>16.2f} %{1000 * mean:>6.2f} ms{1000 * median:>6.2f} ms"
            f"{1000 * worst:>6.1f} ms"
        )


def show_sizes(folder: Path) -> None:
    print(f"\n{'tokens':>14}{'opening':>12}{'first batch':>13}{'100 steps':>12}{'memory':>11}   median of 3")
    for tokens in (10**6, 10**8, 10**10):
        shards = folder / str(tokens)
        write_shards(shards, tokens) if tokens < 10**10 else write_sparse_shards(shards, tokens)
        found = [child({"folder": str(shards), "loader": "synchronous", "steps": 0}) for _ in range(3)]
        opening, first, rest, memory = (
            statistics.median(one[key] for one in found) for key in ("opening", "first", "rest", "memory")
        )
        print(f"{tokens:>14,}{1000 * opening:>9.1f} ms{1000 * first:>10.1f} ms{rest:>10.2f} s{memory / 1e6:>8.1f} MB")


def child(work: dict[str, Any]) -> dict[str, float]:
    result = subprocess.run([sys.executable, __file__, "--child", json.dumps(work)], check=True, capture_output=True)
    answer: dict[str, float] = json.loads(result.stdout)
    return answer


def loader_of(work: dict[str, Any], steps: int) -> Any:
    from tiny_lm.training import datamodule

    params: Any = SimpleNamespace(
        stride=None, seed=1, steps=steps, batch_size=BATCH, micro_batch_size=MICRO_BATCH, val_documents=200
    )
    if work["loader"] == "thread":
        datamodule.DataLoader = datamodule.ReadAhead  # type: ignore[misc]
    loader = datamodule.BinTokenDataModule(Path(work["folder"]), CONTEXT, params).train_dataloader()
    if work["loader"] != "one worker":
        return loader
    sampler, collate = loader.batch_sampler, loader.collate_fn
    return datamodule.DataLoader(
        loader.dataset, batch_sampler=sampler, collate_fn=collate, num_workers=1, prefetch_factor=8
    )


def waits(work: dict[str, Any]) -> dict[str, float]:
    batches = iter(loader_of(work, work["steps"] + 1))
    pause, waited = work["seconds"] / (BATCH // MICRO_BATCH), []
    for _ in range(work["steps"] + 1):
        inside = 0.0
        for _ in range(BATCH // MICRO_BATCH):
            start = time.perf_counter()
            next(batches)
            inside += time.perf_counter() - start
            time.sleep(pause)
        waited.append(inside)
    waited = waited[1:]  # the first includes startup
    mean = statistics.mean(waited)
    return {
        "share": mean / work["seconds"], "mean": mean, "median": statistics.median(waited), "worst": max(waited)
    }  # fmt: skip


def opening(work: dict[str, Any]) -> dict[str, float]:
    import tiny_lm.training.datamodule  # noqa: F401

    before, start = allocated(), time.perf_counter()
    batches = iter(loader_of(work, 101))
    opened = time.perf_counter()
    next(batches)
    first = time.perf_counter()
    for _ in range(100 * BATCH // MICRO_BATCH):
        next(batches)
    rest = time.perf_counter()
    return {"opening": opened - start, "first": first - opened, "rest": rest - first, "memory": allocated() - before}


def allocated() -> int:
    """Anonymous memory of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


def drop(file: Path) -> None:
    """Drops the pages of `file` from the kernel's cache."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_shards(folder: Path, tokens: int) -> None:
    """Random tokens in documents of 500."""
    rng = np.random.default_rng(0)
    splits = {}
    for name, size in (("train", tokens), ("val", 100_000)):
        with SplitWriter(folder, name, VOCABULARY, BOS, SHARD_TOKENS) as writer:
            for first in range(0, size, 1_000_000):
                stream = rng.integers(4, VOCABULARY, min(1_000_000, size - first), np.uint16).reshape(-1, 500)
                stream[:, 0], stream[:, -1] = BOS, EOS
                writer.write(stream.reshape(-1), np.tile(np.array([[500, 1500, 1500]]), (len(stream), 1)))
            splits[name] = writer.finish()
    finish(folder, splits["train"], splits["val"])


def write_sparse_shards(folder: Path, tokens: int) -> None:
    """Documents of a million tokens: <bos>, holes that read as <pad>, <eos>. All files are equal, so one is hashed."""
    write_shards(folder, 1_000_000)
    val = json.loads((folder / "metadata.json").read_text())["val"]
    length, size = 1_000_000, dtype_for(VOCABULARY).itemsize
    files, documents = tokens // SHARD_TOKENS, tokens // length
    for index in range(files):
        with (folder / shard_name("train", index)).open("wb") as file:
            file.truncate(SHARD_TOKENS * size)
            for document in range(SHARD_TOKENS // length):
                for place, token in ((0, BOS), (length - 1, EOS)):
                    file.seek((document * length + place) * size)
                    file.write(token.to_bytes(size, "little"))
    with (folder / shard_name("train", 0)).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    lengths = np.tile(np.array([[length, 3 * length, 3 * length]], "<u4"), (documents, 1))
    lengths.tofile(folder / "train/lengths.bin")
    each = [Lengths(min=n, mean=mean_length(n * documents, documents), max=n) for n in (length, 3 * length)]
    train = Split(
        tokens=tokens, documents=documents, characters=3 * tokens, bytes=3 * tokens, document_tokens=each[0],
        document_characters=each[1], lengths_sha256=hashlib.sha256(lengths.tobytes()).hexdigest(),
        shards=tuple(
            Shard(file=shard_name("train", i), tokens=SHARD_TOKENS, documents=SHARD_TOKENS // length, sha256=digest)
            for i in range(files)
        ),
    )  # fmt: skip
    finish(folder, train, val)


def finish(folder: Path, train: Split, val: Any) -> None:
    metadata = ShardsMetadata(
        format=FORMAT, dtype=dtype_for(VOCABULARY).name, vocab_size=VOCABULARY, pad_id=PAD, eos_id=EOS, bos_id=BOS,
        unk_id=UNK, tokenizer="0" * 64, train=train, val=val,
    )  # fmt: skip
    write_metadata(folder, metadata)


if __name__ == "__main__":
    main()
