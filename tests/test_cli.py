import subprocess
import sys
from pathlib import Path

from tiny_lm.cli import TOOLS

ROOT = Path(__file__).parents[1]


def tiny_lm(*arguments, cwd=ROOT):
    code = "from tiny_lm.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env={"PYTHONPATH": str(ROOT / "src")}, cwd=cwd,
        capture_output=True, text=True,
    )  # fmt: skip


def test_help_names_every_tool_and_every_tool_has_help():
    shown = tiny_lm("--help")
    assert shown.returncode == 0
    for name in TOOLS:
        assert name in shown.stdout
        assert (ROOT / "src/tiny_lm/tools" / f"{name.replace('-', '_')}.py").exists()
        help_of = tiny_lm(name, "--help")
        assert help_of.returncode == 0
        assert f"tiny-lm {name}" in help_of.stdout


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['tiny-lm']; from tiny_lm.cli import main; main();"
        "sys.exit(bool({'torch', 'numpy', 'yaml', 'dvc'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "src")}, capture_output=True)
    assert done.returncode == 0


def test_a_mistake_is_one_line_and_exit_1(tmp_path):
    unknown = tiny_lm("trian")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr.startswith("tiny-lm: no tool 'trian'; there are ")
    nothing_built = tiny_lm("summary", cwd=tmp_path)
    assert nothing_built.returncode == 1
    assert nothing_built.stderr.startswith("tiny-lm summary: data/corpus/metadata.json is not there yet")
    assert nothing_built.stderr.count("\n") == 1
