"""The evaluate stage on a model of random weights: its outputs, and that every option has an effect."""

import csv
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from corpora import write_corpus
from tiny import LLAMA3
from torch.nn import functional as F

from tiny_lm.encoding.encode import ShardsParams, write_shards
from tiny_lm.exam import Exam
from tiny_lm.generation.generate import generate
from tiny_lm.io.params import load_params
from tiny_lm.model.checkpoint import load_checkpoint, save_checkpoint
from tiny_lm.model.registry import build_model
from tiny_lm.shards.stream import TokenStream
from tiny_lm.stages import evaluate as stage_file
from tiny_lm.tokenizer.encode import Tokenizer

MODEL = replace(LLAMA3, n_layers=1)
EVALUATE = {
    "batch_size": 3, "accelerator": "cpu", "precision": "32", "threads": 1, "portable": False,
    "prompts": ["", "Tom has", "Tom has"], "max_new_tokens": 12, "temperature": 1.0, "top_k": None, "top_p": None,
    "seed": 1,
}  # fmt: skip
TEXTS = ["Tom has a red kite.", "", "Ann", "Über den Fluß, und dann nach Hause.", "x" * 15, "y" * 16]
WINDOWS = 10  # of 16 tokens: the fourth text has three, the first and the last have two


class FakeStage:
    """The stage context that the runner passes: params sections, runtime, and `say`."""

    def __init__(self, progress: bool, **sections: Any) -> None:
        self.sections = sections
        self.runtime = SimpleNamespace(workers=1, progress=progress)
        self.lines: list[str] = []

    def section(self, name: str, choices: Any) -> Any:
        return load_params(name, self.sections[name], choices)

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tokenizer, shards and checkpoint."""
    folder = tmp_path_factory.mktemp("workspace")
    tokenizer = Tokenizer({bytes([byte]): byte for byte in range(256)}, "gpt4-digits2")
    tokenizer.save(folder / "models/tokenizer")
    ids = {name: getattr(tokenizer, f"{name}_id") for name in ("pad", "eos", "bos", "unk")}
    write_shards(
        folder / "data/shards", {"train": ["a training text"], "val": TEXTS}, tokenizer.encode_documents,
        ShardsParams(shard_tokens=1000), vocab_size=260, special_ids=ids, tokenizer=tokenizer.digest, workers=1,
    )  # fmt: skip
    Exam(None).save(folder / "data/exam")
    write_corpus(folder / "data/corpus", ["a training text"], TEXTS)
    torch.manual_seed(0)
    model = build_model(MODEL, 260)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    save_checkpoint(
        folder / "models/checkpoint", model, tokenizer_digest=tokenizer.digest, step=1, tokens_seen=1, provenance={}
    )
    return folder


@pytest.fixture(autouse=True)
def workspace(built: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(built)
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


def run(progress: bool = False, **change: Any) -> FakeStage:
    stage = FakeStage(progress, evaluate=EVALUATE | change)
    stage_file.main(stage)  # type: ignore[arg-type]
    return stage


def metrics() -> dict[str, Any]:
    return json.loads(Path("results/evaluate/metrics.json").read_text())


def rows(name: str) -> list[dict[str, float]]:
    with open(f"results/evaluate/{name}", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file, delimiter="\t")]


def samples() -> str:
    return Path("results/evaluate/samples.txt").read_bytes().decode()  # a model may well write "\r"


def written() -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in Path("results").rglob("*") if p.is_file()}


@pytest.fixture
def scoring(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """How the stage computed the losses: `rows` of each batch, and torch's number of `threads`."""
    seen: dict[str, Any] = {}
    original = stage_file.predictions

    def predictions(model: Any, batches: Any, **options: Any) -> Any:
        batches = list(batches)
        seen.update(rows=[len(batch.x) for batch in batches], threads=torch.get_num_threads())
        return original(model, batches, **options)

    monkeypatch.setattr(stage_file, "predictions", predictions)
    return seen


def test_metrics_and_tables_are_the_losses_of_the_validation_documents() -> None:
    stage = run()
    model, _ = load_checkpoint(Path("models/checkpoint"))
    stream, by_position = TokenStream(Path("data/shards"), "val"), [[] for _ in range(16)]
    documents = rows("documents.tsv")
    for number, (begin, end) in enumerate(pairwise(stream.document_starts())):
        ids = torch.from_numpy(stream.read(begin, end).astype(np.int64))
        nats: list[float] = []
        for start in range(0, len(ids) - 1, 16):
            window = ids[start : start + 17]
            with torch.no_grad():
                losses = F.cross_entropy(model(window[None, :-1])[0], window[1:], reduction="none").tolist()
            nats += losses
            for position, loss in enumerate(losses):
                by_position[position].append(loss)
        text = TEXTS[number]
        assert documents[number] == pytest.approx({
            "document": number, "targets": len(nats), "characters": len(text), "bytes": len(text.encode()),
            "text_nats": sum(nats[:-1]), "eos_nats": nats[-1],
        }, rel=1e-5)  # fmt: skip
    assert len(documents) == len(TEXTS)
    text_nats, eos_nats = (sum(row[key] for row in documents) for key in ("text_nats", "eos_nats"))
    loss = (text_nats + eos_nats) / sum(row["targets"] for row in documents)
    found = metrics()
    assert set(found.pop("calibration")) == {"accuracy", "confidence", "ece"}
    assert found == pytest.approx({
        "loss": loss, "perplexity": math.exp(loss),
        "bits_per_byte": text_nats / math.log(2) / len("".join(TEXTS).encode()),
        "bits_per_char": text_nats / math.log(2) / len("".join(TEXTS)),
    })  # fmt: skip
    assert rows("plots/loss_by_position.tsv") == [
        pytest.approx({"position": position, "loss": np.mean(losses)}, rel=1e-5)
        for position, losses in enumerate(by_position)
    ]
    assert stage.lines[0].startswith(f"loss {loss:.4f} (perplexity {math.exp(loss):.2f}), ")
    assert stage.lines[0].endswith(" bits per byte over 6 documents")


@pytest.fixture
def corpus_of() -> Iterator[Any]:
    """Writes the corpus of the shards as one of several sources."""
    path = Path("data/corpus/metadata.json")
    before = path.read_bytes()
    yield lambda order: write_corpus(
        path.parent, ["a training text"], TEXTS, {"source": "mixture", "validation_order": order}
    )
    path.write_bytes(before)


def test_a_mixture_has_the_losses_of_each_source(corpus_of: Any) -> None:
    run()
    alone = metrics()
    corpus_of("2:1 0:2 2:2 0:1")
    run()
    found = metrics()
    assert {key: value for key, value in found.items() if key != "sources"} == alone
    documents = rows("documents.tsv")
    assert list(found["sources"]) == ["0", "2"]
    for source, numbers in (("0", (1, 2, 5)), ("2", (0, 3, 4))):
        sums = {key: sum(documents[number][key] for number in numbers) for key in documents[0]}
        loss, bits = (sums["text_nats"] + sums["eos_nats"]) / sums["targets"], sums["text_nats"] / math.log(2)
        assert found["sources"][source] == pytest.approx({
            "loss": loss, "perplexity": math.exp(loss), "bits_per_byte": bits / sums["bytes"],
            "bits_per_char": bits / sums["characters"],
        })  # fmt: skip


@pytest.mark.parametrize(
    "order", ["", "0:5", "0:6 ", "0:-6", "0:6 1:1", "x", "0:6\n", "0:3 1:", "0:999999999999", 6, ["0:6"]]
)
def test_a_mixture_without_the_source_of_each_document_is_refused(corpus_of: Any, order: Any) -> None:
    corpus_of(order)
    with pytest.raises(
        ValueError, match=r"^data/corpus/metadata\.json: source\.validation_order must have the source of"
    ):
        run()


def test_calibration_and_loss_by_frequency_are_those_of_plain_forward_passes() -> None:
    run()
    model, _ = load_checkpoint(Path("models/checkpoint"))
    stream, seen = TokenStream(Path("data/shards"), "val"), TokenStream(Path("data/shards"), "train")
    training = seen.read(0, len(seen)).tolist()
    confidence, right, by_frequency = [], [], dict[float, list[float]]()
    for begin, end in pairwise(stream.document_starts()):
        ids = torch.from_numpy(stream.read(begin, end).astype(np.int64))
        for start in range(0, len(ids) - 1, 16):
            window = ids[start : start + 17]
            with torch.no_grad():
                logits = model(window[None, :-1])[0]
            top = logits.softmax(-1).max(-1)
            confidence += top.values.tolist()
            right += (top.indices == window[1:]).tolist()
            losses = F.cross_entropy(logits, window[1:], reduction="none").tolist()
            for target, loss in zip(window[1:].tolist(), losses, strict=True):
                per_million = max(1, training.count(target)) / len(training) * 1e6
                by_frequency.setdefault(10.0 ** math.floor(math.log10(per_million)), []).append(loss)
    assert metrics()["calibration"]["accuracy"] == pytest.approx(np.mean(right))
    assert metrics()["calibration"]["confidence"] == pytest.approx(np.mean(confidence), rel=1e-5)
    assert sum(row["targets"] for row in rows("calibration.tsv")) == len(right)
    assert rows("loss_by_frequency.tsv") == [
        pytest.approx({"per_million": at, "loss": np.mean(losses), "targets": len(losses)}, rel=1e-5)
        for at, losses in sorted(by_frequency.items())
    ]


def test_copying_is_reported_if_rare_words_are_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: Path
) -> None:
    run()
    assert "copying" not in metrics()
    assert rows("copying_by_distance.tsv") == []
    shutil.copytree(built, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    tokenizer = Tokenizer.load(Path("models/tokenizer"))
    ids = {name: getattr(tokenizer, f"{name}_id") for name in ("pad", "eos", "bos", "unk")}
    shutil.rmtree("data/shards")
    write_shards(
        Path("data/shards"), {"train": ["a training text"], "val": ["zoo zoo zoo.", "a a; zoo", "ox, an ox"]},
        tokenizer.encode_documents, ShardsParams(shard_tokens=1000), vocab_size=260, special_ids=ids,
        tokenizer=tokenizer.digest, workers=1,
    )  # fmt: skip
    run()
    copying = metrics()["copying"]
    assert set(copying) == {"accuracy", "low", "high", "first_mention", "words"}
    assert copying["words"] == 3  # zoo twice, and ox; one word in three of the training text is "a"
    assert [(row["distance"], row["words"]) for row in rows("copying_by_distance.tsv")] == [(5, 3)]  # 4, 4 and 7


def test_with_a_floor_the_metrics_say_how_far_above_it_the_model_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: Path
) -> None:
    shutil.copytree(built, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    run()
    without, size = metrics(), len("".join(TEXTS).encode())
    bits = sum(row["text_nats"] + row["eos_nats"] for row in rows("documents.tsv")) / math.log(2)
    for floor in (90.0, bits + 5, bits + 15, 9e9):  # 5 bits may be luck
        Exam(floor).save(Path("data/exam"))
        stage = run()
        expected = {"floor_bits_per_byte": floor / size, "bits_above_floor": (bits - floor) / size}
        found = metrics()
        assert found.pop("calibration") == without["calibration"]
        assert found == pytest.approx({key: without[key] for key in found if key in without} | expected)
        below = [line for line in stage.lines if "below the floor" in line]
        assert len(below) == (floor > bits + 10)


def test_the_same_params_give_the_same_bytes() -> None:
    run()
    first = written()
    run()
    assert written() == first


@pytest.mark.parametrize(
    "change",
    [
        {"prompts": ["", "Ann", "Tom has"]}, {"prompts": ["Fluß"]}, {"max_new_tokens": 20}, {"temperature": 0.0},
        {"temperature": 0.3}, {"top_k": 2}, {"top_p": 0.3}, {"top_k": 30, "top_p": 0.6}, {"seed": 2},
    ],
    ids=str,
)  # fmt: skip
def test_samples_are_those_of_generate_with_the_same_options(change: dict[str, Any]) -> None:
    run()
    usual = samples()
    run(**change)
    model, _ = load_checkpoint(Path("models/checkpoint"))
    tokenizer = Tokenizer.load(Path("models/tokenizer"))
    params = EVALUATE | change
    expected = []
    for number, prompt in enumerate(params["prompts"]):
        ids = generate(
            model, [tokenizer.bos_id, *prompt.encode()], eos_id=tokenizer.eos_id, seed=params["seed"] + number,
            **{key: params[key] for key in ("max_new_tokens", "temperature", "top_k", "top_p")},
        )  # fmt: skip
        expected.append(f"=== prompt: {prompt!r}\n{prompt}{tokenizer.decode(list(ids))}\n")
    assert samples() == "\n".join(expected)
    assert samples() != usual


def test_a_repeated_prompt_gets_two_different_samples() -> None:
    run()
    _, _, one, two = samples().split("=== prompt: ")
    assert one.startswith("'Tom has'\nTom has")
    assert two.startswith("'Tom has'\nTom has")
    assert one.rstrip("\n") != two.rstrip("\n")


def test_a_sample_ends_at_eos() -> None:
    run(max_new_tokens=2000, temperature=5.0)
    ended = samples()
    assert "<eos>" not in ended
    run(max_new_tokens=2200, temperature=5.0)
    assert samples() == ended


@pytest.mark.parametrize(("batch_size", "batches"), [(3, [3, 3, 3, 1]), (4, [4, 4, 2]), (100, [WINDOWS])])
def test_batch_size_is_respected_and_changes_no_loss(
    batch_size: int, batches: list[int], scoring: dict[str, Any]
) -> None:
    run(batch_size=1)
    assert scoring["rows"] == [1] * WINDOWS
    one_by_one = metrics()
    run(batch_size=batch_size)
    assert scoring["rows"] == batches
    found = metrics()
    assert found.pop("calibration") == pytest.approx(one_by_one.pop("calibration"), rel=1e-4)
    assert found == pytest.approx(one_by_one, rel=1e-5)


def test_bf16_changes_the_losses_a_little() -> None:
    run()
    whole = metrics()
    run(precision="bf16-mixed")
    assert metrics()["loss"] == pytest.approx(whole["loss"], rel=2e-2)
    assert metrics()["loss"] != pytest.approx(whole["loss"], rel=1e-6)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_is_respected(threads: int, scoring: dict[str, Any]) -> None:
    torch.set_num_threads(2)
    run(threads=threads)
    assert scoring["threads"] == threads


@pytest.mark.parametrize("portable", [False, True])
def test_portable_is_set_before_anything_is_computed(portable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Any] = []
    original = stage_file.load_checkpoint
    # What it does to the kernels is seen only in a process that has not computed yet.
    monkeypatch.setattr(stage_file, "set_arithmetic", lambda *given, cuda: events.append((*given, cuda)))
    monkeypatch.setattr(stage_file, "load_checkpoint", lambda *given: events.append("model") or original(*given))
    run(threads=5, portable=portable)
    assert events == [(5, portable, False), "model"]


def test_progress_is_shown_if_enabled(capfd: pytest.CaptureFixture[str]) -> None:
    run()
    assert capfd.readouterr().err == ""
    run(progress=True)
    assert "evaluate: " in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accelerator": "cuda"}, r"evaluate\.accelerator = 'cuda': must be auto or cpu: there is no CUDA device"),
        (
            {"seed": 2**32 - 2, "prompts": ["a", "b", "c"]},
            r"evaluate\.seed = 4294967294: must be between 0 and 4294967293",
        ),
    ],
)
def test_impossible_params_are_refused_before_anything_is_scored(
    change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    Path("results/evaluate/metrics.json").unlink(missing_ok=True)
    with pytest.raises(ValueError, match=f"^{message}$"):
        run(**change)
    assert not Path("results/evaluate/metrics.json").exists()


def test_shards_of_another_vocabulary_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: Path) -> None:
    shutil.copytree(built, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    path = Path("data/shards/metadata.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 261}))
    with pytest.raises(
        ValueError, match=r"^data/shards: vocabulary and special ids \(261, .*, but the tokenizer has \(260,"
    ):
        run()


def test_a_position_that_no_document_reaches_has_no_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: Path
) -> None:
    shutil.copytree(built, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    tokenizer = Tokenizer.load(Path("models/tokenizer"))
    model = build_model(replace(MODEL, context_length=64), 260)
    save_checkpoint(
        Path("models/checkpoint"), model, tokenizer_digest=tokenizer.digest, step=1, tokens_seen=1, provenance={}
    )
    run()
    longest = max(len(text.encode()) for text in TEXTS) + 1  # with <eos>
    assert [row["position"] for row in rows("plots/loss_by_position.tsv")] == list(range(longest))


def test_the_largest_seed_works_for_the_last_prompt() -> None:
    run(seed=2**32 - 3, prompts=["a", "b", "c"])
    assert samples().count("=== prompt") == 3
