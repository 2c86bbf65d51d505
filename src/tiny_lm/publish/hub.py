"""Uploads the export to the Hugging Face Hub, through huggingface_hub: as one commit, so nobody ever sees half of it.

The token is the one that huggingface_hub finds (HF_TOKEN, or a login). Nothing that this writes or prints contains it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tiny_lm.io.files import sha256
from tiny_lm.io.params import check

CARD, WEIGHTS = "README.md", "model.safetensors"
FILES = (CARD, "config.json", "generation_config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json")
REMEDY = "`dvc repro export` builds it, `dvc pull models/export` fetches it"


def check_repository(name: str) -> None:
    """ValueError unless `name` is owner/name as the Hub allows it."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
        valid = name.count("/") == 1
    except HFValidationError:
        valid = False
    check(valid, "--repo", name, "owner/name, each of letters, digits, -, _ and ., at most 96 each")


def check_export(folder: Path, checkpoint: Path) -> None:
    """ValueError unless `folder` contains all files and its card names the weights of `checkpoint`."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder}: {', '.join(missing)} missing; {REMEDY}")
    if not (checkpoint / WEIGHTS).is_file():
        raise ValueError(f"{checkpoint}: missing, so {folder} cannot be compared with it; `dvc pull` fetches it")
    digest = sha256(checkpoint / WEIGHTS)
    if digest not in (folder / CARD).read_text(encoding="utf-8"):
        raise ValueError(
            f"{folder}: was not made from {checkpoint}, whose weights are {digest[:12]}; run `dvc repro export`"
        )


def uploaded_card(card: str, repository: str, commit: str | None) -> str:
    """The card as the Hub shows it: with the repository's name in its code, and the Git commit of the upload."""
    card = card.replace("FOLDER_OR_REPOSITORY", repository)
    return card if commit is None else f"{card.rstrip()}\n\n## Code\n\n{commit_line(commit)}\n"


def commit_line(commit: str) -> str:
    return f"Uploaded from a tiny-lm repository at Git commit {commit}."


def upload(folder: Path, repository: str, *, card: str, private: bool) -> str:
    """Creates the repository if necessary, and commits the files of `folder` with another `card`. Returns a URL.

    What arrived before an interruption is not sent again. Raises ValueError, in one line.
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
        if private and not is_private:  # it existed before
            raise ValueError(
                f"--private: {repository} exists and is public; nothing was sent. You can change that in its settings"
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
    """Turns what huggingface_hub raises into ValueErrors that say what to do, without the token."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    again = "run the same command again, it sends only what is missing"
    try:
        yield
    except OfflineModeIsEnabled:
        raise ValueError("HF_HUB_OFFLINE is set, which forbids huggingface_hub to use the network; unset it") from None
    except (HTTPError, RuntimeError) as error:
        reason: BaseException | None = error
        while reason is not None and not isinstance(reason, HTTPError):
            reason = reason.__cause__ or reason.__context__
        if isinstance(reason, HfHubHTTPError):
            text = _explain(reason.response.status_code, reason.server_message or "", repository)
        elif reason is not None:
            text = f"cannot reach the Hub at {endpoint} ({type(reason).__name__}: {reason})"
        else:
            text = str(error)
        raise ValueError(f"{text.replace(token, '…')}; {again}") from None


def _explain(status: int, message: str, repository: str) -> str:
    if status == 401:
        return "the Hub does not accept this token (401): set another HF_TOKEN, or log in with `hf auth login`"
    if status == 403:
        return f"the Hub does not let this token write to {repository} (403)"
    if status == 404:
        return f"the Hub has no {repository} that this token can see (404)"
    return f"the Hub answered {status}{': ' if message else ''}{message}"
