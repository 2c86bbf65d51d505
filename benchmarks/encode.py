"""From documents to shards: our writer beside tiktoken's bare speed and beside `datasets.map`, in one run.

    PYTHONPATH=src python benchmarks/encode.py              # about a minute; --megabytes and --rounds to change that
    PYTHONPATH=src python benchmarks/encode.py --gigabyte   # 1 GB through both stages: time and memory

Each contender encodes the same documents, a built-in story and a paragraph of invented words each, so that 8k tokens
can be learnt. Ours starts from a Parquet file and ends with shards on disk; tiktoken's bare speed is
`encode_to_numpy` on documents in memory, in as many threads, with the result thrown away; `datasets.map` starts from
the Parquet file, encodes in as many processes and ends with its Arrow file, as nanoGPT's preparation does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any

from tiny_lm.corpus.documents import DocumentWriter, read_documents
from tiny_lm.corpus.stories import story
from tiny_lm.shards.format import ShardsMetadata
from tiny_lm.shards.writer import ShardsParams, write_shards
from tiny_lm.tokenizer.bpe import Tokenizer
from tiny_lm.tokenizer.trainer import TokenizerParams, train_tokenizer

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gigabyte", action="store_true")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)  # one part of --gigabyte, in a process of its own
    args = parser.parse_args()
    if args.part:
        run_part(args.part[0], Path(args.part[1]))
        return
    print(
        f"{platform.processor() or platform.machine()}, {CORES} cores, Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in ("tiktoken", "rustbpe", "datasets", "pyarrow"))
    )
    with tempfile.TemporaryDirectory() as folder:
        if args.gigabyte:
            gigabyte(Path(folder))
        else:
            compare(Path(folder), args.megabytes, args.rounds)


def compare(folder: Path, megabytes: int, rounds: int) -> None:
    texts = list(documents(megabytes * 10**6))
    size = sum(len(text.encode()) for text in texts)
    write_corpus(folder, texts)
    tokenizer = train_tokenizer(texts[: len(texts) // 2], TokenizerParams(vocab_size=8192, pattern="gpt4-digits2"))
    contenders: dict[str, Callable[[], Any]] = {
        f"ours, {CORES} workers, to disk": lambda: shards(folder, tokenizer, CORES),
        "ours, 1 worker, to disk": lambda: shards(folder, tokenizer, 1),
        f"tiktoken bare, {CORES} threads": lambda: bare(texts, tokenizer),
        f"datasets.map, {CORES} processes": lambda: datasets_map(folder, tokenizer),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):  # in turns, so that a slow minute of the machine hits all alike
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender()
            seconds[name].append(time.perf_counter() - start)
    print(f"{len(texts)} documents, {size / 1e6:.1f} MB; median of {rounds} rounds (slowest – fastest)\n")
    ours = statistics.median(seconds[next(iter(contenders))])
    for name, times in seconds.items():
        median = statistics.median(times)
        spread = f"({size / 1e6 / max(times):.1f} – {size / 1e6 / min(times):.1f})"
        print(f"{name:<32}{size / 1e6 / median:7.1f} MB/s {spread:<17}{median / ours:6.2f} × our time")


def gigabyte(folder: Path) -> None:
    write_corpus(folder, documents(10**9))
    print("\n1 GB of text                    seconds   peak memory")
    for part in ("tokenizer", "shards"):
        command = [sys.executable, __file__, "--part", part, str(folder)]
        result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{part:<32}{result['seconds']:7.1f}   {result['peak_bytes'] / 1e6:7.0f} MB")


def run_part(part: str, folder: Path) -> None:
    start = time.perf_counter()
    if part == "tokenizer":
        params = TokenizerParams(vocab_size=8192, pattern="gpt4-digits2")
        train_tokenizer(read_documents(folder / "train.parquet"), params).save(folder / "tokenizer")
    else:
        shards(folder, Tokenizer.load(folder / "tokenizer"), CORES)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"seconds": time.perf_counter() - start, "peak_bytes": peak}))


def documents(size: int) -> Iterator[str]:
    """`size` bytes: one of 10,000 stories, and up to 60 words out of 20,000 invented ones, a few of them frequent."""
    rng = random.Random(0)
    stories = [story(1, index) for index in range(10_000)]
    syllables = [
        a + b + c for a in "bdfgklmnprstvwz" for b in ("a", "e", "i", "o", "ou", "ee") for c in ("", "n", "rs")
    ]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(20_000)]
    weights = list(accumulate(1 / (rank + 10) for rank in range(len(words))))
    while size > 0:
        invented = " ".join(rng.choices(words, cum_weights=weights, k=rng.randint(5, 60)))
        text = f"{rng.choice(stories)}\n\n{invented.capitalize()}, {rng.randrange(10**6)}.\n"
        size -= len(text.encode())
        yield text


def write_corpus(folder: Path, texts: Any) -> None:
    for split, documents in (("val", ["A short validation text."]), ("train", texts)):
        with DocumentWriter(folder / f"{split}.parquet") as writer:
            for text in documents:
                writer.write(text)


def shards(folder: Path, tokenizer: Tokenizer, workers: int) -> ShardsMetadata:
    return write_shards(
        folder / "shards",
        {split: read_documents(folder / f"{split}.parquet") for split in ("train", "val")},
        tokenizer.encode_documents,
        ShardsParams(shard_tokens=50_000_000),
        vocab_size=tokenizer.vocab_size,
        special_ids={
            "pad": tokenizer.pad_id, "eos": tokenizer.eos_id, "bos": tokenizer.bos_id, "unk": tokenizer.unk_id
        },
        tokenizer=tokenizer.digest,
        workers=workers,
    )  # fmt: skip


def bare(texts: list[str], tokenizer: Tokenizer) -> None:
    encode = tokenizer._encoding.encode_to_numpy

    def encode_all(batch: list[str]) -> None:
        for text in batch:
            encode(text, disallowed_special=())

    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(encode_all, [texts[i : i + 256] for i in range(0, len(texts), 256)]))


def datasets_map(folder: Path, tokenizer: Tokenizer) -> None:
    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        data = datasets.load_dataset(
            "parquet", data_files=str(folder / "train.parquet"), split="train", cache_dir=cache
        )
        encoding = tokenizer._encoding
        data.map(
            lambda batch: {"ids": [encoding.encode_ordinary(text) for text in batch["text"]]},
            batched=True,
            num_proc=CORES,
            remove_columns=["text"],
        )


if __name__ == "__main__":
    main()
