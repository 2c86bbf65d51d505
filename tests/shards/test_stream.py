import hashlib
import json
import mmap
import os
import re
import resource
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tiny_lm.encoding.writer import write_metadata
from tiny_lm.runner.verify import verify_shards
from tiny_lm.shards import stream as stream_module
from tiny_lm.shards.stream import TokenStream
from tiny_lm.tools.inspect_shards import read_documents
from tiny_lm.tools.subset import write_subset
from tiny_lm.training.dataset import BinTokenDataset


def test_a_range_is_read_across_files(make_shards, stories, stream_of, tmp_path: Path) -> None:
    train = stories(40)
    make_shards(train)
    stream, expected = TokenStream(tmp_path / "shards", "train"), stream_of(train)
    assert len(stream) == len(expected)
    for start, stop in [
        (0, len(expected)),
        (999, 1001),
        (1000, 1000),
        (500, 3100),
        (len(expected), len(expected)),
        (5, 9),
    ]:
        assert stream.read(start, stop).tolist() == expected[start:stop]


@pytest.mark.parametrize("length", [1, 7, 1000, 1001, 2500])
def test_windows_are_gathered_within_and_across_files(
    length: int, make_shards, stories, stream_of, tmp_path: Path
) -> None:
    train = stories(40)
    make_shards(train)
    stream, expected = TokenStream(tmp_path / "shards", "train"), stream_of(train)
    starts = np.append(np.random.default_rng(0).integers(0, len(expected) - length, 60), [0, len(expected) - length])
    windows = stream.windows(starts, length)
    assert windows.dtype == np.int64
    assert windows.tolist() == [expected[s : s + length] for s in starts]


def test_all_windows_are_prefetched_before_the_first_is_read(make_shards, stories, tmp_path: Path) -> None:
    make_shards(stories(100), shard_tokens=6000)
    stream = TokenStream(tmp_path / "shards", "train")
    assert len(stream.split.shards) > 1
    advised: list[tuple[int, ...]] = []  # file, advice, start, length
    places = [(0, 0), (0, 5000), (1, 3), (1, 2100)]  # of the windows: file and token
    starts = np.array([stream.bounds[file] + token for file, token in places])
    expected = stream.windows(starts, 50)
    arrays = [stream.shard(file) for file in range(len(stream.split.shards))]
    stream._map_shard = lambda k: (SimpleNamespace(madvise=lambda *of: advised.append((k, *of))), arrays[k])
    assert (stream.windows(starts, 50) == expected).all()
    for (file, token), (of, advice, start, length) in zip(places, advised, strict=True):
        assert (of, advice, start % mmap.PAGESIZE) == (file, mmap.MADV_WILLNEED, 0)
        assert start <= 2 * token
        assert 2 * (token + 50) <= start + length
    advised.clear()
    stream.windows(starts, 1)
    assert advised == []


@pytest.fixture
def few_open_files() -> Iterator[None]:
    """The process can open only 40 more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 40, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_there_can_be_more_shards_than_open_files(make_shards, stream_of, tmp_path: Path, few_open_files: None) -> None:
    train, folder = [f"{i:04}" * 50 for i in range(400)], tmp_path / "shards"
    assert len(make_shards(train, train[:20]).train.shards) == 81
    expected = np.array(stream_of(train))
    stream = TokenStream(folder, "train")
    assert (stream.read(0, len(stream)) == expected).all()
    starts = np.random.default_rng(0).integers(0, len(expected) - 700, 200)
    assert (stream.windows(starts, 700) == [expected[s : s + 700] for s in starts]).all()
    assert len(stream.document_starts()) == 401
    verify_shards(folder)
    write_subset(folder, tmp_path / "subset", {"train": 80_000, "val": None})
    assert len(read_documents(stream, 390, 10)) == 10
    x, _ = BinTokenDataset(stream, 700, stride=300).__getitems__(range(200))
    assert x.tolist() == [expected[300 * i : 300 * i + 700].tolist() for i in range(200)]


def test_the_number_of_open_maps_depends_on_the_limit_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, most in ((256, 32), (1024, 128), (1 << 20, 4096), (resource.RLIM_INFINITY, 4096), (4, 1)):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, soft=soft: (soft, resource.RLIM_INFINITY))
        assert stream_module._max_maps() == most


@pytest.mark.parametrize("limit", [None, 1, 3, 1000])
def test_document_starts_delimit_the_documents(
    limit: int | None, make_shards, stories, stream_of, tmp_path: Path
) -> None:
    train = stories(20)
    make_shards(train)
    stream = TokenStream(tmp_path / "shards", "train")
    documents = [stream.read(start, stop).tolist() for start, stop in pairwise(stream.document_starts(limit))]
    assert documents == [stream_of([text]) for text in train[:limit]]


def test_lengths_are_those_of_the_texts(make_shards, stories, tmp_path: Path) -> None:
    train = stories(20)
    make_shards(train)
    expected = [[len(t.encode()) + 2, len(t), len(t.encode())] for t in train]
    assert TokenStream(tmp_path / "shards", "train").lengths.tolist() == expected


def test_document_starts_can_be_computed_in_parts(
    make_shards, stories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_shards(stories(20))
    stream = TokenStream(tmp_path / "shards", "train")
    whole, parts = stream.document_starts().tolist(), [0]
    for first in range(0, 20, 7):
        parts += stream.document_starts(first + 7, first, parts[-1])[1:].tolist()
    assert parts == whole
    monkeypatch.setattr("tiny_lm.runner.verify.CHUNK", 32)  # bytes: 16 tokens, and one document
    verify_shards(tmp_path / "shards")


def test_opening_reads_no_tokens_however_many_there_are(make_shards, tmp_path: Path) -> None:
    """Ten billion tokens in a sparse file, read at both ends."""
    metadata = make_shards(["some text"])
    tokens = 10**10
    folder = tmp_path / "shards"
    with (folder / "train/00000.bin").open("r+b") as file:
        file.truncate(2 * tokens)
    values = json.loads((folder / "metadata.json").read_text())
    values["train"] |= {"tokens": tokens, "bytes": tokens, "characters": tokens}
    values["train"]["document_tokens"] = values["train"]["document_characters"] = {
        "min": 0,
        "mean": tokens,
        "max": tokens,
    }
    values["train"]["shards"][0]["tokens"] = tokens
    (folder / "metadata.json").write_text(json.dumps(values))
    stream = TokenStream(folder, "train")
    assert len(stream) == tokens
    assert stream.windows(np.array([0, tokens - 9]), 9).tolist() == [[258, *b"some tex"], [0] * 9]
    assert metadata.train.tokens == 11


@pytest.fixture
def folder(make_shards, tmp_path: Path) -> Path:
    make_shards(["some text " * 300], ["x", "yy"])
    verify_shards(tmp_path / "shards")
    return tmp_path / "shards"


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["train/00000.bin", "train/00003.bin", "val/00000.bin"])
@pytest.mark.parametrize("offset", [2, -4])
def test_a_flipped_bit_is_found(folder: Path, name: str, offset: int) -> None:
    flip(folder / name, offset)
    with pytest.raises(ValueError, match=rf"{name}: .*; run `tiny-lm restore shards`, `dvc pull`"):
        verify_shards(folder)


def test_a_flipped_bit_in_the_lengths_is_found(folder: Path) -> None:
    flip(folder / "val/lengths.bin", 0)
    with pytest.raises(ValueError, match=r"val/lengths.bin: checksum mismatch with metadata.json"):
        verify_shards(folder)
    with pytest.raises(ValueError, match=r"val/lengths.bin: does not match the tokens"):
        TokenStream(folder, "val").document_starts()


@pytest.mark.parametrize("change", [-1, -2, 2])
def test_a_file_of_the_wrong_size_is_refused_when_opened(folder: Path, change: int) -> None:
    path = folder / "train/00001.bin"
    os.truncate(path, 2000 + change)
    message = re.escape(f"{path}: {2000 + change} bytes, must be 2000; run `tiny-lm restore shards`")
    with pytest.raises(ValueError, match=message):
        TokenStream(folder, "train")
    with pytest.raises(ValueError, match=message):
        verify_shards(folder)


@pytest.mark.parametrize("name", ["train/00002.bin", "val/lengths.bin"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"{name}: there is no such file; run `tiny-lm restore shards`"):
        verify_shards(folder)


def test_shards_of_another_build_are_refused(folder: Path, make_shards, tmp_path: Path) -> None:
    make_shards(["other text" * 300], ["x", "yy"], folder="other")
    shutil.copy(tmp_path / "other/train/00000.bin", folder / "train/00000.bin")
    with pytest.raises(ValueError, match=r"train/00000.bin: checksum mismatch with metadata.json"):
        verify_shards(folder)


def test_ids_outside_the_vocabulary_are_refused(make_shards, tmp_path: Path) -> None:
    """They would be out of range in the embedding, and no checksum shows them."""
    metadata = make_shards(["a"], vocab_size=300, encode=lambda texts: np.array([258, 299, 257], np.uint32))
    values = {f: getattr(metadata, f) for f in metadata.__dataclass_fields__} | {"vocab_size": 290}
    write_metadata(tmp_path / "shards", type(metadata)(**values))
    with pytest.raises(ValueError, match=r"train/00000.bin: token 299, must be below 290"):
        verify_shards(tmp_path / "shards")


def test_links_to_a_cache_are_followed(folder: Path, tmp_path: Path) -> None:
    """DVC can link its outputs to its cache."""
    path = folder / "train/00000.bin"
    path.rename(tmp_path / "cached")
    path.symlink_to(tmp_path / "cached")
    verify_shards(folder)


def forge(folder: Path, edit: Any) -> None:
    """Edits metadata and files, then updates the checksums of the validation split."""
    metadata = json.loads((folder / "metadata.json").read_text())
    lengths = np.fromfile(folder / "val/lengths.bin", "<u4").reshape(-1, 3)
    tokens = np.fromfile(folder / "val/00000.bin", "<u2")
    edit(metadata, lengths, tokens)
    lengths.tofile(folder / "val/lengths.bin")
    tokens.tofile(folder / "val/00000.bin")
    metadata["val"]["lengths_sha256"] = hashlib.sha256(lengths.tobytes()).hexdigest()
    metadata["val"]["shards"][0]["sha256"] = hashlib.sha256(tokens.tobytes()).hexdigest()
    (folder / "metadata.json").write_text(json.dumps(metadata))


def with_more_characters(metadata: Any, lengths: Any, tokens: Any) -> None:
    lengths[0, 1] += 1


def document_in_another_shard(metadata: Any, lengths: Any, tokens: Any) -> None:
    first, second = metadata["train"]["shards"][:2]
    first["documents"], second["documents"] = 0, 1


def without_eos(metadata: Any, lengths: Any, tokens: Any) -> None:
    tokens[lengths[0, 0] - 1] = ord("x")


def with_a_second_bos(metadata: Any, lengths: Any, tokens: Any) -> None:
    tokens[1] = tokens[0]


def with_swapped_lengths(metadata: Any, lengths: Any, tokens: Any) -> None:
    lengths[:, 0] = lengths[::-1, 0].copy()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            with_more_characters,
            r"val/lengths.bin: sums \[7, 4, 3\] do not match the tokens, characters, bytes in metadata.json",
        ),
        (document_in_another_shard, r"train/00000.bin: 1 <bos> and 0 <eos>, must be 0"),
        (without_eos, r"val/lengths.bin: does not match the tokens"),
        (with_a_second_bos, r"val/00000.bin: 3 <bos> and 2 <eos>, must be 2"),
        (with_swapped_lengths, r"val/lengths.bin: does not match the tokens"),
    ],
)
def test_contradictions_are_found_even_if_checksums_match(folder: Path, edit: Any, message: str) -> None:
    forge(folder, lambda *_: None)
    verify_shards(folder)
    forge(folder, edit)
    with pytest.raises(ValueError, match=message):
        verify_shards(folder)
