"""Apply presets from configs/ and set values in params.yaml, keeping its comments.

Settings are applied from left to right. SECTION=PRESET replaces the whole section, so give its values after it.
Text values are taken literally unless they are in quotes: 'dataset.separator="\\n\\n"' has YAML's escapes. Files at
dataset.path that neither Git nor DVC tracks are added, so that clones and experiments have them.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from tiny_lm.io.params import read_yaml
from tiny_lm.presets import PARAMS, apply, edit_params, find, params_in, write_params
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
        values[key] = find(params, key.split(".")) if "." in key else setting.partition("=")[2]
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
    from tiny_lm.corpus.mixture import components
    from tiny_lm.tracking import track

    (params,) = params_in(text, "dataset")
    local = [component for component in components(params) if component.params.reads_path]
    if not local:
        return text, ""

    def expand(path: str) -> Path:
        return Path(path) if Path(params.path).exists() else Path(path).expanduser()  # no shell expands path=~/book.txt

    path = expand(params.path)
    try:
        files = [file for each in local for file in replace(each.params, path=str(expand(each.params.path))).files()]
    except ValueError as error:  # the file may be created later, and the corpus stage checks again
        return text, str(error)
    place, note = track(path, files)
    if str(place) != params.path:
        moved = {f"{each.section}.path": place / expand(each.params.path).relative_to(path) for each in local}
        paths = {"dataset.path": place} | moved
        text = apply(text, [f"{key}={json.dumps(path.as_posix(), ensure_ascii=False)}" for key, path in paths.items()])
    return text, note
