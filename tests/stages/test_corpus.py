import gzip
import json
import math
import subprocess
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import fsspec
import pytest
from corpora import read_corpus

from tiny_lm.corpus import drafts, duplicates, write
from tiny_lm.corpus.mixture import DATASETS
from tiny_lm.corpus.sources import local
from tiny_lm.corpus.sources.base import DatasetParams, Source, texts_in_parts
from tiny_lm.documents import validation_sources
from tiny_lm.exam import Exam
from tiny_lm.executor import InProcess
from tiny_lm.io.params import load_params, read_yaml
from tiny_lm.runner.executors import Processes
from tiny_lm.stages.corpus import main
from tiny_lm.stories.generator import VERSION, story

ROOT = Path(__file__).parents[2]


class FakeStage:
    """The stage context that the runner passes."""

    def __init__(self, preset, **changes):
        self.values = read_yaml(ROOT / f"configs/dataset/{preset}.yaml")["dataset"] | changes
        self.runtime = SimpleNamespace(workers=1, progress=False)
        self.lines = []
        self.data = [Path("data/raw"), Path("memory://texts/watched.jsonl")]

    def section(self, name, choices):
        assert name == "dataset"
        return load_params(name, self.values, choices)

    def executor(self):
        return nullcontext(InProcess())

    def say(self, line):
        self.lines.append(line)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/raw").mkdir(parents=True)
    return tmp_path


def run(preset, **changes):
    stage = FakeStage(preset, **changes)
    main(stage)
    train, val = read_corpus()
    return train, val, json.loads(Path("data/corpus/metadata.json").read_text()), stage


def test_untracked_text_is_reported_with_the_command_that_adds_it(folder):
    subprocess.run(["git", "init", "-q"], check=True)
    (folder / "data/raw/a.txt").write_text("a text")
    stage = run("local", validation="tail", validation_fraction=0.5)[3]
    assert stage.lines[-1].startswith("data/raw/a.txt: tracked by neither Git nor DVC, so ")
    assert stage.lines[-1].endswith("; run `tiny-lm preset dataset.path=data/raw` to add it")
    subprocess.run(["git", "add", "data/raw"], check=True)
    assert len(run("local", validation="tail", validation_fraction=0.5)[3].lines) == 1


def test_stories_become_two_splits_and_metadata():
    train, val, metadata, stage = run("stories", documents=300)
    assert sorted(train + val) == sorted(story(0, index) for index in range(300))
    assert 0 < len(val) < 20
    assert metadata["source"] == {"source": "stories", "generator_version": VERSION, "seed": 0, "documents": 300}
    assert (metadata["documents_read"], metadata["read_to_the_end"]) == (300, True)
    for split, texts in (("train", train), ("val", val)):
        counts = metadata["splits"][split]
        assert counts["documents"] == len(texts)
        assert counts["characters"] == sum(map(len, texts))
        assert counts["bytes"] == sum(len(text.encode()) for text in texts)
    files = sorted(str(path.relative_to("data/corpus")) for path in Path("data/corpus").rglob("*.*"))
    assert files == ["metadata.json", "train/00000.parquet", "val/00000.parquet"]
    assert len(stage.lines) == 1
    assert f"{len(train)} documents" in stage.lines[0]
    nats = [story(0, index).nats for index in range(300) if story(0, index) in val]
    assert Exam.load(Path("data/exam")).floor_bits == pytest.approx(sum(nats) / math.log(2))


def test_other_sources_and_stories_split_in_two_have_no_floor(folder):
    run("stories", documents=300, validation="tail")
    assert Exam.load(Path("data/exam")) == Exam(None)
    (folder / "data/raw/a.txt").write_text("a text")
    run("local", validation="tail", validation_fraction=0.5)
    assert Exam.load(Path("data/exam")) == Exam(None)


@pytest.mark.parametrize("changes", [{}, {"validation": "tail"}])
def test_the_same_params_give_the_same_bytes(changes):
    outputs = []
    for _ in range(2):
        run("stories", documents=300, **changes)
        outputs.append([path.read_bytes() for path in sorted(Path("data/corpus").rglob("*.*"))])
    assert outputs[0] == outputs[1]


def test_the_seed_changes_stories_and_more_documents_keep_the_split():
    train, val, metadata, _ = run("stories", documents=200)
    other = run("stories", documents=200, seed=1)[2]
    assert metadata["splits"]["train"]["sha256"] != other["splits"]["train"]["sha256"]
    more_train, more_val, _, _ = run("stories", documents=300)
    assert more_train[: len(train)] == train
    assert more_val[: len(val)] == val


def test_shakespeare_is_split_like_in_nanogpt(folder):
    data = "First Citizen:\nBefore we proceed any further, hear me speak.\n\n" * 777
    (folder / "data/raw/tinyshakespeare.txt").write_text(data)
    (folder / "data/raw/README.md").write_text("not this")
    train, val, metadata, _ = run("shakespeare")
    n = len(data)
    assert train == [data[: int(n * 0.9)]]
    assert val == [data[int(n * 0.9) :]]
    assert [file["name"] for file in metadata["source"]["files"]] == ["tinyshakespeare.txt"]


@dataclass(frozen=True, kw_only=True)
class NumbersParams(DatasetParams):
    source: Literal["numbers"]
    count: int

    def open(self, progress, executor):
        return Source(texts_in_parts(map(str, range(self.count))), None, self.count, {"source": "numbers"})


def test_a_new_source_is_a_params_class_and_an_entry_in_the_registry(monkeypatch):
    monkeypatch.setitem(DATASETS, "numbers", NumbersParams)
    values = read_yaml(ROOT / "configs/dataset/stories.yaml")["dataset"] | {"source": "numbers"}
    values.pop("documents", None)
    stage = FakeStage("stories")
    stage.values = values | {"count": 300}
    main(stage)
    metadata = json.loads(Path("data/corpus/metadata.json").read_text())
    assert (metadata["source"], metadata["documents_read"]) == ({"source": "numbers"}, 300)
    stage.values = values | {"count": 1}
    with pytest.raises(ValueError, match=r"\(1 read\); set dataset.validation = tail$"):
        main(stage)
    stage.values = values | {"count": 0}
    with pytest.raises(ValueError, match=r"no documents in the source \(dataset.source = numbers\)"):
        main(stage)


def test_files_that_are_not_read_are_counted_and_named(folder):
    for k in range(4):
        lines = "".join(f'{{"text": "document {i} of {k}"}}\n' for i in range(100))
        (folder / f"data/raw/part-{k}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    subprocess.run("git init -q && git add data/raw", shell=True, check=True)
    train, val, metadata, stage = run("local")
    assert (len(train) + len(val), len(stage.lines)) == (400, 1)
    assert "not_read" not in metadata
    for k in range(12):
        (folder / f"data/raw/image-{k:02}.png").touch()
    _, _, metadata, stage = run("local")
    assert metadata["not_read"] == {"number": 12, "first": [f"image-{k:02}.png" for k in range(10)]}
    first = ", ".join(f"image-{k:02}.png" for k in range(5))
    assert stage.lines[0].startswith(f"12 files are not read: {first} and 7 more. dataset.glob or dataset.urls, and ")
    (folder / "data/raw/image-00.png").rename(folder / "data/raw/two\nlines.png")
    for k in range(1, 12):
        (folder / f"data/raw/image-{k:02}.png").unlink()
    _, _, metadata, stage = run("local")
    assert stage.lines[0].startswith("1 file is not read: two\\nlines.png. ")


def test_a_byte_order_mark_is_part_of_no_document(folder):
    for k in range(100):
        (folder / f"data/raw/{k}.txt").write_text(f"\ufeffThe cat saw the ball {k} times.", encoding="utf-8")
    train, val, _, _ = run("local", validation_fraction=0.2)
    assert all(text.startswith("The cat") for text in train + val)


def test_filters_and_limits_are_counted(folder):
    texts = ["short", "x" * 50, "y" * 500, "x" * 50, " ", *(f"document number {i}" for i in range(100))]
    (folder / "data/raw/a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    changes = {"min_chars": 10, "max_chars": 100, "validation_fraction": 0.3, "max_train_documents": 40}
    train, val, metadata, stage = run("local", **changes)
    assert metadata["documents_read"] == 105
    removed = metadata["removed"]
    assert {key: removed[key] for key in ("blank", "too_short", "too_long", "duplicate")} == {
        "blank": 1, "too_short": 1, "too_long": 1, "duplicate": 1,
    }  # fmt: skip
    assert len(train) == 40
    assert removed["over_limit"] == 105 - 4 - 40 - len(val)
    assert not Path(metadata["source"]["files"][0]["name"]).is_absolute()
    assert "4 removed" in stage.lines[0]


def test_deduplication_can_be_disabled(folder):
    (folder / "data/raw/a.txt").write_text("same--same--" * 20 + "other")
    changes = {"separator": "--", "validation": "tail", "validation_fraction": 0.5}
    assert len(run("local", **changes, deduplicate=False)[0]) > 10
    assert run("local", **changes)[2]["splits"]["train"]["documents"] == 1


def test_a_line_may_have_ten_megabytes(folder):
    text = "word " * 2_000_000
    (folder / "data/raw/a.txt").write_text(text)
    train, val, _, _ = run("local", validation="tail", validation_fraction=0.25)
    assert train[0] + val[0] == text


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        (None, {}, r"dataset\.path = 'data/raw': no .* file matches .*; put files there"),
        ("", {}, r"no documents in the source \(dataset\.source = local, dataset\.path = data/raw\)"),
        (
            "a--b",
            {"min_chars": 5},
            r"no documents in the training split \(2 read; removed by filters: 2 too_short\); .*dataset\.min_chars",
        ),
        ("one", {}, r"no documents in the validation split \(1 read\); dataset\.separator = '--' does not"),
        ("one--two\xff", {}, r"data/raw/a\.txt: not UTF-8 at byte 8"),
        ("x", {"path": "data/none"}, r"dataset\.path = 'data/none': no such file or folder"),
    ],
)
def test_a_source_without_a_corpus_is_an_error_in_one_line_and_leaves_no_files(folder, content, changes, message):
    if content is not None:
        (folder / "data/raw/a.txt").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=message) as error:
        main(FakeStage("local", separator="--", **changes))
    assert "\n" not in str(error.value)
    assert list(Path("data/corpus").iterdir()) == []


@pytest.mark.parametrize("validation", ["random", "tail"])
def test_an_error_in_the_middle_leaves_no_files(folder, validation):
    good = "".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(100))
    (folder / "data/raw/a.jsonl").write_text(good + '{"text": "\\ud800"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl: line 101: .* lone surrogate"):
        main(FakeStage("local", validation=validation))
    assert list(Path("data/corpus").iterdir()) == []


def same_bytes(monkeypatch, stage, part_bytes, bucket):
    """The files that the stage writes: the same at once in one process, and in small parts and buckets on two."""
    contents = []
    for size, chunk, documents, workers in (
        (2**25, 2**25 // 100, 2**25, 1),
        (part_bytes, part_bytes // 100, bucket, 2),
    ):
        monkeypatch.setattr(local, "PART_BYTES", size)
        monkeypatch.setattr(drafts, "CHUNK_DOCUMENTS", chunk)
        monkeypatch.setattr(duplicates, "BUCKET_DOCUMENTS", documents)
        with closing(Processes(workers, "tiny_lm.stages.corpus")) as executor:
            monkeypatch.setattr(stage, "executor", lambda: nullcontext(executor))
            main(stage)
        contents.append({str(path): path.read_bytes() for path in Path("data").rglob("*.*") if "raw" not in str(path)})
    assert contents[0] == contents[1]
    assert len(contents[0]) > 4
    return contents[0]


@pytest.mark.parametrize("changes", [{}, {"validation": "tail"}, {"max_train_documents": 700, "max_val_documents": 20}])
def test_the_bytes_do_not_depend_on_parts_or_workers(changes, folder, monkeypatch):
    """Parts of 100 KB on two processes, with bucket after bucket of digests, and everything at once."""
    monkeypatch.setattr(write, "FILE_BYTES", 20_000)
    lines = [json.dumps({"text": f"document {i % 900} " + "word " * (i % 7)}) + "\n" for i in range(1500)]
    for k in range(3):
        (folder / f"data/raw/{k}.jsonl").write_text("".join(lines[500 * k : 500 * k + 500]))
    contents = same_bytes(monkeypatch, FakeStage("local", **changes), part_bytes=10_000, bucket=100)
    metadata = json.loads(contents["data/corpus/metadata.json"])
    for split, texts in zip(("train", "val"), read_corpus(), strict=True):
        entry = metadata["splits"][split]
        assert (entry["documents"], entry["characters"]) == (len(texts), sum(map(len, texts)))
        if "max_train_documents" not in changes:
            assert len(entry["files"]) == -(-entry["bytes"] // 20_000)
    assert sorted(path.name for path in Path("data/corpus").iterdir()) == ["metadata.json", "train", "val"]


NOTES = {"source": "local", "path": "data/raw/notes", "weight": 1, "max_epochs": 2}
BOOKS = {"source": "local", "path": "data/raw/books", "weight": 2, "min_chars": 12}


def write_notes_and_books(folder, more=""):
    for name, count in (("notes", 200), ("books", 900)):
        (folder / f"data/raw/{name}").mkdir()
        lines = [json.dumps({"text": f"{name} {i % (count - 10)}" + more}) + "\n" for i in range(count)]
        (folder / f"data/raw/{name}/a.jsonl").write_text("".join(lines))
    (folder / "data/raw/notes/image.png").touch()
    subprocess.run("git init -q && git add data/raw", shell=True, check=True)


def test_a_mixture_has_the_text_and_the_counts_of_its_sources(folder):
    write_notes_and_books(folder)
    stories = {"source": "stories", "documents": 200, "weight": 0.5}
    train, val, metadata, stage = run("mixture", sources=[NOTES, BOOKS | {"min_chars": 9}, stories])
    entries = metadata["source"]["sources"]
    assert metadata["source"]["source"] == "mixture"
    assert [entry["source"] for entry in entries] == ["local", "local", "stories"]
    assert [(entry["weight"], entry["max_epochs"]) for entry in entries] == [(1.0, 2), (2.0, 1), (0.5, 1)]
    assert [entry["documents_read"] for entry in entries] == [200, 900, 200]
    assert [entry["removed"]["duplicate"] for entry in entries] == [10, 0, 0]
    assert [entry["removed"]["too_short"] for entry in entries] == [0, 110, 0]
    assert (metadata["removed"]["duplicate"], metadata["removed"]["too_short"]) == (10, 110)
    assert (metadata["documents_read"], metadata["read_to_the_end"]) == (1300, True)
    for split, texts in (("train", train), ("val", val)):
        for key, count in (("documents", len), ("bytes", lambda texts: sum(len(text.encode()) for text in texts))):
            of_source = [
                count([text for text in texts if text.startswith("notes")]),
                count([text for text in texts if text.startswith("books")]),
                count([text for text in texts if not text.startswith(("notes", "books"))]),
            ]
            assert [entry[split][key] for entry in entries] == of_source
            assert metadata["splits"][split][key] == sum(of_source)
    numbers = [0 if text.startswith("notes") else 1 if text.startswith("books") else 2 for text in val]
    assert validation_sources(Path("data/corpus/metadata.json"), len(val)).tolist() == numbers
    notes, books, told = (entry["train"] for entry in entries)
    assert notes["bytes"] == 2 * notes["available_bytes"]
    assert books["bytes"] == pytest.approx(2 * notes["bytes"], abs=9)
    assert told["bytes"] == pytest.approx(notes["bytes"] / 2, abs=2000)
    assert Exam.load(Path("data/exam")) == Exam(None)
    assert stage.lines[0].startswith("1 file is not read: notes/image.png. ")
    assert stage.lines[1] == (
        f"dataset.sources.0 (local): {notes['bytes'] / metadata['splits']['train']['bytes']:.1%} of the training text, "
        f"0.0 MB from 0.0 MB (2.00 epochs); {entries[0]['val']['documents']} documents for validation"
    )


def test_urls_that_dvc_does_not_watch_are_named(folder):
    memory = fsspec.filesystem("memory")
    for name in ("watched", "other"):
        memory.pipe(f"/texts/{name}.jsonl", b"".join(b'{"text": "%d"}\n' % i for i in range(99)))
    urls = ["memory://texts/watched.jsonl", "memory://texts/*.jsonl"]
    train, val, metadata, stage = run("url", urls=urls)
    assert sorted(train + val) == sorted(map(str, range(99)))
    files = [file["url"].rpartition("/")[2] for file in metadata["source"]["files"]]
    assert files == ["watched.jsonl", "other.jsonl"]  # each once
    assert len(stage.lines) == 2
    assert stage.lines[1].startswith("memory://texts/*.jsonl: DVC does not watch it, so `dvc repro -f -s corpus` is")
    assert len(run("url", urls=urls[:1])[3].lines) == 1


def test_urls_that_are_not_read_are_named_as_they_are(folder):
    memory = fsspec.filesystem("memory")
    memory.pipe("/mixed/texts.jsonl", b"".join(b'{"text": "%d"}\n' % i for i in range(99)))
    memory.pipe("/mixed/image.png", b"")
    _, _, metadata, stage = run("url", urls=["memory://mixed/*"])
    assert metadata["not_read"] == {"number": 1, "first": ["memory:///mixed/image.png"]}
    assert any(line.startswith("1 file is not read: memory:///mixed/image.png. ") for line in stage.lines)


def test_scratch_files_may_be_on_another_disk(folder):
    (folder / "elsewhere").mkdir()
    (folder / ".work").mkdir(exist_ok=True)
    (folder / ".work/drafts").symlink_to(folder / "elsewhere")
    assert len(run("stories", documents=300)[0]) > 0
    assert not list((folder / "elsewhere").iterdir())


def test_a_file_that_another_source_of_a_mixture_reads_is_read(folder):
    write_notes_and_books(folder)
    (folder / "data/raw/b.txt").write_text("one\ntwo\nthree\nfour\nfive")
    both = [
        {"source": "local", "glob": "*.txt", "separator": "\n", "weight": 1},
        {"source": "local", "glob": "*/*.jsonl", "weight": 1},
    ]
    assert run("mixture", sources=both)[2]["not_read"] == {"number": 1, "first": ["notes/image.png"]}


def test_untracked_text_of_any_source_of_a_mixture_is_reported(folder):
    write_notes_and_books(folder)
    (folder / "data/raw/books/b.jsonl").write_text('{"text": "a new book"}')
    lines = run("mixture", sources=[NOTES, BOOKS | {"min_chars": 1}])[3].lines
    assert lines[-1].startswith("data/raw/books/b.jsonl: tracked by neither Git nor DVC, so ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "data/raw/none"}, r"^dataset\.sources\.1\.path = 'data/raw/none': no such file or folder"),
        ({"min_chars": 99}, r"^no documents in the training split \(900 read; .*change dataset\.sources\.1\.min_chars"),
        ({"field": "body"}, r"^data/raw/books/a\.jsonl: line 1: .*dataset\.sources\.1\.field"),
    ],
)
def test_errors_name_the_source_of_a_mixture(folder, changes, message):
    write_notes_and_books(folder)
    with pytest.raises(ValueError, match=message):
        run("mixture", sources=[NOTES, BOOKS | changes])
    assert list(Path("data/corpus").iterdir()) == []


def test_a_mixture_without_validation_documents_is_refused(folder):
    write_notes_and_books(folder)
    sources = [source | {"validation_fraction": 1e-6} for source in (NOTES, BOOKS | {"min_chars": 1})]
    with pytest.raises(ValueError, match=r"validation split .*raise dataset\.sources\.0\.validation_fraction = 1e-06"):
        run("mixture", sources=sources)
    sources[1] |= {"validation_fraction": 0.1}  # one source with some is enough
    assert len(run("mixture", sources=sources)[1]) > 50


def test_the_bytes_of_a_mixture_do_not_depend_on_parts_or_workers(folder, monkeypatch):
    write_notes_and_books(folder, " of one hundred words" * 10)
    monkeypatch.setattr(write, "FILE_BYTES", 3 * write.ROUND_BYTES)
    stage = FakeStage("mixture", sources=[NOTES, BOOKS | {"min_chars": 9}])
    same_bytes(monkeypatch, stage, part_bytes=2000, bucket=200)


def test_documents_larger_than_a_file_leave_no_number_out(folder, monkeypatch):
    monkeypatch.setattr(write, "FILE_BYTES", 1000)
    texts = ["a" * 900, "b" * 5000, "c" * 10, "d" * 700, "e" * 3000, "f" * 10 + "g" * 10]
    (folder / "data/raw/a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    train, _, metadata, _ = run("local", validation="tail", validation_fraction=0.001)
    assert train == [*texts[:5], "f" * 10]
    files = metadata["splits"]["train"]["files"]
    assert [file["file"] for file in files] == [f"train/{index:05}.parquet" for index in range(4)]
    assert [file["documents"] for file in files] == [2, 2, 1, 1]


def test_progress_is_shown_on_stderr_if_enabled(capsys):
    stage = FakeStage("stories", documents=50)
    main(stage)
    assert capsys.readouterr() == ("", "")
    stage.runtime.progress = True
    main(stage)
    out, err = capsys.readouterr()
    assert out == ""
    assert "50/50" in err
