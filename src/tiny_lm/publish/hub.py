"""Uploads the export to the Hugging Face Hub as one commit, so nobody ever sees half of it.

The token is the one that huggingface_hub finds (HF_TOKEN, or a login). It is never printed or written.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import disable_progress_bars, logging, validate_repo_id

from tiny_lm.export.huggingface import export_files
from tiny_lm.io.files import sha256
from tiny_lm.io.params import check
from tiny_lm.model.transformer import Transformer
from tiny_lm.tokenizer.encode import Tokenizer

CARD = "README.md"
FILES = (CARD, "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")

LOADED = (".bin", ".jinja", ".json", ".model", ".py", ".safetensors", "merges.txt", "vocab.txt")  # by transformers
SHOWN = 5  # names in a message


def check_repository(name: str) -> None:
    """ValueError unless `name` is owner/name as the Hub allows it."""
    check(name.count("/") == 1, "--repo", name, "owner/name")
    validate_repo_id(name)


def check_complete(folder: Path) -> None:
    """ValueError unless `folder` contains all files of an export."""
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        remedy = "`dvc repro export` builds it, `dvc pull models/export` downloads it"
        raise ValueError(f"{folder}: {', '.join(missing)} missing; {remedy}")


def check_current(folder: Path, model: Transformer, tokenizer: Tokenizer, weights_sha256: str) -> None:
    """ValueError unless `folder` contains exactly what the export stage writes for this checkpoint; of the card, only
    the hash of the weights is compared.
    """
    remedy = "what the export stage writes for this checkpoint; run `dvc repro export`"
    dtype = json.loads((folder / "config.json").read_bytes())["torch_dtype"]
    for name, content in export_files(model, tokenizer, dtype).items():
        if sha256(folder / name) != hashlib.sha256(content).hexdigest():
            raise ValueError(f"{folder / name}: differs from {remedy}")
    if weights_sha256 not in (folder / CARD).read_text(encoding="utf-8"):
        raise ValueError(f"{folder / CARD}: is not {remedy}")


def uploaded_card(card: str, repository: str, commit: str | None) -> str:
    """The card as the Hub shows it: with the repository's name in its code, and the Git commit of the upload."""
    card = card.replace("FOLDER_OR_REPOSITORY", repository)
    return card if commit is None else f"{card.rstrip()}\n\n## Code\n\n{commit_line(commit)}\n"


def commit_line(commit: str) -> str:
    return f"Uploaded from a tiny-lm repository at Git commit {commit}."


def upload(folder: Path, repository: str, *, card: str, private: bool) -> str:
    """Creates the repository if necessary, commits the files of `folder` with `card` instead of its own, and returns a
    URL. After an interruption, only what is missing is sent. Raises ValueError, in one line.
    """
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        disable_progress_bars()
    token = huggingface_hub.get_token()
    if not token:
        raise ValueError("no token for the Hub: set HF_TOKEN, or log in with `hf auth login`")
    api = huggingface_hub.HfApi(token=token)
    with _errors_in_one_line(repository, api.endpoint, token):
        api.create_repo(repository, private=True if private else None, exist_ok=True)
        info = api.model_info(repository)
        is_private = info.private
        if private and not is_private:  # it existed before
            raise ValueError(
                f"--private: {repository} exists and is public; nothing was uploaded. Change it in its settings"
            )
        present = {sibling.rfilename for sibling in info.siblings or ()}
        others = sorted(name for name in present - {*FILES} if name.endswith(LOADED) and "/" not in name)
        if others:
            names = ", ".join(others[:SHOWN]) + (f" and {len(others) - SHOWN} more" if len(others) > SHOWN else "")
            raise ValueError(
                f"--repo: {repository} contains {names}, which transformers could load with this model; nothing was "
                "uploaded. Delete them there, or choose another repository"
            )
        content: dict[str, Path | bytes] = {**{name: folder / name for name in FILES}, CARD: card.encode()}
        operations = [
            huggingface_hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=part)
            for name, part in content.items()
        ]
        api.create_commit(repository, operations, commit_message="Upload of a tiny-lm model")
    return f"{api.endpoint}/{repository} ({'private' if is_private else 'public'})"


@contextmanager
def _errors_in_one_line(repository: str, endpoint: str, token: str) -> Iterator[None]:
    """Turns errors of huggingface_hub into ValueErrors with a remedy, without the token."""
    explanations = {
        401: "the Hub does not accept this token (401): set another HF_TOKEN, or log in with `hf auth login`",
        403: f"the Hub does not let this token write to {repository} (403)",
        404: f"the Hub has no {repository} that this token can see (404)",
    }
    try:
        yield
    except OfflineModeIsEnabled:
        raise ValueError("HF_HUB_OFFLINE is set, so huggingface_hub does not use the network; unset it") from None
    except (HTTPError, RuntimeError) as error:
        reason: BaseException | None = error
        while reason is not None and not isinstance(reason, HTTPError):  # a failed upload is a RuntimeError
            reason = reason.__cause__ or reason.__context__
        text = f"cannot reach the Hub at {endpoint} ({type(reason).__name__}: {reason})" if reason else str(error)
        if isinstance(reason, HfHubHTTPError):
            status = reason.response.status_code
            text = explanations.get(status, f"the Hub answered {status}: {reason.server_message or 'no reason given'}")
        raise ValueError(f"{text.replace(token, '…')}; run the same command again to upload what is missing") from None
