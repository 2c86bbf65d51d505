"""`tiny-lm upload`: models/export to the Hugging Face Hub, as one commit. The token is HF_TOKEN or your login."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tiny_lm.terminal import Parser

EXPORT, CHECKPOINT = Path("models/export"), Path("models/checkpoint")


def main(argv: list[str]) -> None:
    parser = Parser("upload", __doc__, "--repo me/little-stories --private")
    parser.add_argument("--repo", required=True, metavar="OWNER/NAME", help="is made if it is not there")
    parser.add_argument("--private", action="store_true", help="nobody else may see it; an error if it is public")
    parser.add_argument("--dry-run", action="store_true", help="show what would be sent, and send nothing")
    args = parser.parse_args(argv)

    from tiny_lm.checkpoint.exported import check_made_from
    from tiny_lm.export.hub import CARD, FILES, check_export, check_repository, commit_line, upload, uploaded_card

    check_repository(args.repo)
    check_export(EXPORT, CHECKPOINT)
    check_made_from(CHECKPOINT, EXPORT)
    commit = git_commit()
    card = uploaded_card((EXPORT / CARD).read_text(encoding="utf-8"), args.repo, commit)
    for name in FILES:
        size = len(card.encode()) if name == CARD else (EXPORT / name).stat().st_size
        print(f"{size:>13,} bytes  {name}")
    print(f"the card says: {commit_line(commit)}" if commit else "no Git commit here, so the card names none")
    if args.dry_run:
        print(f"nothing was sent to {args.repo}")
    else:
        print(upload(EXPORT, args.repo, card=card, private=args.private))


def git_commit() -> str | None:
    """The commit that is checked out, and whether files that Git tracks differ from it; None where there is none."""
    commit = _git("rev-parse", "--verify", "--quiet", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return f"{commit}, with changes that are not committed" if commit and changed else commit or None


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:  # no Git on this machine
        return ""
