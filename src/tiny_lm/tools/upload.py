"""Upload models/export to the Hugging Face Hub as one commit, with the token in HF_TOKEN or that of `hf auth login`."""

from __future__ import annotations

from pathlib import Path

from tiny_lm.runner.git import git
from tiny_lm.terminal import Parser

EXPORT, CHECKPOINT = Path("models/export"), Path("models/checkpoint")


def main(argv: list[str]) -> None:
    parser = Parser("upload", __doc__, "--repo me/little-stories --private")
    parser.add_argument("--repo", required=True, metavar="OWNER/NAME", help="created if it does not exist")
    parser.add_argument("--private", action="store_true", help="create it private; fails if it exists and is public")
    parser.add_argument("--dry-run", action="store_true", help="list the files without uploading them")
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
    print(f"model card: {hub.commit_line(commit)}" if commit else "model card: no Git commit to mention")
    if args.dry_run:
        print(f"dry run: nothing was uploaded to {args.repo}")
    else:
        print(hub.upload(EXPORT, args.repo, card=card, private=args.private))


def git_commit() -> str | None:
    """The checked-out commit, with a note if tracked files of the project differ from it. None outside of a repository
    and before the first commit. ValueError if Git fails.
    """
    if not any((folder / ".git").exists() for folder in (Path.cwd(), *Path.cwd().parents)):
        return None
    # Only files of this project: the repository may contain more.
    lines = git("status", "--porcelain=v2", "--branch", "--untracked-files=no", "--", ".").splitlines()
    commit = lines[0].removeprefix("# branch.oid ")
    if commit == "(initial)":
        git("rev-list", "--all", "--max-count=1")  # fails if the branch is damaged instead of new
        return None
    changed = any(not line.startswith("#") for line in lines)
    return f"{commit}, with changes that are not committed" if changed else commit
