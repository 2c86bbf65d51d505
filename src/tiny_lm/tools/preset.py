"""Apply presets from configs/ and set values in params.yaml, keeping its comments.

Text values are taken literally unless they are in quotes: 'dataset.separator="\\n\\n"' has YAML's escapes. Files at
dataset.path that neither Git nor DVC tracks are added, so that clones and experiments have them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tiny_lm.io.params import read_yaml
from tiny_lm.presets import PARAMS, apply, edit_params, params_in, write_params
from tiny_lm.terminal import Parser


def main(argv: list[str]) -> None:
    example = "dataset=local dataset.path=book.txt dataset.validation=tail model=gpt2-2l train.steps=500"
    parser = Parser("preset", __doc__, example)
    parser.add_argument("settings", nargs="*", metavar="SETTING", help="SECTION=PRESET or SECTION.KEY=VALUE")
    parser.add_argument("--list", action="store_true", help="list the presets")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    args = parser.parse_args(argv)
    if args.list or not args.settings:
        presets = {
            folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
            for folder in sorted(Path("configs").iterdir())
        }
        lines = "\n".join(f"{section:<12}{'  '.join(names)}" for section, names in presets.items())
        print(json.dumps(presets, indent=2) if args.json else lines)
        return
    text, note = edit_params(args.settings), ""
    if any(setting.startswith(("dataset", "experiment")) for setting in args.settings):
        text, note = _track(text)
    write_params(text)
    params = read_yaml(PARAMS)  # so that the output shows what the file contains
    values = {}
    for setting in args.settings:
        key = setting.partition("=")[0]
        section, dot, name = key.partition(".")
        values[key] = params[section][name] if dot else setting.partition("=")[2]
    if note:
        print(f"tiny-lm preset: {note}", file=sys.stderr)
    if args.json:
        print(json.dumps({"set": args.settings, "values": values}, indent=2))
        return
    shown = ", ".join(
        f"{key}={json.dumps(value, ensure_ascii=False) if '.' in key else value}" for key, value in values.items()
    )
    command = "dvc repro tasks/dvc.yaml" if any(key.startswith("tasks") for key in values) else "dvc repro"
    print(f"params.yaml: set {shown}; run `{command}` to build it")


def _track(text: str) -> tuple[str, str]:
    """Puts the files at dataset.path under version control. Returns params.yaml, with another path if they were copied,
    and a message for the user, or "".
    """
    from tiny_lm.corpus.sources.local import LocalParams, list_files
    from tiny_lm.tracking import track

    (params,) = params_in(text, "dataset")
    if not isinstance(params, LocalParams):
        return text, ""
    path = Path(params.path)
    if not path.exists():
        path = path.expanduser()  # a shell does not expand ~ in dataset.path=~/book.txt
    try:
        files = [file.path for file in list_files(path, params.format, params.glob)]
    except ValueError as error:  # the file may be created later, and the corpus stage checks again
        return text, str(error)
    place, note = track(path, files)
    if str(place) != params.path:
        text = apply(text, [f"dataset.path={json.dumps(place.as_posix(), ensure_ascii=False)}"])
    return text, note
