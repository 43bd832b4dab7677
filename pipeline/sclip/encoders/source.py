"""Where an encoder or a model comes from: a folder, or a hub repo.

A repo's files are downloaded by name or by ending, never all of them: a repo may hold Python code, and none of it is
fetched or run.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.constants import HF_HUB_CACHE

from sclip.errors import UserError

RANDOM = "random weights"
REPO = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Source:
    """A hub repo with the commit that was read, a folder, or a tag of the library's."""

    name: str
    revision: str | None = None

    def with_random_weights(self, seed: int) -> "Source":
        """Return a source whose name marks results of random weights, and cannot be loaded as a trained model."""
        return Source(f"{self.name} ({RANDOM}, seed {seed})", self.revision)


def is_random(name: str) -> bool:
    return f"({RANDOM}, " in name


def without_network(what: str) -> str:
    """Return advice for a machine without a network."""
    return (
        f"Without a network: copy a filled cache to {HF_HUB_CACHE} (HF_HOME sets its folder), or copy "
        f"{what}'s files into a folder and give that folder as the name"
    )


def find_folder(name: str, revision: str | None, patterns: list[str], **download: Any) -> tuple[Path, str | None]:
    """Return the folder `name`, or the downloaded files of the hub repo `name` and the commit that they are of."""
    folder = Path(name)
    if folder.is_dir():
        if revision is not None:
            raise UserError(f"{name}: a folder has no revisions, found {revision!r}; leave the revision out")
        return folder, None
    if not REPO.fullmatch(name):
        raise UserError(f"{name}: no such folder, and not the name of a hub repo, which is ORG/NAME")
    if folder.parent.is_dir():
        raise UserError(
            f"{name}: no such folder. The folder {folder.parent} exists, so this is not looked up as a hub repo; "
            "check the name, or start from another folder"
        )
    return fetch_repo(name, revision, patterns, **download)


def fetch_repo(repo: str, revision: str | None, patterns: list[str], **download: Any) -> tuple[Path, str]:
    """Return the folder with a hub repo's files, from the network or HF_HOME's cache, and the commit.

    `patterns` name the files to download. `download`: more arguments of huggingface_hub.snapshot_download.
    """
    if not REPO.fullmatch(repo):
        raise UserError(f"{repo}: not the name of a hub repo, which is ORG/NAME")
    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=patterns, **download))
    except Exception as error:  # the hub's errors have no common class below Exception
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        at = f" at {revision}" if revision else ""
        raise UserError(
            f"{repo}: no such folder, and not available as a hub repo{at}: {reason}. {without_network('the repo')}"
        ) from None
    return folder, folder.name
