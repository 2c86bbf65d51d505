"""Export models/checkpoint and models/tokenizer as one GGUF file for llama.cpp."""

from __future__ import annotations

from pathlib import Path

from tiny_lm.terminal import Parser


def main(argv: list[str]) -> None:
    parser = Parser("export-gguf", __doc__, "--approximate --dtype float16 --output models/fox.gguf")
    parser.add_argument("--output", type=Path, default="models/model.gguf", metavar="FILE", help="default: %(default)s")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32",
        help="of the weight matrices; default: %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--approximate", action="store_true",
        help="export even if llama.cpp splits digits differently, so that long numbers get other token ids",
    )  # fmt: skip
    args = parser.parse_args(argv)
    if args.output.is_dir():
        raise ValueError(f"--output {args.output}: is a folder; give the name of a file")

    from tiny_lm.model.checkpoint import load_checkpoint
    from tiny_lm.publish.gguf import llama_cpp_pattern, write_gguf
    from tiny_lm.tokenizer.encode import Tokenizer

    tokenizer = Tokenizer.load(Path("models/tokenizer"))
    pattern, note = llama_cpp_pattern(tokenizer.pattern, approximate=args.approximate)
    model, _ = load_checkpoint(Path("models/checkpoint"), tokenizer.digest, tokenizer.vocab_size)
    write_gguf(args.output, model, tokenizer, pattern=pattern, dtype=args.dtype, note=note)
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB in {args.dtype}{'; ' if note else ''}{note}")
