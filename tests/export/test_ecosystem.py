"""The export in other programs: pipelines, `tokenizers` and `safetensors` alone, and lm-evaluation-harness."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from tokenizers import Tokenizer as HuggingFaceTokenizer

from tiny_lm.bpe import TokenizerParams, train_tokenizer
from tiny_lm.corpus.exam import questions
from tiny_lm.encoding.encode import ShardsParams, write_shards
from tiny_lm.evaluation.exam import take_exam
from tiny_lm.evaluation.losses import DocumentLosses
from tiny_lm.evaluation.predictions import predictions
from tiny_lm.exam import Exam
from tiny_lm.export.huggingface import huggingface_tensors
from tiny_lm.export.write import TEXTS, write_export
from tiny_lm.generation.generate import generate
from tiny_lm.model.gpt2 import GPT2Params
from tiny_lm.model.llama3 import Llama3Params
from tiny_lm.model.registry import build_model
from tiny_lm.model.transformer import Transformer
from tiny_lm.shards.stream import TokenStream
from tiny_lm.shards.windows import DocumentWindows
from tiny_lm.stories.generator import story
from tiny_lm.tokenizer.encode import Tokenizer

ROOT = Path(__file__).parents[2]
STORIES = [story(3, index) for index in range(120)]
PARAMS = {
    "llama3": Llama3Params(
        architecture="llama3", context_length=48, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48,
        rope_theta=500.0, norm_eps=1e-5, embedding_dropout=0.0, attention_dropout=0.1, residual_dropout=0.0,
    ),
    "gpt2": GPT2Params(
        architecture="gpt2", context_length=48, d_model=32, n_layers=2, n_heads=4, n_kv_heads=4, d_ff=48,
        qkv_bias=False, embedding_dropout=0.0, attention_dropout=0.1, residual_dropout=0.0,
    ),
}  # fmt: skip


@dataclass
class Export:
    folder: Path
    model: Transformer
    tokenizer: Tokenizer


@pytest.fixture(scope="module", params=list(PARAMS))
def export(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Export:
    tokenizer = train_tokenizer(iter(STORIES), TokenizerParams(vocab_size=500, pattern="gpt4-digits2"), False)
    torch.manual_seed(0)
    model = build_model(PARAMS[request.param], tokenizer.vocab_size).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("models") / "export"
    write_export(folder, model, tokenizer, dtype="float32", card="")
    return Export(folder, model, tokenizer)


def ours(export: Export, prompt: str, count: int) -> str:
    """The prompt and its greedy continuation by our own loop, without <bos>, like in a pipeline."""
    ids = export.tokenizer.encode(prompt).tolist()
    new = generate(
        export.model, ids, max_new_tokens=count, temperature=0.0, top_k=None, top_p=None, seed=0,
        eos_id=export.tokenizer.eos_id,
    )  # fmt: skip
    return prompt + export.tokenizer.decode(list(new))


def test_a_pipeline_generates_the_same_text_with_and_without_batches(export: Export) -> None:
    pipeline = transformers.pipeline("text-generation", model=str(export.folder))
    prompts = ["One day, Lily lost the red kite near the", "Once"]
    expected = [ours(export, prompt, 10) for prompt in prompts]
    found = pipeline(prompts, do_sample=False, max_new_tokens=10, batch_size=2)
    assert [answer[0]["generated_text"] for answer in found] == expected
    assert pipeline("Once", do_sample=False)[0]["generated_text"] == ours(export, "Once", 24)  # half a context


def test_padding_a_batch_of_prompts_does_not_change_the_text(export: Export) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(export.folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(export.folder)
    prompts = ["One day, Lily lost the red kite near the", "Once"]
    inputs = tokenizer(prompts, padding=True, return_tensors="pt")
    texts = tokenizer.batch_decode(model.generate(**inputs, max_new_tokens=10, do_sample=False))
    assert [text.replace("<pad>", "") for text in texts] == [ours(export, prompt, 10) for prompt in prompts]


def test_the_code_on_the_page_runs(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models").symlink_to(export.folder.parent)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    transformers_code, tokenizers_code = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)[:2]
    exec(transformers_code.replace("max_new_tokens=100", "max_new_tokens=24"), {})  # the context is a short one
    assert capfd.readouterr().out.startswith("<bos>Once upon a time")
    exec(tokenizers_code, {})
    assert capfd.readouterr().out == f"{export.tokenizer.encode('Once upon a time').tolist()}\n"


def test_special_tokens_context_length_and_defaults_are_exported(export: Export) -> None:
    special = (export.tokenizer.bos_id, export.tokenizer.eos_id, export.tokenizer.pad_id)
    tokenizer = transformers.AutoTokenizer.from_pretrained(export.folder)
    config = transformers.AutoConfig.from_pretrained(export.folder)
    generation = transformers.GenerationConfig.from_pretrained(export.folder)
    for found in (tokenizer, config, generation):
        assert (found.bos_token_id, found.eos_token_id, found.pad_token_id) == special
    assert (tokenizer.model_max_length, config.max_position_embeddings, generation.max_new_tokens) == (48, 48, 24)


def test_generation_stops_at_eos(export: Export) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(export.folder)
    prompt = torch.tensor([export.tokenizer.encode("Once").tolist()])
    most_likely = int(model(prompt).logits[0, -1].argmax())
    model.generation_config.eos_token_id = most_likely
    assert model.generate(prompt, do_sample=False).shape[1] == prompt.shape[1] + 1


def test_tokenizers_alone_gives_the_same_ids(export: Export) -> None:
    theirs = HuggingFaceTokenizer.from_file(str(export.folder / "tokenizer.json"))
    for text in STORIES:
        assert theirs.encode(text).ids == export.tokenizer.encode(text).tolist()
        assert theirs.decode(theirs.encode(text).ids) == text
    theirs.encode_special_tokens = True  # special tokens in a text are text
    for text in TEXTS:
        assert theirs.encode(text).ids == export.tokenizer.encode(text).tolist()
    assert theirs.token_to_id("<eos>") == export.tokenizer.eos_id


def test_safetensors_alone_reads_the_weights(export: Export) -> None:
    expected = huggingface_tensors(export.model)
    with safe_open(export.folder / "model.safetensors", framework="np") as file:
        assert set(file.keys()) == set(expected)
        for name in file.keys():  # noqa: SIM118
            assert (file.get_tensor(name) == expected[name].detach().numpy()).all()


def whole_windows(export: Export) -> list[str]:
    """Texts of at most one context, or of exactly two: otherwise the harness lets the last window overlap with the one
    before, while our windows never overlap.
    """
    encode, decode = export.tokenizer.encode, export.tokenizer.decode
    texts = [line for text in STORIES for line in text.splitlines() if line]
    texts += [decode(encode(text)[:96]) for text in STORIES]
    return [text for text in texts if len(encode(text)) <= 48 or len(encode(text)) == 96]


def our_bits_per_byte(export: Export, texts: list[str], folder: Path) -> float:
    """Computed as in the evaluation stage."""
    special = {"pad": export.tokenizer.pad_id, "eos": export.tokenizer.eos_id, "bos": export.tokenizer.bos_id}
    metadata = write_shards(
        folder, {"train": iter(STORIES[:1]), "val": iter(texts)}, export.tokenizer.encode_documents,
        ShardsParams(shard_tokens=10**6), vocab_size=export.tokenizer.vocab_size,
        special_ids=special | {"unk": export.tokenizer.unk_id}, tokenizer=export.tokenizer.digest, workers=1,
    )  # fmt: skip
    windows = DocumentWindows(TokenStream(folder, "val"), 48, 32, None)
    losses = DocumentLosses(documents=len(texts), context_length=48, eos_id=export.tokenizer.eos_id)
    batches = (windows[index] for index in range(len(windows)))
    for batch in predictions(export.model, batches, precision="32", progress=False):
        losses.add(batch)
    return losses.metrics(text_bytes=metadata.val.bytes, characters=metadata.val.characters)["bits_per_byte"]


Harness = Callable[[str, Path], dict[str, float]]


@pytest.fixture
def harness(export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Harness:
    """`harness(task, folder)`: the results of our export in a task that lm-evaluation-harness finds in the folder."""
    pytest.importorskip("lm_eval", reason="pip install -e '.[tasks]'")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    import lm_eval
    from lm_eval.tasks import TaskManager

    def run(task: str, folder: Path) -> dict[str, float]:
        found: dict[str, float] = lm_eval.simple_evaluate(
            model="hf", model_args={"pretrained": str(export.folder), "dtype": "float32"}, tasks=[task], device="cpu",
            batch_size=32, task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            bootstrap_iters=0,
        )["results"][task]  # fmt: skip
        return found

    return run


def test_lm_evaluation_harness_finds_the_same_accuracy_in_the_exam(
    export: Export, harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [question for number, text in enumerate(STORIES[:20]) for question in questions(text, number)]
    Exam(None, asked).save(tmp_path / "exam")
    monkeypatch.chdir(tmp_path / "exam")
    found = harness("tiny_lm_exam", Path("."))["acc,none"]
    answers = take_exam(export.model, export.tokenizer, asked, 32)
    assert found == pytest.approx(sum(answer.right for answer in answers) / len(answers))


def test_lm_evaluation_harness_finds_the_same_bits_per_byte(export: Export, harness: Harness, tmp_path: Path) -> None:
    texts = whole_windows(export)
    assert {len(export.tokenizer.encode(text)) for text in texts} >= {30, 96}
    data = tmp_path / "stories.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    task: dict[str, Any] = {
        "task": "stories",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/stories.yaml").write_text(json.dumps(task))  # JSON is YAML
    found = harness("stories", tmp_path / "tasks")["bits_per_byte,none"]
    assert found == pytest.approx(our_bits_per_byte(export, texts, tmp_path / "shards"), abs=1e-6)
