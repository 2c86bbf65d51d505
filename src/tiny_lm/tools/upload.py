"""`tiny-lm upload`: models/export to the Hugging Face Hub, as one commit. The token is HF_TOKEN or your login."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tiny_lm.terminal import Parser

EXPORT, CHECKPOINT = Path("models/export"), Path("models/checkpoint")


def main(argv: list[str]) -> None:
    parser = Parser("upload", __doc__, "--repo me/little-stories --private")
    parser.add_argument("--repo", required=True, metavar="OWNER/NAME", help="is created if it does not exist")
    parser.add_argument("--private", action="store_true", help="visible to you alone; an error if it is public")
    parser.add_argument("--dry-run", action="store_true", help="show what would be sent, and send nothing")
    args = parser.parse_args(argv)

    from tiny_lm.export.from_hf import load_export
    from tiny_lm.model.checkpoint import load_checkpoint
    from tiny_lm.publish import hub

    hub.check_repository(args.repo)
    hub.check_complete(EXPORT)
    _, tokenizer = load_export(EXPORT)
    model, info = load_checkpoint(CHECKPOINT, tokenizer.digest, tokenizer.vocab_size)
    hub.check_current(EXPORT, model, tokenizer, info.weights_sha256)
    commit = git_commit()
    card = hub.uploaded_card((EXPORT / hub.CARD).read_text(encoding="utf-8"), args.repo, commit)
    for name in hub.FILES:
        size = len(card.encode()) if name == hub.CARD else (EXPORT / name).stat().st_size
        print(f"{size:>13,} bytes  {name}")
    print(f"the card says: {hub.commit_line(commit)}" if commit else "no Git commit here, so the card names none")
    if args.dry_run:
        print(f"nothing was uploaded to {args.repo}")
    else:
        print(hub.upload(EXPORT, args.repo, card=card, private=args.private))


def git_commit() -> str | None:
    """The checked-out commit, and whether tracked files of the project differ from it.

    None if there is no commit: outside of a repository, or before the first one. ValueError if Git fails.
    """
    if shutil.which("git") is None and not _in_repository():
        return None
    commit = _git("log", "-1", "--format=%H")
    if commit is None:
        return None
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".")  # the repository may contain more
    return f"{commit}, with changes that are not committed" if changed else commit


def _git(*arguments: str) -> str | None:
    """What Git prints; None if there is no commit."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"})
    except FileNotFoundError:
        raise ValueError("git: not found on PATH; install it, since the card names the commit") from None
    if done.returncode == 0:
        return done.stdout.strip()
    outside = "not a git repository (or any" in done.stderr and not _in_repository()
    if outside or "does not have any commits yet" in done.stderr:
        return None
    raise ValueError(f"git: {' '.join(done.stderr.split())[:400] or f'ended with {done.returncode}'}")


def _in_repository() -> bool:
    """Whether this folder or one above it contains `.git`; Git itself says of a damaged repository that it is none."""
    return any((folder / ".git").exists() for folder in (Path.cwd(), *Path.cwd().parents))
