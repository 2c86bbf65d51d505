"""Uploads to a local hub through LFS, and loads the model from there."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tiny_lm import cli
from tiny_lm.export.card import model_card
from tiny_lm.export.write import write_export
from tiny_lm.model.checkpoint import save_checkpoint
from tiny_lm.model.llama3 import Llama3, Llama3Params
from tiny_lm.model.registry import build_model
from tiny_lm.publish.hub import FILES
from tiny_lm.tokenizer.encode import Tokenizer
from tiny_lm.tools.upload import git_commit

SRC = Path(__file__).parents[2] / "src"
TOKEN = "hf_a_token_that_nobody_may_see"
PARAMS = Llama3Params(
    architecture="llama3", context_length=16, d_model=16, n_layers=1, n_heads=4, n_kv_heads=2, d_ff=16,
    rope_theta=500.0, norm_eps=1e-5, embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Llama3]:
    """models/ as the stages write it, and the model."""
    folder = tmp_path_factory.mktemp("built")
    tokenizer = Tokenizer({bytes([byte]): byte for byte in range(256)}, "llama3")
    torch.manual_seed(0)
    model = build_model(PARAMS, 260).eval()
    save_checkpoint(
        folder / "checkpoint", model, tokenizer_digest=tokenizer.digest, step=1, tokens_seen=1, provenance={}
    )  # fmt: skip
    weights = json.loads((folder / "checkpoint/config.json").read_text())["weights_sha256"]
    card = model_card(
        architecture="llama3", parameters=1, data={"source": {"source": "stories"}, "splits": {}}, params={}, step=1,
        tokens_seen=1, metrics={}, provenance={"checkpoint": weights},
    )  # fmt: skip
    write_export(
        folder / "export", model, tokenizer, dtype="float32", card=card
    )  # fmt: skip
    assert isinstance(model, Llama3)
    return folder, model


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, built: tuple[Path, Llama3], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Git repository with the built models; huggingface_hub without a login, on LFS."""
    import huggingface_hub.constants as constants

    for name in ("checkpoint", "export"):
        (tmp_path / "models" / name).mkdir(parents=True)
        for path in (built[0] / name).iterdir():
            (tmp_path / "models" / name / path.name).write_bytes(path.read_bytes())
    git("init", "--quiet", cwd=tmp_path)
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    git("add", "params.yaml", cwd=tmp_path)
    git("commit", "--quiet", "-m", "first", cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-login"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def git(*arguments: str, cwd: Path) -> str:
    identity = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(["git", *arguments], cwd=cwd, env=os.environ | identity, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def python(code: str, workspace: Path, hub: Any, *arguments: str) -> str:
    """The output of another Python, with the settings of huggingface_hub in the environment."""
    settings = {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(workspace / "hf"),
        "PYTHONPATH": str(SRC),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=workspace, env=os.environ | settings,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def tiny_lm(monkeypatch: pytest.MonkeyPatch, hub: Any, *arguments: str, token: str = TOKEN) -> None:
    """`tiny-lm upload …` in this process."""
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr(sys, "argv", ["tiny-lm", "upload", *arguments])
    cli.main()


def refusal(monkeypatch: pytest.MonkeyPatch, hub: Any, *arguments: str, token: str = TOKEN) -> str:
    """The error message, one line."""
    with pytest.raises(SystemExit) as ended:
        tiny_lm(monkeypatch, hub, *arguments, token=token)
    assert "\n" not in str(ended.value)
    return str(ended.value)


UPLOAD = "from tiny_lm.cli import main; main()"
LOAD = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = AutoModelForCausalLM.from_pretrained("me/fox"), AutoTokenizer.from_pretrained("me/fox")
ids = tokenizer("A little fox", return_tensors="pt")["input_ids"]
print(json.dumps({"ids": ids.tolist(), "logits": model(ids).logits.tolist()}))
"""


def test_a_model_is_uploaded_and_loaded_from_the_hub(workspace: Path, built: tuple[Path, Llama3], hub: Any) -> None:
    said = python(UPLOAD, workspace, hub, "upload", "--repo", "me/fox", "--private")
    assert f"{hub.url}/me/fox (private)" in said
    assert hub.private == {"me/fox": True}
    assert sorted(hub.files["me/fox"]) == sorted(FILES) == sorted(os.listdir(workspace / "models/export"))
    assert hub.commits == 1
    for name, content in hub.files["me/fox"].items():
        here = (workspace / "models/export" / name).read_bytes()
        assert here == (built[0] / "export" / name).read_bytes()
        assert (content == here) == (name != "README.md")

    card = hub.files["me/fox"]["README.md"].decode()
    assert f"Git commit {git('rev-parse', 'HEAD', cwd=workspace)}." in card
    assert 'AutoModelForCausalLM.from_pretrained("me/fox")' in card
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "transformers"

    loaded = json.loads(python(LOAD, workspace, hub).splitlines()[0])
    tokens = torch.tensor(loaded["ids"])
    assert tokens.tolist() == [list(b"A little fox")]
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(loaded["logits"]), built[1](tokens), atol=1e-5, rtol=1e-5)

    assert TOKEN not in said
    assert TOKEN not in str(hub.requests)
    kept = [path for path in workspace.rglob("*") if path.is_file()]
    assert kept
    assert not [path for path in kept if TOKEN.encode() in path.read_bytes()]


def test_a_second_upload_sends_only_changes(
    workspace: Path, hub: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny_lm(monkeypatch, hub, "--repo", "me/fox")
    assert hub.private == {"me/fox": False}
    assert len(hub.sent("PUT")) == 2
    (workspace / "params.yaml").write_text("seed: 2\n")
    tiny_lm(monkeypatch, hub, "--repo", "me/fox")
    assert len(hub.sent("PUT")) == 2
    assert ", with changes that are not committed." in hub.files["me/fox"]["README.md"].decode()
    assert TOKEN not in "".join(capfd.readouterr())


def test_an_interrupted_upload_is_resumed(
    hub: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    first = threading.Lock()  # files are sent side by side: whichever comes first is stored, the other one then fails

    def answer(request: str) -> int | None:
        if not request.startswith("PUT") or first.acquire(blocking=False):
            return None
        end = time.monotonic() + 60
        while not hub.objects and time.monotonic() < end:
            time.sleep(0.01)
        return 400

    hub.answer = answer
    line = refusal(monkeypatch, hub, "--repo", "me/fox")
    assert line.startswith("tiny-lm upload: the Hub answered 400")
    assert line.endswith("; run the same command again to upload what is missing")
    assert (len(hub.objects), hub.files, hub.commits) == (1, {"me/fox": {}}, 0)
    hub.answer = lambda request: None
    before = len(hub.sent("PUT"))
    tiny_lm(monkeypatch, hub, "--repo", "me/fox")
    assert len(hub.sent("PUT")) == before + 1
    assert (sorted(hub.files["me/fox"]), hub.commits) == (sorted(FILES), 1)
    assert TOKEN not in "".join(capfd.readouterr()) + line


@pytest.mark.parametrize(
    ("failing", "status", "message"),
    [
        (
            "POST /api/repos/create",
            401,
            "the Hub does not accept this token (401): set another HF_TOKEN, or log in with",
        ),
        ("/", 403, "the Hub does not let this token write to me/fox (403)"),
        ("GET /api/models", 404, "the Hub has no me/fox that this token can see (404)"),
        ("/preupload/", 403, "the Hub does not let this token write to me/fox (403)"),
        ("POST /api/repos/create", 418, "the Hub answered 418"),
    ],
)
def test_an_error_of_the_hub_is_one_line(
    hub: Any,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    failing: str,
    status: int,
    message: str,
) -> None:
    hub.answer = lambda request: status if failing in request else None
    line = refusal(monkeypatch, hub, "--repo", "me/fox")
    assert line.startswith(f"tiny-lm upload: {message}")
    assert TOKEN not in line + "".join(capfd.readouterr())
    assert hub.commits == 0


def test_a_wrong_token_is_not_printed_either(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    line = refusal(monkeypatch, hub, "--repo", "me/fox", token="hf_wrong")
    assert line.startswith("tiny-lm upload: the Hub does not accept this token (401)")
    assert "hf_wrong" not in line


def test_a_hub_that_is_down_is_reported(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.url = "http://127.0.0.1:1"
    line = refusal(monkeypatch, hub, "--repo", "me/fox")
    assert line.startswith("tiny-lm upload: cannot reach the Hub at http://127.0.0.1:1 (ConnectError: ")


def test_without_a_token_no_request_is_sent(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    line = refusal(monkeypatch, hub, "--repo", "me/fox", token="")
    assert line == "tiny-lm upload: no token for the Hub: set HF_TOKEN, or log in with `hf auth login`"
    assert hub.requests == []


def test_a_private_upload_to_a_public_repository_is_refused(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.private["me/fox"], hub.files["me/fox"] = False, {}
    line = refusal(monkeypatch, hub, "--repo", "me/fox", "--private")
    assert line.startswith("tiny-lm upload: --private: me/fox exists and is public; nothing was uploaded")
    assert (hub.objects, hub.commits) == ({}, 0)


def test_a_repository_with_files_that_would_be_loaded_with_the_model_is_refused(
    hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"adapter_config.json": b"{}", "config.json": b"{}", "fox.gguf": b"", ".gitattributes": b"",
             "LICENSE.txt": b"", "eval/results.json": b"{}"}  # fmt: skip
    hub.private["me/fox"], hub.files["me/fox"] = False, files
    line = refusal(monkeypatch, hub, "--repo", "me/fox")
    assert line.startswith("tiny-lm upload: --repo: me/fox contains adapter_config.json, which transformers could load")
    assert (hub.objects, hub.commits) == ({}, 0)
    del files["adapter_config.json"]
    tiny_lm(monkeypatch, hub, "--repo", "me/fox")
    assert {"fox.gguf", "model.safetensors"} <= hub.files["me/fox"].keys()


def test_a_dry_run_lists_files_and_uploads_nothing(
    workspace: Path, hub: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_lm(monkeypatch, hub, "--repo", "me/fox", "--dry-run", token="")
    said = capsys.readouterr().out
    size = (workspace / "models/export/model.safetensors").stat().st_size
    assert f"{size:,} bytes  model.safetensors" in said
    assert (
        f"model card: Uploaded from a tiny-lm repository at Git commit {git('rev-parse', 'HEAD', cwd=workspace)}.\n"
        in said
    )
    assert said.endswith("dry run: nothing was uploaded to me/fox\n")
    assert hub.requests == []
    tiny_lm(monkeypatch, hub, "--repo", "me/fox")
    assert len(hub.files["me/fox"]["README.md"]) == int(said.split(" bytes  README.md")[0].split()[-1].replace(",", ""))


def remove_tokenizer(models: Path) -> None:
    (models / "export/tokenizer.json").unlink()


def remove_export(models: Path) -> None:
    for path in (models / "export").iterdir():
        path.unlink()
    (models / "export").rmdir()


def truncate_weights(models: Path) -> None:
    path = models / "export/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def truncate_config(models: Path) -> None:
    (models / "export/config.json").write_text('{"vocab_size"')


def foreign_pattern(models: Path) -> None:
    path = models / "export/tokenizer.json"
    content = json.loads(path.read_bytes())
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a+)+$"
    path.write_text(json.dumps(content))


def other_weights(models: Path) -> None:
    path = models / "export/model.safetensors"
    save_file({name: tensor * 2 for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})


def remote_code(models: Path) -> None:
    edit(models / "export/config.json", auto_map={"AutoModelForCausalLM": "evil/repository--modeling.Evil"})


def endless_generation(models: Path) -> None:
    edit(models / "export/generation_config.json", max_new_tokens=10**9)


def other_special_tokens(models: Path) -> None:
    edit(models / "export/tokenizer_config.json", add_bos_token=True)


def deep_json(models: Path) -> None:
    (models / "export/generation_config.json").write_text("[" * 200_000)


def edit(path: Path, **change: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))


def other_checkpoint(models: Path) -> None:
    path = models / "checkpoint/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")


def other_card(models: Path) -> None:
    (models / "export/README.md").write_text("# Another model\n")


def no_checkpoint(models: Path) -> None:
    (models / "checkpoint/model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_export, "models/export: README.md, config.json, "),
        (remove_tokenizer, "models/export: tokenizer.json missing; `dvc repro export` builds it"),
        (truncate_weights, "models/export/model.safetensors: not readable as safetensors ("),
        (truncate_config, "models/export/config.json: not readable as JSON ("),
        (foreign_pattern, "models/export/tokenizer.json: "),
        (
            other_weights,
            "models/export/model.safetensors: differs from what the export stage writes",
        ),
        (remote_code, "models/export/config.json: auto_map = "),
        (
            endless_generation,
            "models/export/generation_config.json: differs from what the export stage writes for",
        ),
        (
            other_special_tokens,
            "models/export/tokenizer_config.json: differs from what the export stage writes for",
        ),
        (deep_json, "models/export/generation_config.json: differs from what the export stage writes for"),
        (other_card, "models/export/README.md: is not what the export stage writes for this checkpoint"),
        (other_checkpoint, "models/checkpoint/model.safetensors: checksum mismatch"),
        (
            no_checkpoint,
            "models/checkpoint/model.safetensors: there is no such file; `tiny-lm restore train` or `dvc pull`",
        ),
    ],
)
def test_an_incomplete_or_outdated_export_is_not_uploaded(
    workspace: Path, hub: Any, monkeypatch: pytest.MonkeyPatch, damage: Any, message: str
) -> None:
    damage(workspace / "models")
    for more in ([], ["--dry-run"]):
        assert refusal(monkeypatch, hub, "--repo", "me/fox", *more).startswith(f"tiny-lm upload: {message}")
    assert hub.requests == []


@pytest.mark.parametrize("name", ["fox", "me/fox/red", "me/", "/fox", "me/.fox", "me/a fox", "me/" + "a" * 97])
def test_an_invalid_repository_name_is_refused(hub: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    message = refusal(monkeypatch, hub, "--repo", name)
    assert message.startswith(("tiny-lm upload: --repo = ", "tiny-lm upload: Repo id must use alphanumeric chars"))
    assert repr(name) in message
    assert hub.requests == []


def test_offline_mode_is_reported(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    line = refusal(monkeypatch, hub, "--repo", "me/fox")
    assert line.startswith("tiny-lm upload: HF_HUB_OFFLINE is set")
    assert hub.requests == []


def test_git_changes_outside_of_the_project_do_not_count(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = workspace / "projects/lm"
    project.mkdir(parents=True)
    (project / "dvc.yaml").write_text("stages: {}\n")
    git("add", ".", cwd=project)
    git("commit", "--quiet", "-m", "second", cwd=workspace)
    monkeypatch.chdir(project)
    (workspace / "params.yaml").write_text("of: another project\n")
    assert git_commit() == git("rev-parse", "HEAD", cwd=workspace)
    (project / "dvc.yaml").write_text("stages: {train: {}}\n")
    assert git_commit() == f"{git('rev-parse', 'HEAD', cwd=workspace)}, with changes that are not committed"


def another_owner(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")


def damaged_head(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workspace / ".git/HEAD").write_text("junk\n")


def damaged_branch(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    branch = git("symbolic-ref", "HEAD", cwd=workspace)
    (workspace / ".git" / branch).write_text("junk\n")


def missing_commit(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = git("rev-parse", "HEAD", cwd=workspace)
    (workspace / ".git/objects" / commit[:2] / commit[2:]).unlink()


def damaged_index(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workspace / ".git/index").write_bytes(b"junk")


def no_git(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(workspace))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (another_owner, "fatal: detected dubious ownership in repository"),
        (damaged_head, "fatal: "),
        (damaged_branch, "fatal: "),
        (missing_commit, "fatal: "),
        (damaged_index, "fatal: "),
        (no_git, "git is not installed"),
    ],
)
def test_an_error_of_git_is_reported(
    workspace: Path, hub: Any, monkeypatch: pytest.MonkeyPatch, fault: Any, message: str
) -> None:
    fault(workspace, monkeypatch)
    line = refusal(monkeypatch, hub, "--repo", "me/fox", "--dry-run")
    assert line.startswith("tiny-lm upload: ")
    assert message in line


@pytest.mark.parametrize("fresh", [False, True])
def test_without_a_git_commit_the_card_names_none(
    workspace: Path, hub: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fresh: bool
) -> None:
    (workspace / ".git").rename(workspace / "not-git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(workspace.parent))
    if fresh:
        git("init", "--quiet", cwd=workspace)
    tiny_lm(monkeypatch, hub, "--repo", "me/fox")
    assert "model card: no Git commit to mention" in capsys.readouterr().out
    assert "Git commit" not in hub.files["me/fox"]["README.md"].decode()
