import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from tiny_lm.config import load_params, read_yaml
from tiny_lm.corpus.documents import read_documents
from tiny_lm.corpus.stories import VERSION, story
from tiny_lm.stages.corpus import main

ROOT = Path(__file__).parents[2]


class FakeStage:
    """What a stage sees of the frame."""

    def __init__(self, preset, **changes):
        self.values = read_yaml(ROOT / f"configs/dataset/{preset}.yaml")["dataset"] | changes
        self.runtime = SimpleNamespace(workers=1, progress=False)
        self.lines = []

    def section(self, name, choices):
        assert name == "dataset"
        return load_params(name, self.values, choices)

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
    train, val = (list(read_documents(Path(f"data/corpus/{split}.parquet"))) for split in ("train", "val"))
    return train, val, json.loads(Path("data/corpus/metadata.json").read_text()), stage


def test_text_under_no_version_control_is_reported_with_the_command_that_adds_it(folder):
    subprocess.run(["git", "init", "-q"], check=True)
    (folder / "data/raw/a.txt").write_text("a text")
    stage = run("local", validation="tail", validation_fraction=0.5)[3]
    assert stage.lines[-1].startswith("data/raw/a.txt: tracked by neither Git nor DVC, so ")
    assert stage.lines[-1].endswith("; run `tiny-lm preset dataset.path=data/raw` to add it")
    subprocess.run(["git", "add", "data/raw"], check=True)
    assert len(run("local", validation="tail", validation_fraction=0.5)[3].lines) == 1


def test_stories_become_two_splits_and_a_file_of_facts():
    train, val, metadata, stage = run("stories", documents=300)
    assert sorted(train + val) == sorted(story(0, index) for index in range(300))
    assert 0 < len(val) < 20
    assert metadata["source"] == {"source": "stories", "generator_version": VERSION, "seed": 0, "documents": 300}
    assert (metadata["documents_read"], metadata["read_to_the_end"]) == (300, True)
    for split, texts in (("train", train), ("val", val)):
        facts = metadata["splits"][split]
        assert facts["documents"] == len(texts)
        assert facts["characters"] == sum(map(len, texts))
        assert facts["bytes"] == sum(len(text.encode()) for text in texts)
    assert sorted(path.name for path in Path("data/corpus").iterdir()) == [
        "metadata.json",
        "train.parquet",
        "val.parquet",
    ]
    assert len(stage.lines) == 1
    assert f"{len(train)} documents" in stage.lines[0]


@pytest.mark.parametrize("changes", [{}, {"validation": "tail"}])
def test_the_same_params_give_the_same_bytes(changes):
    outputs = []
    for _ in range(2):
        run("stories", documents=300, **changes)
        outputs.append([path.read_bytes() for path in sorted(Path("data/corpus").iterdir())])
    assert outputs[0] == outputs[1]


def test_the_seed_changes_stories_and_more_documents_keep_the_split():
    train, val, metadata, _ = run("stories", documents=200)
    other = run("stories", documents=200, seed=1)[2]
    assert metadata["splits"]["train"]["sha256"] != other["splits"]["train"]["sha256"]
    more_train, more_val, _, _ = run("stories", documents=300)
    assert more_train[: len(train)] == train
    assert more_val[: len(val)] == val


def test_shakespeare_is_split_as_nanogpt_splits_it(folder):
    data = "First Citizen:\nBefore we proceed any further, hear me speak.\n\n" * 777
    (folder / "data/raw/tinyshakespeare.txt").write_text(data)
    (folder / "data/raw/README.md").write_text("not this")
    train, val, metadata, _ = run("shakespeare")
    n = len(data)
    assert train == [data[: int(n * 0.9)]]
    assert val == [data[int(n * 0.9) :]]
    assert [file["name"] for file in metadata["source"]["files"]] == ["tinyshakespeare.txt"]


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


def test_deduplication_can_be_switched_off(folder):
    (folder / "data/raw/a.txt").write_text("same--same--" * 20 + "other")
    changes = {"separator": "--", "validation": "tail", "validation_fraction": 0.5}
    assert len(run("local", **changes, deduplicate=False)[0]) > 10
    assert run("local", **changes)[2]["splits"]["train"]["documents"] == 1


def test_ten_megabytes_on_one_line_work(folder):
    text = "word " * 2_000_000
    (folder / "data/raw/a.txt").write_text(text)
    train, val, _, _ = run("local", validation="tail", validation_fraction=0.25)
    assert train[0] + val[0] == text


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        (None, {}, r"dataset\.path = 'data/raw': no .* file matches .*; put files there"),
        ("", {}, r"no document in the source \(dataset\.source = local, dataset\.path = data/raw\)"),
        (
            "a--b",
            {"min_chars": 5},
            r"no document for the training split; 2 documents were read, .*too_short 2.*dataset\.min_chars",
        ),
        ("one", {}, r"no document for the validation split; 1 document was read: dataset\.separator = '--' does not"),
        ("one--two\xff", {}, r"data/raw/a\.txt: not UTF-8 at byte 8"),
        ("x", {"path": "data/none"}, r"dataset\.path = 'data/none': no such file or folder"),
    ],
)
def test_a_corpus_that_cannot_be_is_one_line_and_leaves_nothing(folder, content, changes, message):
    if content is not None:
        (folder / "data/raw/a.txt").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=message) as error:
        main(FakeStage("local", separator="--", **changes))
    assert "\n" not in str(error.value)
    assert list(Path("data/corpus").iterdir()) == []


@pytest.mark.parametrize("validation", ["random", "tail"])
def test_an_error_in_the_middle_leaves_nothing(folder, validation):
    good = "".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(100))
    (folder / "data/raw/a.jsonl").write_text(good + '{"text": "\\ud800"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 101: .* lone surrogate"):
        main(FakeStage("local", validation=validation))
    assert list(Path("data/corpus").iterdir()) == []
