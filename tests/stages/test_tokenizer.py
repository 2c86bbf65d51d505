import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from corpora import write_corpus

from tiny_lm.io.params import load_params
from tiny_lm.stages import tokenizer as stage_file
from tiny_lm.tokenizer.encode import Tokenizer

TRAIN = ["The cat sat on the mat. The mat was flat.\n" * 3, "A rat ran at the cat and the cat ran off."] * 4
VAL = ["The cat and the rat", "sat on é"]


class FakeStage:
    """The stage context that the runner passes: params sections, runtime, and `say`."""

    def __init__(self, progress: bool, **sections: Any) -> None:
        self.sections = sections
        self.runtime = SimpleNamespace(workers=2, progress=progress)
        self.lines: list[str] = []

    def section(self, name: str, choices: Any) -> Any:
        return load_params(name, self.sections[name], choices)

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_corpus(Path("data/corpus"), TRAIN, VAL)


def run(progress: bool = False, **values: Any) -> FakeStage:
    stage = FakeStage(progress, tokenizer={"vocab_size": 280, "pattern": "gpt4-digits2"} | values)
    stage_file.main(stage)
    return stage


def written() -> dict[str, bytes]:
    return {str(p): p.read_bytes() for folder in ("models", "results") for p in Path(folder).rglob("*") if p.is_file()}


def test_the_stage_writes_a_tokenizer_and_its_compression() -> None:
    stage = run()
    tokenizer = Tokenizer.load(Path("models/tokenizer"))
    tokens = sum(len(tokenizer.encode(text)) for text in VAL)
    metrics = json.loads(Path("results/tokenizer/metrics.json").read_text())
    assert metrics == {"bytes_per_token": round(sum(len(t.encode()) for t in VAL) / tokens, 4), "vocab_size": 280}
    assert stage.lines == [f"280 tokens, {metrics['bytes_per_token']:.2f} bytes per token of the validation split"]
    assert sorted(written()) == [
        "models/tokenizer/metadata.json", "models/tokenizer/ranks.tiktoken", "results/tokenizer/metrics.json"
    ]  # fmt: skip


def test_running_again_gives_the_same_bytes() -> None:
    run()
    first = written()
    run()
    assert written() == first


def test_the_vocabulary_is_learned_from_training_documents_only() -> None:
    run()
    first = Path("models/tokenizer/ranks.tiktoken").read_bytes()
    write_corpus(Path("data/corpus"), TRAIN, ["zzzzzzz"] * 100)
    run()
    assert Path("models/tokenizer/ranks.tiktoken").read_bytes() == first


@pytest.mark.parametrize(("key", "value"), [("vocab_size", 270), ("pattern", "gpt2")])
def test_every_key_changes_the_tokenizer(key: str, value: object) -> None:
    run()
    before = Tokenizer.load(Path("models/tokenizer")).digest
    run(**{key: value})
    assert Tokenizer.load(Path("models/tokenizer")).digest != before


def test_progress_is_shown_if_enabled(capfd: pytest.CaptureFixture[str]) -> None:
    run()
    assert capfd.readouterr().err == ""
    run(progress=True)
    shown = capfd.readouterr().err
    assert "tokenizer: 8 documents" in shown
    assert "compression: 2 documents" in shown


def test_a_vocabulary_that_is_too_large_names_the_key() -> None:
    with pytest.raises(
        ValueError, match=r"^tokenizer.vocab_size = 4096: the text is only enough for \d+ tokens; set at most"
    ):
        run(vocab_size=4096)
