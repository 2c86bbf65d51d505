"""`tiny-lm generate` on a model with random weights: output, options and error messages."""

import codecs
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny_lm.bpe import TokenizerParams, train_tokenizer
from tiny_lm.export.write import write_export
from tiny_lm.generation import generate as loop
from tiny_lm.model.checkpoint import save_checkpoint
from tiny_lm.model.llama3 import Llama3Params
from tiny_lm.model.registry import build_model
from tiny_lm.tokenizer.encode import Tokenizer
from tiny_lm.tools.generate import Text, main

SRC = Path(__file__).parents[2] / "src"
PARAMS = Llama3Params(
    architecture="llama3", context_length=32, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=24,
    rope_theta=500.0, norm_eps=1e-5, embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = ["The fox and the hen went to the river. Größe, 你好 👩‍👩‍👧"] * 20
    return train_tokenizer(iter(texts), TokenizerParams(vocab_size=300, pattern="gpt4-digits2"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    torch.manual_seed(0)
    model = build_model(PARAMS, tokenizer.vocab_size).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    tokenizer.save(folder / "models/tokenizer")
    save_checkpoint(
        folder / "models/checkpoint", model, tokenizer_digest=tokenizer.digest, step=1, tokens_seen=1, provenance={}
    )
    write_export(folder / "models/export", model, tokenizer, dtype="bfloat16", card="")
    return folder


@pytest.fixture
def tool(built: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.chdir(built)

    def run(*arguments: str) -> str:
        main(["--max-new-tokens", "12", *arguments])
        return capsys.readouterr().out

    return run


def test_the_prompt_is_printed_before_the_text(tool: Any) -> None:
    shown = tool("--prompt", "The fox")
    assert shown.startswith("The fox")
    assert len(shown) > len("The fox\n")
    assert shown.endswith("\n")
    record = json.loads(tool("--prompt", "The fox", "--json"))
    assert record == {"prompt": "The fox", "text": shown[len("The fox") : -1], "tokens": 12}


@pytest.mark.parametrize(
    "change",
    [
        ["--prompt", "The hen"], ["--seed", "1"], ["--temperature", "0"], ["--top-k", "1"], ["--top-p", "0.1"],
        ["--max-new-tokens", "11"], ["--no-bos"], ["--model", "models/export"],
    ],
    ids=lambda change: change[0],
)  # fmt: skip
def test_every_option_changes_the_text_and_equal_options_give_equal_text(tool: Any, change: list[str]) -> None:
    base = ["--prompt", "The fox", "--temperature", "1.5", "--max-new-tokens", "30"]
    assert tool(*base) == tool(*base)
    assert tool(*base, *change) != tool(*base)


def test_batch_size_and_compile_reach_the_loop_and_change_no_text(
    tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("The fox\nThe hen and the fox\n\nGröße\nThe\n")
    base = tool("--prompts", str(prompts))
    made: list[tuple[int, bool]] = []

    class Recording(loop.Decoder):
        def __init__(self, model: Any, batch: int, max_len: int, compiled: bool) -> None:
            made.append((batch, compiled))
            super().__init__(model, batch, max_len, False)

    monkeypatch.setattr(loop, "Decoder", Recording)
    assert tool("--prompts", str(prompts), "--batch-size", "3") == base
    assert tool("--prompts", str(prompts), "--compile") == base
    assert made == [(3, False), (4, True)]


def test_prompts_of_a_file_are_continued_in_order_and_as_if_alone(tool: Any, tmp_path: Path) -> None:
    prompts = ["The fox", "The hen went to the river", "你好 ", "a"]
    path = tmp_path / "prompts.txt"
    path.write_bytes("The fox\r\n\nThe hen went to the river\n你好 \n   \na".encode())
    records = [json.loads(line) for line in tool("--prompts", str(path), "--json", "--batch-size", "2").splitlines()]
    assert [record["prompt"] for record in records] == prompts
    assert records == [json.loads(tool("--prompt", prompt, "--json")) for prompt in prompts]
    shown = tool("--prompts", str(path))
    assert shown == "".join(f"=== {r['prompt']!r}\n{r['prompt']}{r['text']}\n" for r in records)


def test_a_repeated_prompt_uses_the_next_seed(tool: Any, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a\nThe fox\na\na\n")
    texts = [json.loads(line)["text"] for line in tool("--prompts", str(path), "--json", "--seed", "5").splitlines()]
    alone = [json.loads(tool("--prompt", "a", "--json", "--seed", seed))["text"] for seed in ("5", "6", "7")]
    assert [texts[0], *texts[2:]] == alone
    assert len(set(alone)) == 3


def test_prompts_in_jsonl_may_have_several_lines(tool: Any, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "The\\nfox", "id": 7}\n\n{"prompt": ""}\n')
    records = [json.loads(line) for line in tool("--prompts", str(path), "--json").splitlines()]
    assert records == [json.loads(tool("--prompt", prompt, "--json")) for prompt in ("The\nfox", "")]


def test_a_byte_order_mark_is_not_part_of_the_first_prompt(tool: Any, tmp_path: Path) -> None:
    for name, content in (("a.txt", "The fox\n"), ("a.jsonl", '{"prompt": "The fox"}\n')):
        (tmp_path / name).write_text(content, encoding="utf-8-sig")
        assert json.loads(tool("--prompts", str(tmp_path / name), "--json"))["prompt"] == "The fox"


def test_a_text_ends_at_eos(tool: Any, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert json.loads(tool("--json"))["tokens"] == 12
    monkeypatch.setattr(loop, "next_tokens", lambda logits, *_, **__: torch.tensor([tokenizer.eos_id] * len(logits)))
    assert json.loads(tool("--json")) == {"prompt": "", "text": "", "tokens": 0}


def test_only_complete_characters_are_shown_however_tokens_split_them(tokenizer: Tokenizer) -> None:
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choice("aé你👩\u200d🇯ß\n") for _ in range(rng.randint(1, 8)))
        single = [tokenizer.ranks[bytes([byte])] for byte in text.encode()]
        ids = rng.choice([single, tokenizer.encode(text).tolist()])
        shown, arriving = Text("", tokenizer), ""
        for count, token in enumerate(ids, start=1):
            shown.add(token)
            arriving = shown.text
            assert text.startswith(arriving)
            whole = codecs.getincrementaldecoder("utf-8")().decode(tokenizer.decode_bytes(ids[:count]))
            assert arriving == whole  # nothing complete is held back
        shown.add(None)
        assert shown.text == arriving == text


def test_invalid_utf8_is_shown_as_if_decoded_at_once(tokenizer: Tokenizer) -> None:
    rng = random.Random(1)
    for _ in range(300):
        ids = [rng.randrange(tokenizer.vocab_size) for _ in range(rng.randint(0, 12))]
        shown = Text("", tokenizer)
        for token in [*ids, None]:
            shown.add(token)
        assert shown.text == tokenizer.decode(ids)


def test_text_is_printed_as_it_arrives(tool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(
        sys, "stdout", type("Out", (), {"write": lambda _, s: written.append(s), "flush": lambda _: 0})()
    )
    main(["--max-new-tokens", "12", "--prompt", "The"])
    assert len([part for part in written if part.strip()]) > 6


MISTAKES = [
    (
        ["--model", "nix"],
        "nix: there is no such file or folder; `tiny-lm restore train` or `dvc pull` restores it",
    ),
    (["--no-bos"], "--no-bos: the model needs at least one token to continue; give a --prompt"),
    (["--max-new-tokens", "0"], "argument --max-new-tokens: '0': must be an amount such as 5000"),
    (["--temperature", "-1"], r"temperature = -1.0: must be between 0 \(greedy\) and 100"),
    (["--temperature", "nan"], r"temperature = nan: must be between 0 \(greedy\) and 100"),
    (["--top-k", "0"], "argument --top-k: '0': must be an amount such as 5000"),
    (["--top-p", "1.5"], "top_p = 1.5: must be over 0 and at most 1"),
    (["--seed", "-1"], "--seed = -1: must be from 0 to 4294967295"),
    (["--seed", "4294967296"], "--seed = 4294967296: must be from 0 to 4294967295"),
    (["--batch-size", "0"], "argument --batch-size: '0': must be an amount such as 5000"),
    (["--prompt", "\udcff"], r"character 0 of the text is a lone surrogate \(U\+DCFF\); remove"),
    (["--prompts", "empty.txt"], "empty.txt: has no prompts, only blank lines"),
    (["--prompts", "latin.txt"], "latin.txt: byte 2 is not UTF-8; save the file as UTF-8"),
    (["--prompts", "list.jsonl"], 'list.jsonl, line 2: must be {"prompt": "a text"}'),
    (["--prompts", "number.jsonl"], 'number.jsonl, line 1: must be {"prompt": "a text"}'),
    (["--prompts", "half.jsonl"], 'half.jsonl, line 2: must be {"prompt": "a text"}'),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda value: " ".join(value)[:40])
def test_a_mistake_is_one_line(tool: Any, built: Path, arguments: list[str], message: str) -> None:
    files = {
        "empty.txt": b"\n  \n", "latin.txt": b"Gr\xf6\xdfe\n", "list.jsonl": b'{"prompt": "a"}\n[]\n',
        "number.jsonl": b'{"prompt": 3}\n', "half.jsonl": b'{"prompt": "a"}\n{"prompt": "\\ud83d"}\n',
    }  # fmt: skip
    for name, content in files.items():
        (built / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        tool(*arguments)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tool: Any) -> None:
    with pytest.raises(FileNotFoundError, match="nix.txt"):
        tool("--prompts", "nix.txt")


def test_an_invalid_number_names_the_option(tool: Any) -> None:
    with pytest.raises(ValueError, match="^argument --temperature: invalid float value: 'hot'; see `tiny-lm generate"):
        tool("--temperature", "hot")


def test_help_does_not_import_torch_nor_generation_compiler_or_transformers(built: Path) -> None:
    code = (
        "import sys; from tiny_lm.tools.generate import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: assert 'torch' not in sys.modules\n"
        "main(['--max-new-tokens', '1']); main(['--max-new-tokens', '1', '--model', 'models/export'])\n"
        "loaded = {'torch._dynamo', 'transformers', 'pytorch_lightning', 'dvc'} & set(sys.modules)\n"
        "sys.exit(', '.join(loaded) or 0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    done = subprocess.run([sys.executable, "-c", code], cwd=built, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_pipe_is_not_an_error(built: Path) -> None:
    command = [sys.executable, "-c", "from tiny_lm.cli import main; main()", "generate", "--max-new-tokens", "100000"]
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    with subprocess.Popen(
        command, cwd=built, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
