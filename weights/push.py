"""Upload the embedded model to the Hub, and for each published matrix a card that says where its file is.

    python weights/push.py --dry-run    # only prints what would be uploaded

The authors' repository has no licence, so their files are never uploaded, only the cards.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from labclip.files import CARD
from labclip.io.card import header, record, record_page
from labclip.io.hub import push_folder
from labclip.io.published import AUTHORS_COMMIT, AUTHORS_REPOSITORY, PUBLISHED, Published, list_pretrained
from labclip.report import Section, markdown

EMBEDDED = Path(__file__).parent / "scenes"
EMBEDDED_REPOSITORY = "labclip/labclip-scenes"


def card(entry: Published, name: str) -> str:
    """The card of a published matrix. Its repository holds nothing else."""
    page = record_page(record(name, entry.base, entry.embed_dim, 1.0, entry.metadata))
    reason = (
        "This repository holds no weights. The paper's authors published the matrix in a repository that has no "
        "licence, so it is not published again: labclip downloads it from them on first use and verifies it by SHA-256."
    )
    file = [
        f"File: https://github.com/{AUTHORS_REPOSITORY}/blob/{AUTHORS_COMMIT}/alignment/weights/{entry.file}, "
        f"{entry.size:,} bytes",
        f"SHA-256 of the file: `{entry.file_sha256}`",
        f"SHA-256 of the matrix: `{entry.matrix_sha256}`",
    ]
    page = replace(page, sections=[Section("Where the matrix is", [reason], notes=file), *page.sections])
    return header(entry, "labclip", "adapter") + markdown(page)


def folders(scratch: Path) -> Iterator[tuple[str, Path]]:
    """Each repository with the folder to upload."""
    yield EMBEDDED_REPOSITORY, EMBEDDED
    for name, entry in zip(list_pretrained()[1:], PUBLISHED, strict=True):
        folder = scratch / entry.hub_repo
        folder.mkdir(parents=True)
        (folder / CARD).write_text(card(entry, name), encoding="utf-8", newline="\n")
        yield entry.hub_repo, folder


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="only print what would be uploaded")
    dry_run = parser.parse_args(arguments).dry_run
    with tempfile.TemporaryDirectory() as scratch:
        for repository, folder in folders(Path(scratch)):
            for path in sorted(folder.iterdir()):
                print(f"{repository}/{path.name}: {path.stat().st_size:,} bytes")
            if not dry_run:
                print(push_folder(folder, repository, commit_message="Upload with weights/push.py"))


if __name__ == "__main__":
    main()
