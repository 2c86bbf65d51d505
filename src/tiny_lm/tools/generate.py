"""Continue a prompt, or each prompt of a file, with a trained model."""

from __future__ import annotations

import argparse
import codecs
import json
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiny_lm.io.params import check
from tiny_lm.terminal import Parser, amount

if TYPE_CHECKING:
    from tiny_lm.tokenizer.encode import Tokenizer


def main(argv: list[str]) -> None:
    parser = Parser("generate", __doc__, "--prompt 'One day, Lily' --temperature 0.5")
    parser.usage = "tiny-lm generate [--prompt TEXT | --prompts FILE] [options]"
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--prompt", metavar="TEXT", default="", help="default: empty, to begin a new text")
    source.add_argument(
        "--prompts", type=Path, metavar="FILE",
        help="one prompt per line; blank lines are skipped; in a .jsonl file {\"prompt\": \"...\"} on each line",
    )  # fmt: skip
    add("--model", type=Path, default="models/checkpoint", metavar="PATH",
        help="%(default)s (default), models/export or a last.ckpt")  # fmt: skip
    add("--max-new-tokens", type=amount, default=200, metavar="N", help="default: 200")
    add("--temperature", type=float, default=0.8, metavar="T", help="0: always the most likely token; default: 0.8")
    add("--top-k", type=amount, metavar="K", help="sample from the K most likely tokens")
    add("--top-p", type=float, metavar="P", help="sample from the most likely tokens that together reach probability P")
    add("--seed", type=int, default=0, metavar="N", help="the same seed gives the same text; default: 0")
    add("--no-bos", action="store_true", help="do not start with <bos>, which marks the beginning of a document")
    add("--batch-size", type=amount, default=16, metavar="N", help="prompts at a time; default: 16")
    add(
        "--compile",
        action="store_true",
        help="faster steps: a CUDA graph on a GPU; torch.compile on a CPU, which takes long to start",
    )
    add("--json", action="store_true", help="print one line of JSON per prompt, when its text is complete")
    args = parser.parse_args(argv)
    _run(args, _read_prompts(args.prompts) if args.prompts else [args.prompt])


def _read_prompts(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    parse = _parse_json if path.suffix == ".jsonl" else lambda line, _: line
    prompts = [parse(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not prompts:
        raise ValueError(f"{path}: has no prompts, only blank lines")
    return prompts


def _parse_json(line: str, place: str) -> str:
    try:
        prompt = json.loads(line)["prompt"]
        prompt.encode()  # a lone surrogate cannot be
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ValueError(f'{place}: must be {{"prompt": "a text"}}') from None
    return str(prompt)


def _run(args: argparse.Namespace, prompts: list[str]) -> None:
    import torch  # takes a second, and --help should be instant

    from tiny_lm.generation.generate import generate_batch
    from tiny_lm.generation.sampling import check_sampling
    from tiny_lm.load import load_model

    if args.no_bos and "" in prompts:
        raise ValueError("--no-bos: the model needs at least one token to continue; give a --prompt")
    warnings.filterwarnings("ignore", module="torch._inductor")  # advice about --compile for authors of models
    largest_seed = 2**32 - len(prompts)
    check(0 <= args.seed <= largest_seed, "--seed", args.seed, f"from 0 to {largest_seed}")
    check_sampling(temperature=args.temperature, top_k=args.top_k, top_p=args.top_p)
    model, tokenizer = load_model(args.model)
    repeats: Counter[str] = Counter()
    seeds = []  # a repeated prompt gets the next seed; other prompts in the file do not change a text
    for prompt in prompts:
        seeds.append(args.seed + repeats[prompt])
        repeats[prompt] += 1
    first = [] if args.no_bos else [tokenizer.bos_id]
    tokens = generate_batch(
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
    current = 0  # texts are printed in the order of the prompts, each when the one before it is complete
    for index, token in tokens:
        texts[index].add(token)
        while current < len(texts):
            text = texts[current]
            if args.json:
                if text.complete:
                    print(json.dumps(text.record(), ensure_ascii=False), flush=True)
            else:
                text.show(numbered=len(texts) > 1)
            if not text.complete:
                break
            current += 1


class Text:
    """A continuation that arrives token by token, decoded and printed."""

    def __init__(self, prompt: str, tokenizer: Tokenizer) -> None:
        self.prompt = prompt
        self.tokenizer = tokenizer
        # keeps the bytes of an incomplete character until the rest arrives; at the end they become U+FFFD
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.text = ""
        self.tokens = 0
        self.printed: int | None = None  # characters, or None before the heading
        self.complete = False

    def add(self, token: int | None) -> None:
        """Adds the next token, or None at the end."""
        if token is None:
            self.text += self.decoder.decode(b"", final=True)
            self.complete = True
        else:
            self.text += self.decoder.decode(self.tokenizer.decode_bytes([token]))
            self.tokens += 1

    def show(self, numbered: bool) -> None:
        """Prints what is new since the last call."""
        if self.printed is None:
            print(f"=== {self.prompt!r}\n{self.prompt}" if numbered else self.prompt, end="")
            self.printed = 0
        print(self.text[self.printed :], end="\n" if self.complete else "", flush=True)
        self.printed = len(self.text)

    def record(self) -> dict[str, Any]:
        return {"prompt": self.prompt, "text": self.text, "tokens": self.tokens}
