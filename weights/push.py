"""Upload the embedded model to the Hub, and a card for each published matrix that says where its file is fetched.

    python weights/push.py --dry-run    # only says what would be uploaded

The authors' repository has no licence, so their files are never uploaded, only the cards.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import ModelCardData

from labclip.files import CARD
from labclip.io.card import hub_base, results_table
from labclip.io.hub import push_folder
from labclip.io.published import AUTHORS_COMMIT, AUTHORS_REPOSITORY, PUBLISHED, Published, list_pretrained

EMBEDDED = Path(__file__).parent / "scenes"
EMBEDDED_REPOSITORY = "labclip/labclip-scenes"


def card(entry: Published, name: str) -> str:
    """The card of a published matrix, whose file is elsewhere."""
    header = ModelCardData(
        library_name="labclip",
        tags=["clip", "open_clip", "labclip", "compositionality"],
        base_model=hub_base(entry.base),
        base_model_relation="adapter",
    )
    facts, reported = entry.metadata, ""
    if entry.reported:
        reported = f"\n## Published figures\n\n{facts['reported_source']}\n\n{results_table(entry.reported)}\n"
    costs = "\n".join(f"- {cost}" for cost in facts["costs"])
    return f"""\
---
{header.to_yaml()}
---

# LABCLIP for {entry.base}, fitted on {entry.alignment.upper()}

One {entry.embed_dim} x {entry.embed_dim} matrix on the text embeddings of {entry.base}. **This repository holds no
weights.** The paper's authors published the matrix in a repository that has no licence, so it is not published again:
labclip downloads it from them on first use and verifies it by SHA-256.

```python
from labclip import LABCLIP

model = LABCLIP.from_pretrained("{name}")
```

- File: [{entry.file}](https://github.com/{AUTHORS_REPOSITORY}/blob/{AUTHORS_COMMIT}/alignment/weights/{entry.file}),
  {entry.size:,} bytes
- SHA-256 of the file: `{entry.file_sha256}`
- SHA-256 of the matrix: `{entry.matrix_sha256}`
- Data: {facts["data"]}
- Recipe: {facts["recipe"]}
{reported}
## Costs

Reported for the method in general; `labclip evaluate` measures them for yours.

{costs}

## Source

"CLIP Behaves like a Bag-of-Words Model Cross-modally but not Uni-modally"
([arXiv:2502.03566](https://arxiv.org/abs/2502.03566)).
"""


def folders(scratch: Path) -> Iterator[tuple[str, Path]]:
    """Repositories, each with the folder that goes up."""
    yield EMBEDDED_REPOSITORY, EMBEDDED
    for name, entry in zip(list_pretrained()[1:], PUBLISHED, strict=True):
        folder = scratch / entry.hub_repo
        folder.mkdir(parents=True)
        (folder / CARD).write_text(card(entry, name), encoding="utf-8", newline="\n")
        yield entry.hub_repo, folder


def main(arguments: list[str] | None = None) -> None:
    """Upload, or say what would be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="only say what would be uploaded")
    dry_run = parser.parse_args(arguments).dry_run
    with tempfile.TemporaryDirectory() as scratch:
        for repository, folder in folders(Path(scratch)):
            for path in sorted(folder.iterdir()):
                print(f"{repository}/{path.name}: {path.stat().st_size:,} bytes")
            if not dry_run:
                print(push_folder(folder, repository, commit_message="Upload with weights/push.py"))


if __name__ == "__main__":
    main()
