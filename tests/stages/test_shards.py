from contextlib import closing
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from corpora import write_corpus
from limits import file_size

from tiny_lm.bpe import TokenizerParams, train_tokenizer
from tiny_lm.encoding import encode, parts
from tiny_lm.io.params import load_params
from tiny_lm.runner.executors import Processes
from tiny_lm.runner.verify import verify_shards
from tiny_lm.shards.format import read_metadata
from tiny_lm.shards.stream import TokenStream
from tiny_lm.stages import shards as stage_file
from tiny_lm.tokenizer.encode import Tokenizer

TRAIN = [f"Story {i}: the cat sat on mat {i * i}.\n\nIt was “flat” <eos> there." for i in range(60)]
VAL = ["The cat and the rat", "", "sat on é"]


class FakeStage:
    """The stage context that the runner passes: params sections, runtime, and `say`."""

    def __init__(self, workers: int, progress: bool, **sections: Any) -> None:
        self.sections = sections
        self.runtime = SimpleNamespace(workers=workers, progress=progress)
        self.lines: list[str] = []

    def section(self, name: str, choices: Any) -> Any:
        return load_params(name, self.sections[name], choices)

    def executor(self) -> Any:
        return closing(Processes(self.runtime.workers, "tiny_lm.stages.shards"))

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_corpus(Path("data/corpus"), TRAIN, VAL)
    params = TokenizerParams(vocab_size=290, pattern="gpt4-digits2")
    train_tokenizer(TRAIN, params).save(Path("models/tokenizer"))


def run(workers: int = 2, shard_tokens: int = 1000, progress: bool = False) -> FakeStage:
    stage = FakeStage(workers, progress, shards={"shard_tokens": shard_tokens})
    stage_file.main(stage)
    return stage


@pytest.mark.parametrize("missing", [1, 500])
def test_tokens_that_are_cut_short_are_an_error(tmp_path: Path, missing: int) -> None:
    source = next(Path("data/corpus/train").glob("*.parquet"))
    part = parts.Part(source, (0, 1), Path("models/tokenizer"), str(tmp_path / "part"))
    parts.encode_part(part)
    size = (tmp_path / "part.tokens").stat().st_size
    assert size > (tmp_path / "part.lengths").stat().st_size > 500
    with file_size(size - missing), pytest.raises(OSError, match="File too large"):
        parts.encode_part(part)


def written() -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in Path("data/shards").rglob("*") if p.is_file()}


def test_the_shards_contain_the_corpus() -> None:
    stage = run()
    tokenizer = Tokenizer.load(Path("models/tokenizer"))
    metadata = verify_shards(Path("data/shards"))
    assert (metadata.vocab_size, metadata.tokenizer) == (290, tokenizer.digest)
    assert (metadata.bos_id, metadata.eos_id) == (tokenizer.bos_id, tokenizer.eos_id)
    for split, texts in (("train", TRAIN), ("val", VAL)):
        stream = TokenStream(Path("data/shards"), split)
        documents = [stream.read(start, stop) for start, stop in pairwise(stream.document_starts())]
        assert [tokenizer.decode(d[1:-1]) for d in documents] == texts
        assert all((d[0], d[-1]) == (tokenizer.bos_id, tokenizer.eos_id) for d in documents)
    assert len(metadata.train.shards) > 1
    assert stage.lines[0].endswith(f"{metadata.val.tokens:,} of 3 to validate on, as uint16")


def test_np_memmap_reads_a_shard() -> None:
    """As nanoGPT reads its data."""
    run()
    tokenizer = Tokenizer.load(Path("models/tokenizer"))
    data = np.memmap("data/shards/train/00000.bin", dtype=np.uint16, mode="r")
    assert tokenizer.decode(data[:400]).startswith("<bos>" + TRAIN[0] + "<eos><bos>Story 1: the cat")


def test_the_same_bytes_on_every_run_and_with_any_number_of_workers() -> None:
    run(workers=1)
    first = written()
    run(workers=5)
    assert written() == first


def test_shard_tokens_limits_the_size_of_files() -> None:
    run(shard_tokens=1500)
    assert next(s.tokens for s in read_metadata(Path("data/shards")).train.shards) == 1500


def test_progress_of_both_splits_is_shown_if_enabled(capfd: pytest.CaptureFixture[str]) -> None:
    run()
    assert capfd.readouterr().err == ""
    run(progress=True)
    shown = capfd.readouterr().err
    assert "shards train: 60 documents" in shown
    assert "shards val: 3 documents" in shown


def test_a_missing_tokenizer_is_reported_with_the_remedy() -> None:
    Path("models/tokenizer/ranks.tiktoken").unlink()
    with pytest.raises(ValueError, match=r"ranks.tiktoken: there is no such file; `tiny-lm restore tokenizer`"):
        run()


def test_a_shard_size_that_could_make_too_many_files_is_refused_before_encoding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encode, "MAX_SHARDS", 2)
    run(shard_tokens=3000)
    first = written()
    with pytest.raises(ValueError, match=r"^shards.shard_tokens = 1000: must be at least 2012: the \d+ bytes of train"):
        run(shard_tokens=1000)
    assert written() == first


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("shard_tokens", [1000, 1001, 10_000_000])
def test_shards_of_much_text_are_written_in_parts_with_the_same_bytes(
    workers: int, shard_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tiny_lm.documents.ROW_GROUP_DOCUMENTS", 7)
    write_corpus(Path("data/corpus"), TRAIN, VAL)
    run(shard_tokens=shard_tokens)
    first = written()
    Path("data/shards/train/99999.bin").touch()  # of an earlier, larger corpus
    leftover = Path("data/shards/parts/train-0-0.tokens")  # of a run that was killed
    leftover.parent.mkdir()
    leftover.touch()
    run(shard_tokens=shard_tokens)
    assert not leftover.parent.exists()
    leftover.parent.mkdir()
    leftover.touch()
    monkeypatch.setattr(stage_file, "LITTLE_TEXT", 0)
    original = parts.encode_part
    encoded: list[object] = []
    if workers == 1:
        monkeypatch.setattr(parts, "encode_part", lambda part: encoded.append(part) or original(part))
    run(workers, shard_tokens)
    assert written() == first
    assert workers == 2 or len(encoded) > 4
