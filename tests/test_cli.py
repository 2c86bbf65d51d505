import importlib
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_lm.cli import TOOLS, main
from tiny_lm.tools import check

ROOT = Path(__file__).parents[1]


def tiny_lm(*arguments, cwd=ROOT):
    code = "from tiny_lm.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env={"PYTHONPATH": str(ROOT / "src")}, cwd=cwd,
        capture_output=True, text=True,
    )  # fmt: skip


def module_of(tool):
    return importlib.import_module(f"tiny_lm.tools.{tool.replace('-', '_')}")


def test_help_lists_every_tool_and_every_tool_has_help(capsys):
    shown = tiny_lm("--help")
    assert shown.returncode == 0
    for name in TOOLS:
        assert name in shown.stdout
        with pytest.raises(SystemExit) as ended:
            module_of(name).main(["--help"])
        assert ended.value.code == 0
        help_of = capsys.readouterr().out
        assert f"tiny-lm {name}" in help_of
        if name != "summary":  # which takes no arguments
            assert f"\n\nexample: tiny-lm {name} " in help_of
    done = tiny_lm(name, "--help")  # the last one as a user types it
    assert (done.returncode, done.stdout, done.stderr) == (0, help_of, "")


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['tiny-lm']; from tiny_lm.cli import main; main();"
        "sys.exit(bool({'torch', 'numpy', 'yaml', 'dvc'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "src")}, capture_output=True)
    assert done.returncode == 0


def test_a_mistake_is_one_line_and_exit_code_1(tmp_path):
    unknown = tiny_lm("trian")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr.startswith("tiny-lm: unknown tool 'trian'; choose one of ")
    nothing_built = tiny_lm("summary", cwd=tmp_path)
    assert nothing_built.returncode == 1
    assert nothing_built.stderr.startswith("tiny-lm summary: data/corpus/metadata.json: there is no such file")
    assert nothing_built.stderr.count("\n") == 1


@pytest.mark.parametrize("tool", TOOLS)
def test_an_unknown_option_is_one_line_that_refers_to_help(tool):
    with pytest.raises(ValueError, match=f"see `tiny-lm {tool} --help`$") as error:
        module_of(tool).main(["--no-such-option"])
    assert "\n" not in str(error.value)


HEAVY = {"torch", "transformers", "pytorch_lightning", "datasets", "numpy"}
LIGHT = ["count-params", "find-batch-size", "inspect-shards", "preset", "subset", "tokenize"]


def test_help_and_errors_of_tools_import_nothing_heavy():
    code = (
        "import importlib, sys\n"
        f"for name in {LIGHT}:\n"
        "    tool = importlib.import_module('tiny_lm.tools.' + name.replace('-', '_'))\n"
        "    for arguments in (['--help'], ['--no-such-option']):\n"
        "        try: tool.main(arguments)\n"
        "        except (SystemExit, ValueError): pass\n"
        f"sys.exit(', '.join({HEAVY} & set(sys.modules)) or 0)"
    )
    env = {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_missing_file_is_named_without_errno(tmp_path):
    done = tiny_lm("preset", "model=gpt2-2l", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "tiny-lm preset: params.yaml: No such file or directory\n")


def test_a_closed_pipe_ends_a_tool_quietly():
    code = "from tiny_lm.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "preset", "--list"], env={"PYTHONPATH": str(ROOT / "src")}, cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


def test_the_code_in_this_folder_runs_whatever_is_installed(tmp_path):
    package = tmp_path / "src/tiny_lm"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "cli.py").write_text("import sys\ndef main(): print('this tree:', *sys.argv[1:])")
    done = tiny_lm("check", "a b", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "this tree: check a b\n", "")


def test_code_of_another_tree_is_refused(tmp_path, monkeypatch):
    (tmp_path / "src/tiny_lm").mkdir(parents=True)
    (tmp_path / "src/tiny_lm/cli.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "src"))
    monkeypatch.setattr(sys, "argv", ["tiny-lm", "check"])
    with pytest.raises(SystemExit, match=r"^tiny-lm check: the code that runs is .*, not this folder's src/tiny_lm: "):
        main()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_characters_that_stdout_cannot_encode_are_replaced(encoding, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    monkeypatch.setattr(sys, "argv", ["tiny-lm", "check"])
    monkeypatch.setattr(check, "main", lambda argv: print("café 日本 \udcff"))
    main()
    assert written.getvalue() == "café 日本 \udcff\n".encode(encoding, "replace")


def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", "from tiny_lm.cli import main; main()", "preset", "--list"], stdout=full,
            stderr=subprocess.PIPE, env={"PYTHONPATH": str(ROOT / "src")}, cwd=ROOT, text=True,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "tiny-lm preset: stdout: No space left on device\n")


def test_a_closed_stdout_is_not_an_error():
    command = [sys.executable, "-c", "from tiny_lm.cli import main; main()", "preset", "--list"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command], env={"PYTHONPATH": str(ROOT / "src")}, cwd=ROOT,
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_in_a_subfolder_it_names_the_folder_to_run_in():
    done = tiny_lm("check", cwd=ROOT / "docs")
    assert (done.returncode, done.stderr) == (1, f"tiny-lm check: run this in {ROOT}, the folder with dvc.yaml\n")


@pytest.mark.parametrize("tool", ["check", "plots"])
def test_outside_of_a_repository_it_suggests_dvc_repro(tool, tmp_path):
    done = tiny_lm(tool, cwd=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(f"tiny-lm {tool}: .*`dvc repro`.*\n", done.stderr)


def test_a_closed_standard_input_is_empty(tmp_path):
    command = [sys.executable, "-c", "from tiny_lm.cli import main; main()", "tokenize"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *command], env={"PYTHONPATH": str(ROOT / "src")}, cwd=tmp_path,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
