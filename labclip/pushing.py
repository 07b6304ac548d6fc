"""What can be saved to a folder can be pushed to the Hub."""

from __future__ import annotations

import tempfile
from pathlib import Path


class Pushable:
    """`push_to_hub` for an `Alignment` and a `LABCLIP`."""

    __slots__ = ()

    def save_pretrained(self, folder: str | Path) -> None:
        """Save as a folder."""
        raise NotImplementedError

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload with labclip",
        private: bool | None = None,
        token: str | bool | None = None,
        create_pr: bool = False,
    ) -> str:
        """Save and upload to the Hugging Face Hub.

        An `Alignment` uploads the matrix alone, a `LABCLIP` its base as well. A base that needs `config=` to be saved
        goes up from its folder: `labclip push FOLDER ORG/NAME`.

        Args:
            repo_id: "org/name"; made if it does not exist.
            commit_message: The commit's subject.
            private: Whether a new repository is private; None takes the organisation's default.
            token: Hub token; None takes the stored one.
            create_pr: Whether to open a pull request instead of committing.

        Returns:
            The URL of the commit or pull request.

        Raises:
            ValueError: If `repo_id` is none, or it can't be saved.
            PermissionError: If the Hub refuses the token or the repository.
            OSError: If the network is off, or the Hub can't be reached or does not take it.
        """
        from labclip.io.hub import check_repo_id, push_folder

        check_repo_id(repo_id)
        with tempfile.TemporaryDirectory(prefix="labclip-") as folder:
            self.save_pretrained(folder)
            return push_folder(
                folder, repo_id, commit_message=commit_message, private=private, token=token, create_pr=create_pr
            )
