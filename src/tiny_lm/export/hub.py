"""The export to the Hugging Face Hub, through huggingface_hub: one commit, so no reader ever sees half of it.

The token is what huggingface_hub finds (HF_TOKEN, or a login), and is in nothing that this writes or says.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tiny_lm.config import check
from tiny_lm.files import sha256

CARD, WEIGHTS = "README.md", "model.safetensors"
FILES = (CARD, "config.json", "generation_config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json")
REMEDY = "`dvc repro export` builds it, `dvc pull models/export` fetches it"


def check_repository(name: str) -> None:
    """ValueError unless `name` is owner/name as the Hub allows it."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
        right = name.count("/") == 1
    except HFValidationError:
        right = False
    check(right, "--repo", name, "owner/name, each of letters, digits, -, _ and ., at most 96 each")


def check_export(folder: Path, checkpoint: Path) -> None:
    """ValueError unless `folder` has all files and its card names the weights in `checkpoint`."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder}: there is no {', no '.join(missing)}; {REMEDY}")
    if not (checkpoint / WEIGHTS).is_file():
        raise ValueError(f"{checkpoint}: is not there to tell whether {folder} belongs to it; `dvc pull` fetches it")
    digest = sha256(checkpoint / WEIGHTS)
    if digest not in (folder / CARD).read_text(encoding="utf-8"):
        raise ValueError(
            f"{folder}: was not made from {checkpoint}, whose weights are {digest[:12]}; `dvc repro export`"
        )


def uploaded_card(card: str, repository: str, commit: str | None) -> str:
    """The card as the Hub shows it: with the repository's name in its code, and the Git commit of the upload."""
    card = card.replace("FOLDER_OR_REPOSITORY", repository)
    return card if commit is None else f"{card.rstrip()}\n\n## Code\n\n{commit_line(commit)}\n"


def commit_line(commit: str) -> str:
    return f"Uploaded from a tiny-lm repository at Git commit {commit}."


def upload(folder: Path, repository: str, *, card: str, private: bool) -> str:
    """Makes the repository if it is not there, and commits the files of `folder` with another `card`. Returns a URL.

    What has arrived before an interruption is not sent again. Raises ValueError, in one line.
    """
    import huggingface_hub
    from huggingface_hub.utils import disable_progress_bars, logging

    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        disable_progress_bars()
    token = huggingface_hub.get_token()
    if not token:
        raise ValueError("no token for the Hub: set HF_TOKEN, or log in with `hf auth login`")
    api = huggingface_hub.HfApi(token=token)
    with _errors_in_one_line(repository, api.endpoint, token):
        api.create_repo(repository, private=True if private else None, exist_ok=True)
        is_private = api.repo_info(repository).private
        if private and not is_private:  # it was there before
            raise ValueError(
                f"--private: {repository} exists and is public; nothing was sent. Its settings can change that"
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
    """Turns what huggingface_hub raises into ValueErrors that say what to do, and not the token."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    try:
        yield
    except (HTTPError, RuntimeError) as error:
        reason: BaseException | None = error
        while reason is not None and not isinstance(reason, HTTPError):
            reason = reason.__cause__ or reason.__context__
        if isinstance(reason, HfHubHTTPError):
            text = _explain(reason.response.status_code, reason.server_message or "", repository)
        elif reason is not None:
            text = f"cannot reach the Hub at {endpoint} ({type(reason).__name__})"
        else:
            text = str(error)
        raise ValueError(f"{text.replace(token, '…')}; the same command again sends only what is missing") from None


def _explain(status: int, message: str, repository: str) -> str:
    if status == 401:
        return "the Hub does not know this token (401): set another HF_TOKEN, or log in with `hf auth login`"
    if status == 403:
        return f"the Hub does not let this token write to {repository} (403)"
    if status == 404:
        return f"the Hub has no {repository} that this token may see (404)"
    return f"the Hub answered {status}{': ' if message else ''}{message}"
