"""Where an encoder comes from, and how to tell that it is the same one."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from torch import nn

from sclip.errors import UserError


@dataclass(frozen=True)
class Source:
    """A hub repo with the commit that was read, a folder, or a tag of the library's."""

    name: str
    revision: str | None = None


def fetch_repo(repo: str, revision: str | None, patterns: list[str]) -> tuple[Path, str]:
    """A hub repo's files, from the network or HF_HOME's cache -> its folder here, and the commit."""
    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the hub's errors have no common class below Exception
        first_line = str(error).strip().splitlines()[0]
        at = f" at {revision}" if revision else ""
        raise UserError(f"hub repo {repo}{at}: not in the cache and not to be had: {first_line}") from None
    return folder, folder.name


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and values: what computes, whatever file it came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
