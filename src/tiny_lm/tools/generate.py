"""`tiny-lm generate`: continues a prompt, or the prompts of a file, with a trained model."""

from __future__ import annotations

import argparse
import codecs
import json
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiny_lm.io.params import check
from tiny_lm.terminal import Parser

if TYPE_CHECKING:
    from tiny_lm.tokenizer.encode import Tokenizer

MODEL = Path("models/checkpoint")


def main(argv: list[str]) -> None:
    parser = Parser("generate", __doc__, "--prompt 'One day, Lily' --temperature 0.5")
    parser.usage = "tiny-lm generate [--prompt TEXT | --prompts FILE] [options]"
    add = parser.add_argument
    prompts = parser.add_mutually_exclusive_group()
    prompts.add_argument("--prompt", metavar="TEXT", default="", help="default: none, the model begins a text")
    prompts.add_argument(
        "--prompts", type=Path, metavar="FILE",
        help="a prompt on each line, blank lines left out; in a .jsonl file {\"prompt\": …} on each line",
    )  # fmt: skip
    add("--model", type=Path, default=MODEL, metavar="PATH", help=f"{MODEL} (default), models/export or a last.ckpt")
    add("--max-new-tokens", type=int, default=200, metavar="N", help="default: 200")
    add("--temperature", type=float, default=0.8, metavar="T", help="0: always the likeliest token; default: 0.8")
    add("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens only")
    add("--top-p", type=float, metavar="P", help="draw from the likeliest tokens that make up this share")
    add("--seed", type=int, default=0, help="the same seed gives the same text; default: 0")
    add("--no-bos", action="store_true", help="do not put <bos>, the beginning of a text, before the prompt")
    add("--batch-size", type=int, default=16, metavar="N", help="prompts of a file at a time; default: 16")
    add("--compile", action="store_true", help="make a step of one shape first: faster on a GPU")
    add("--json", action="store_true", help="a line of JSON for each prompt, when its text has ended")
    args = parser.parse_args(argv)
    _run(args, _read_prompts(args.prompts) if args.prompts else [args.prompt])


def _read_prompts(path: Path) -> list[str]:
    prompts = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
            if line.strip():
                prompts.append(line.removesuffix("\r") if path.suffix != ".jsonl" else _prompt(path, number, line))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    if not prompts:
        raise ValueError(f"{path}: has no prompt, only blank lines")
    return prompts


def _prompt(path: Path, number: int, line: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("prompt"), str):
        raise ValueError(f'{path}, line {number}: must be {{"prompt": "a text"}}')
    return str(value["prompt"])


def _run(args: argparse.Namespace, prompts: list[str]) -> None:
    import torch  # which takes a second, and help should not

    from tiny_lm.generation.generate import generate_batch
    from tiny_lm.load import load_model

    if args.no_bos and "" in prompts:
        raise ValueError("--no-bos: the prompt is empty, so the model would have nothing to read; give a --prompt")
    warnings.filterwarnings("ignore", module="torch._inductor")  # --compile: advice that nobody here can follow
    model, tokenizer = load_model(args.model)
    earlier: Counter[str] = Counter()  # how often a prompt came before: a text depends on no other prompts than its own
    seeds = []
    for prompt in prompts:
        check(0 <= args.seed < 2**32 - len(prompts), "seed", args.seed, f"from 0 to {2**32 - len(prompts) - 1}")
        seeds.append(args.seed + earlier[prompt])
        earlier[prompt] += 1
    first = [] if args.no_bos else [tokenizer.bos_id]
    drawn = generate_batch(
        model.to("cuda" if torch.cuda.is_available() else "cpu"),
        [first + tokenizer.encode(prompt).tolist() for prompt in prompts],
        seeds=seeds,
        batch_size=args.batch_size,
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        eos_id=tokenizer.eos_id,
        compiled=args.compile,
    )
    texts = [Text(prompt, tokenizer) for prompt in prompts]
    current = 0  # texts are shown in the order of the prompts, each as soon as the ones before it have ended
    for number, token in drawn:
        texts[number].add(token)
        while current < len(texts):
            text = texts[current]
            if args.json:
                if text.ended:
                    print(json.dumps(text.record(), ensure_ascii=False), flush=True)
            else:
                text.show(numbered=len(texts) > 1)
            if not text.ended:
                break
            current += 1


class Text:
    """A text that arrives token by token."""

    def __init__(self, prompt: str, tokenizer: Tokenizer) -> None:
        self.prompt = prompt
        self.tokenizer = tokenizer
        # a token may hold a part of a character: bytes wait here until it is whole, and at the end become U+FFFD
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.text = ""
        self.tokens = 0
        self.shown: int | None = None  # characters
        self.ended = False

    def add(self, token: int | None) -> None:
        """The next token, or None at the end."""
        if token is None:
            self.text += self.decoder.decode(b"", final=True)
            self.ended = True
        else:
            self.text += self.decoder.decode(self.tokenizer.decode_bytes([token]))
            self.tokens += 1

    def show(self, numbered: bool) -> None:
        """Prints what has arrived since the last time."""
        if self.shown is None:
            print(f"=== {self.prompt!r}\n{self.prompt}" if numbered else self.prompt, end="")
            self.shown = 0
        print(self.text[self.shown :], end="\n" if self.ended else "", flush=True)
        self.shown = len(self.text)

    def record(self) -> dict[str, Any]:
        return {"prompt": self.prompt, "text": self.text, "tokens": self.tokens}
