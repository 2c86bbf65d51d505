"""Which files of the package a module can execute: the closure of its imports, those in function bodies included."""

import ast
import sys
from pathlib import Path

SRC = Path(__file__).parents[2] / "src"


def module_files(dotted: str) -> list[Path]:
    """The files that importing `dotted` executes inside the package: the parents' `__init__.py`, and the module."""
    parts, files, base = dotted.split("."), [], SRC
    if parts[0] != "tiny_lm":
        return []
    for part in parts:
        base = base / part
        if (base / "__init__.py").exists():  # a folder without it may be left from an earlier commit
            files.append(base / "__init__.py")
        elif base.with_suffix(".py").exists():
            return [*files, base.with_suffix(".py")]
        else:
            return files  # a name inside the last module
    return files


def imported(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports inside the package are absolute"
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def closure(module: str) -> set[Path]:
    """The non-empty files, relative to the repository, that running `module` can execute."""
    todo, seen = module_files(module), set()
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo += [file for name in imported(path) for file in module_files(name)]
    return {path.relative_to(SRC.parent) for path in seen if path.read_text(encoding="utf-8").strip()}


def surrounds_a_stage(path: Path) -> bool:
    """Whether a file only runs stages (locks, checks, messages), and so cannot change a byte of their outputs."""
    return path.is_relative_to("src/tiny_lm/runner") or path.name in ("__main__.py", "tracking.py")


def is_whole(folder: Path, files: set[Path]) -> bool:
    """Whether all code below a folder of the package is among `files`."""
    code = {path for path in (SRC.parent / folder).rglob("*.py") if path.read_text(encoding="utf-8").strip()}
    return {path.relative_to(SRC.parent) for path in code} <= files


def code_deps(stage: str) -> list[str]:
    """What dvc.yaml lists as a stage's code: folders that it can execute as a whole, and single files of others.

    The code that surrounds a stage is not among them.
    """
    files = closure(f"tiny_lm.stages.{stage}")
    files = {file for file in files if not surrounds_a_stage(file)}
    deps = set()
    for file in files:
        folders = file.parents[: len(file.parents) - 3]  # those below src/tiny_lm, the innermost first
        whole = [folder for folder in folders if folder.name != "stages" and is_whole(folder, files)]
        dep = whole[-1] if whole else file
        data = [path for path in (SRC.parent / file.parent).iterdir() if path.suffix and path.suffix != ".py"]
        assert whole or not data, f"{file.parent} contains {data[0].name}: a stage must execute all of its code or none"
        deps.add(str(dep))
    return sorted(deps)


def listed_lines(stage: str) -> int:
    """Lines of the package's code that a stage lists in dvc.yaml."""
    files = {file for file in closure(f"tiny_lm.stages.{stage}") if not surrounds_a_stage(file)}
    return sum(len((SRC.parent / file).read_text(encoding="utf-8").splitlines()) for file in files)


if __name__ == "__main__":
    print(listed_lines(sys.argv[1]))
