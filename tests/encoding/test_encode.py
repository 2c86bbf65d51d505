import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import yaml

from tiny_lm.encoding import encode as encode_module
from tiny_lm.encoding.encode import ShardsParams
from tiny_lm.io.params import load_params
from tiny_lm.runner.verify import verify_shards
from tiny_lm.shards.format import read_metadata


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def tokens_of(folder: Path, split: str, dtype: str = "<u2") -> list[int]:
    """As any reader would: the files in order, one after the other."""
    parts = [np.memmap(path, dtype=dtype) for path in sorted((folder / split).glob("0*.bin"))]
    return np.concatenate(parts).tolist()


def test_the_files_in_order_are_the_documents_between_bos_and_eos(
    make_shards, stories, stream_of, tmp_path: Path
) -> None:
    train, val = stories(40), stories(7)
    make_shards(train, val)
    assert tokens_of(tmp_path / "shards", "train") == stream_of(train)
    assert tokens_of(tmp_path / "shards", "val") == stream_of(val)


def test_every_file_but_the_last_is_full_and_documents_continue_in_the_next(
    make_shards, stories, stream_of, tmp_path: Path
) -> None:
    train = stories(40)
    metadata = make_shards(train, shard_tokens=1001)
    stream = stream_of(train)
    sizes = [shard.tokens for shard in metadata.train.shards]
    assert sizes == [1001] * (len(stream) // 1001) + [len(stream) % 1001]
    assert [(tmp_path / "shards" / s.file).stat().st_size for s in metadata.train.shards] == [2 * n for n in sizes]
    assert [s.file for s in metadata.train.shards[:2]] == ["train/00000.bin", "train/00001.bin"]
    starts = [stream[sum(sizes[:i]) : sum(sizes[: i + 1])].count(258) for i in range(len(sizes))]
    assert [s.documents for s in metadata.train.shards] == starts
    assert stream[1000] not in (257, 258)  # the first cut is inside a document


def test_text_that_is_appended_changes_the_last_file_only(make_shards, stories, tmp_path: Path) -> None:
    train = stories(40)
    make_shards(train[:20], folder="before")
    make_shards(train, folder="after")
    before, after = (
        {name: content for name, content in files(tmp_path / folder).items() if name.startswith("train/0")}
        for folder in ("before", "after")
    )
    *full, last = before
    assert len(full) >= 2
    assert len(after) > len(before)
    assert all(after[name] == before[name] for name in full)
    assert after[last].startswith(before[last])


def test_a_stream_that_fills_the_last_file_gets_no_empty_one(make_shards, tmp_path: Path) -> None:
    metadata = make_shards(["a" * 498] * 4)
    assert [s.tokens for s in metadata.train.shards] == [1000, 1000]
    assert sorted(p.name for p in (tmp_path / "shards/train").iterdir()) == ["00000.bin", "00001.bin", "lengths.bin"]


def test_the_metadata_has_counts_lengths_and_checksums(make_shards, tmp_path: Path) -> None:
    metadata = make_shards(["abc", "", "é😀"], ["x"])
    split = metadata.train
    assert (split.documents, split.characters, split.bytes, split.tokens) == (3, 5, 9, 9 + 6)
    lengths = split.document_tokens
    assert (lengths.min, lengths.mean, lengths.max) == (2, 5.0, 8)
    lengths = split.document_characters
    assert (lengths.min, lengths.mean, lengths.max) == (0, 1.667, 3)
    assert (metadata.dtype, metadata.vocab_size, metadata.tokenizer) == ("uint16", 260, "ab" * 32)
    assert (metadata.pad_id, metadata.eos_id, metadata.bos_id, metadata.unk_id) == (256, 257, 258, 259)
    folder = tmp_path / "shards"
    assert split.shards[0].sha256 == hashlib.sha256((folder / "train/00000.bin").read_bytes()).hexdigest()
    assert np.fromfile(folder / "train/lengths.bin", "<u4").reshape(-1, 3).tolist() == [[5, 3, 3], [2, 0, 0], [8, 2, 6]]
    assert read_metadata(folder) == metadata
    verify_shards(folder)


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_the_bytes_do_not_depend_on_the_number_of_workers(
    workers: int, make_shards, stories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode_module, "_BATCH_CHARACTERS", 500)
    train = stories(120)

    def uneven(texts):  # batches finish in another order than they started
        time.sleep(0.004 * (len(texts) % 3))
        return np.array([i for text in texts for i in (258, *text.encode(), 257)], np.uint32)

    make_shards(train, folder="one", workers=1)
    make_shards(train, folder="many", workers=workers, encode=uneven)
    assert files(tmp_path / "one") == files(tmp_path / "many")


@pytest.mark.parametrize(("name", "size"), [("_BATCH_CHARACTERS", 1), ("_BATCH_DOCUMENTS", 1)])
def test_the_bytes_do_not_depend_on_the_batches(
    name: str, size: int, make_shards, stories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_shards(stories(30), folder="one")
    monkeypatch.setattr(encode_module, name, size)
    make_shards(stories(30), folder="other")
    assert files(tmp_path / "one") == files(tmp_path / "other")


@pytest.mark.parametrize(("vocab_size", "dtype", "itemsize"), [(65536, "uint16", 2), (65537, "uint32", 4)])
def test_the_dtype_is_uint16_while_every_id_fits(
    vocab_size: int, dtype: str, itemsize: int, make_shards, tmp_path
) -> None:
    top = vocab_size - 1
    metadata = make_shards(["a"], vocab_size=vocab_size, encode=lambda texts: np.array([258, top, 257], np.uint32))
    path = tmp_path / "shards/train/00000.bin"
    assert metadata.dtype == dtype
    assert path.stat().st_size == 3 * itemsize
    assert np.fromfile(path, f"<u{itemsize}").tolist() == [258, top, 257]


def test_documents_are_read_only_a_few_batches_ahead(make_shards, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory stays constant: only a few batches are in flight."""
    monkeypatch.setattr(encode_module, "_BATCH_DOCUMENTS", 1)
    taken = written = in_flight = 0

    def documents() -> Iterator[str]:
        nonlocal taken, in_flight
        for _ in range(50):
            taken += 1
            in_flight = max(in_flight, taken - written)
            yield "text"

    write = encode_module.SplitWriter.write

    def count(self, *arguments) -> None:
        nonlocal written
        written += 1
        write(self, *arguments)

    monkeypatch.setattr(encode_module.SplitWriter, "write", count)
    make_shards(documents(), workers=2)
    assert (taken, written) == (50, 51)
    assert in_flight <= 6


def test_encoding_runs_in_all_workers_at_once(make_shards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode_module, "_BATCH_DOCUMENTS", 1)
    together = threading.Barrier(3, timeout=10)

    def encode(texts):
        if texts[0] == "train":
            together.wait()
        return np.array([258, 257], np.uint32)

    make_shards(["train"] * 3, workers=3, encode=encode)


def test_an_error_leaves_no_metadata_and_no_unfinished_file(make_shards, tmp_path: Path) -> None:
    make_shards(["a" * 2000])

    def documents() -> Iterator[str]:
        yield "b" * 2000
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        make_shards(documents())
    names = [p.name for p in (tmp_path / "shards").rglob("*")]
    assert "metadata.json" not in names
    assert not [name for name in names if name.endswith(".tmp")]


def test_files_of_an_earlier_run_are_deleted(make_shards, tmp_path: Path) -> None:
    make_shards(["a" * 5000])
    make_shards(["b" * 50])
    assert sorted(p.name for p in (tmp_path / "shards/train").iterdir()) == ["00000.bin", "lengths.bin"]


def test_a_split_without_documents_is_an_error(make_shards) -> None:
    with pytest.raises(ValueError, match="^val: no documents; add text"):
        make_shards(["a"], [])


@pytest.mark.parametrize(("shard_tokens", "fits"), [(1999, False), (2000, True)])
def test_a_split_that_could_need_too_many_files_is_refused_before_it_is_encoded(shard_tokens: int, fits: bool) -> None:
    params = ShardsParams(shard_tokens=shard_tokens)
    message = (
        "^shards.shard_tokens = 1999: must be at least 2000: the 180000000 bytes of train could need more than 100000 "
    )
    with nullcontext() if fits else pytest.raises(ValueError, match=message):
        params.check_split("train", documents=10_000_000, text_bytes=180_000_000)


@pytest.mark.parametrize("value", [999, 2**31 + 1])
def test_params_out_of_range_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match=rf"^shards.shard_tokens = {value}: must be between 1000 and 2\^31"):
        load_params("shards", {"shard_tokens": value}, ShardsParams)


def test_the_preset_is_valid() -> None:
    path = Path(__file__).parents[2] / "configs/shards/default.yaml"
    assert load_params("shards", yaml.safe_load(path.read_text())["shards"], ShardsParams).shard_tokens == 50_000_000


def test_metadata_is_plain_json_with_relative_paths(make_shards, tmp_path: Path) -> None:
    make_shards(["a"])
    text = (tmp_path / "shards/metadata.json").read_text()
    assert str(tmp_path) not in text
    assert json.loads(text)["train"]["shards"][0]["file"] == "train/00000.bin"
