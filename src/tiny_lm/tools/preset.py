"""`tiny-lm preset`: put presets from configs/ and single values into params.yaml."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_lm.presets import write_params
from tiny_lm.terminal import Parser


def main(argv: list[str]) -> None:
    example = "dataset=local dataset.path=book.txt dataset.validation=tail model=gpt2-2l train.steps=500"
    parser = Parser("preset", __doc__, example)
    parser.add_argument("settings", nargs="*", metavar="SECTION=PRESET or SECTION.KEY=VALUE")
    parser.add_argument("--list", action="store_true", help="show the presets there are")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    args = parser.parse_args(argv)
    if args.list or not args.settings:
        there = {
            folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
            for folder in sorted(Path("configs").iterdir())
        }
        lines = "\n".join(f"{section:<12}{'  '.join(names)}" for section, names in there.items())
        print(json.dumps(there, indent=2) if args.json else lines)
        return
    write_params(args.settings)
    done = f"params.yaml: set {', '.join(args.settings)}; `dvc repro` builds it"
    print(json.dumps({"set": args.settings}, indent=2) if args.json else done)
