"""Source to shards, stage by stage, each compared with the bare library that does its work, in one run.

    PYTHONPATH=src python benchmarks/encode.py              # about three minutes; --megabytes, --rounds
    PYTHONPATH=src python benchmarks/encode.py --gigabyte   # 1 GB through two stages: time and memory

Each document is a built-in story and a paragraph of invented words, so that there are 8k tokens to learn.

Encoding: ours goes from a Parquet file to shards on disk. Bare tiktoken is `encode_to_numpy` on documents in memory, in
as many threads, with the result discarded. `datasets.map` goes from the Parquet file to an Arrow file in as many
processes, as in nanoGPT's data preparation.
Tokenizer: ours from the Parquet file; bare rustbpe on the same file read whole, and on texts in memory.
Corpus: the stage on a local Parquet and a local JSONL file, from the file to both splits and their metadata on disk;
compared with reading the file (decompressed, or parsed as JSON) and the hashes that the stage needs (SHA-256 of the
source, the texts and the result; BLAKE2b for duplicates and the split), each over the whole text at once.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
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
from functools import partial
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import rustbpe
import tiktoken

from tiny_lm.bpe import TokenizerParams, train_tokenizer
from tiny_lm.documents import DocumentWriter, file_name, read_documents, read_split
from tiny_lm.encoding.encode import ShardsParams, write_shards
from tiny_lm.io.params import load_params, read_yaml
from tiny_lm.runner.executors import Processes
from tiny_lm.shards.format import ShardsMetadata
from tiny_lm.stages import corpus as corpus_stage
from tiny_lm.stories.generator import story
from tiny_lm.tokenizer.encode import Tokenizer
from tiny_lm.tokenizer.patterns import PATTERNS, SPECIAL_TOKENS

HERE = Path(__file__).resolve().parent
TRAIN = "train/00000.parquet"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gigabyte", action="store_true")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)  # one part of --gigabyte, in a separate process
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


Contenders = dict[str, Callable[[], Any]]  # ours first


def compare(folder: Path, megabytes: int, rounds: int) -> None:
    texts = list(documents(megabytes * 10**6))
    size = sum(len(text.encode()) for text in texts)
    write_corpus(folder, texts)
    print(f"{len(texts)} documents, {size / 1e6:.1f} MB; median of {rounds} alternating rounds (slowest – fastest)")
    params = TokenizerParams(vocab_size=8192, pattern="gpt4-digits2")

    def bare_bpe(documents: list[str]) -> None:
        size, pattern = params.vocab_size - len(SPECIAL_TOKENS), PATTERNS[params.pattern]
        rustbpe.Tokenizer().train_from_iterator(iter(documents), vocab_size=size, pattern=pattern)

    race(
        {
            "tokenizer": lambda: train_tokenizer(read_documents(folder / TRAIN), params),
            "bare rustbpe, the file read whole": lambda: bare_bpe(
                pq.read_table(folder / TRAIN)["text"].to_pylist()
            ),
            "bare rustbpe, texts in memory": lambda: bare_bpe(texts),
        },
        size, rounds,
    )  # fmt: skip
    tokenizer = train_tokenizer(texts[: len(texts) // 2], params)
    race(
        {
            f"shards, {CORES} workers, to disk": lambda: shards(folder, tokenizer, CORES),
            "shards, 1 worker, to disk": lambda: shards(folder, tokenizer, 1),
            f"bare tiktoken, {CORES} threads": lambda: bare(texts, tokenizer),
            f"datasets.map, {CORES} processes": lambda: datasets_map(folder, tokenizer),
        },
        size, rounds,
    )  # fmt: skip
    source = folder / "source.jsonl"
    with source.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    whole = "".join(texts).encode()

    def read_and_hash(path: Path, read: Callable[[Path], object]) -> None:
        read(path)
        hashes(path, whole, folder / "out/data/corpus" / TRAIN)

    for path, read in (
        (folder / TRAIN, lambda path: pq.read_table(path)),
        (source, lambda path: [json.loads(line) for line in path.open("rb")]),
    ):
        race(
            {
                f"corpus from {path.suffix}": partial(corpus, folder / "out", path),
                "reading and hashing": partial(read_and_hash, path, read),
            },
            size, rounds,
        )  # fmt: skip


def race(contenders: Contenders, size: int, rounds: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):  # alternating, so that a slow minute of the machine affects all equally
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender()
            seconds[name].append(time.perf_counter() - start)
    ours = next(iter(seconds.values()))
    print()
    for name, times in seconds.items():
        spread = f"({size / 1e6 / max(times):.1f} – {size / 1e6 / min(times):.1f})"
        ratio = statistics.median(a / b for a, b in zip(times, ours, strict=True))
        print(f"{name:<34}{size / 1e6 / statistics.median(times):7.1f} MB/s {spread:<17}{ratio:6.2f} × our time")


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
        train_tokenizer(read_documents(folder / TRAIN), params).save(folder / "tokenizer")
    else:
        shards(folder, Tokenizer.load(folder / "tokenizer"), CORES)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"seconds": time.perf_counter() - start, "peak_bytes": peak}))


def documents(size: int) -> Iterator[str]:
    """About `size` bytes: each one of 10,000 stories and up to 60 of 20,000 invented words, a few of them frequent."""
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
        (folder / split).mkdir()
        with DocumentWriter(folder / file_name(split, 0)) as writer:
            for text in documents:
                writer.write(text)


def shards(folder: Path, tokenizer: Tokenizer, workers: int) -> ShardsMetadata:
    return write_shards(
        folder / "shards",
        {split: read_split(folder / split) for split in ("train", "val")},
        tokenizer.encode_documents,
        ShardsParams(shard_tokens=50_000_000),
        vocab_size=tokenizer.vocab_size,
        special_ids=tokenizer.special_ids,
        tokenizer=tokenizer.digest,
        workers=workers,
    )  # fmt: skip


def whole_pattern(tokenizer: Tokenizer) -> tiktoken.Encoding:
    """tiktoken with the full pattern, as others use it."""
    return tiktoken.Encoding(
        "whole", pat_str=PATTERNS[tokenizer.pattern], mergeable_ranks=tokenizer.ranks, special_tokens={}
    )


def corpus(folder: Path, source: Path) -> None:
    """The corpus stage on a local file."""
    folder.mkdir(exist_ok=True)
    values = read_yaml(HERE.parent / "configs/dataset/local.yaml")["dataset"] | {"path": str(source), "field": "text"}
    stage = SimpleNamespace(
        section=lambda name, choices: load_params(name, values, choices), runtime=SimpleNamespace(progress=False),
        say=lambda text: None, executor=lambda: contextlib.closing(Processes(CORES, "tiny_lm.stages.corpus")),
    )  # fmt: skip
    with contextlib.chdir(folder):
        corpus_stage.main(stage)  # type: ignore[arg-type]


def hashes(source: Path, text: bytes, result: Path) -> None:
    for path in (source, result):
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256").digest()
    hashlib.sha256(text).digest()
    for size in (16, 8):
        hashlib.blake2b(text, digest_size=size).digest()


def bare(texts: list[str], tokenizer: Tokenizer) -> None:
    encode = whole_pattern(tokenizer).encode_to_numpy

    def encode_all(batch: list[str]) -> None:
        for text in batch:
            encode(text, disallowed_special=())

    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(encode_all, [texts[i : i + 256] for i in range(0, len(texts), 256)]))


def datasets_map(folder: Path, tokenizer: Tokenizer) -> None:
    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        data = datasets.load_dataset("parquet", data_files=str(folder / TRAIN), split="train", cache_dir=cache)
        encoding = whole_pattern(tokenizer)
        data.map(
            lambda batch: {"ids": [encoding.encode_ordinary(text) for text in batch["text"]]},
            batched=True,
            num_proc=CORES,
            remove_columns=["text"],
        )


if __name__ == "__main__":
    main()
