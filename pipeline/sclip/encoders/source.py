"""Where an encoder comes from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.constants import HF_HUB_CACHE

from sclip.errors import UserError

RANDOM = "random weights"


@dataclass(frozen=True)
class Source:
    """A hub repo with the commit that was read, a folder, or a tag of the library's."""

    name: str
    revision: str | None = None

    def drawn_at_random(self, seed: int) -> "Source":
        """A name that loads no weights by mistake, and marks all that is made with them."""
        return Source(f"{self.name} ({RANDOM}, seed {seed})", self.revision)


def is_random(name: str) -> bool:
    return f"({RANDOM}, " in name


def without_network(what: str) -> str:
    """What to do then."""
    return (
        f"Without a network: fill the cache {HF_HUB_CACHE} where there is one (HF_HOME says where it lies), or copy "
        f"{what}'s files into a folder and name that"
    )


def fetch_repo(repo: str, revision: str | None, patterns: list[str], **download: Any) -> tuple[Path, str]:
    """A hub repo's files, from the network or HF_HOME's cache -> its folder here, and the commit.

    `download`: what else huggingface_hub.snapshot_download takes.
    """
    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=patterns, **download))
    except Exception as error:  # the hub's errors have no common class below Exception
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        at = f" at {revision}" if revision else ""
        raise UserError(
            f"{repo}: no such folder, and as a hub repo{at} not to be had: {reason}. {without_network('the repo')}"
        ) from None
    return folder, folder.name
