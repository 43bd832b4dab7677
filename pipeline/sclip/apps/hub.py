"""Push a model folder to the hub, with a card, so that sclip.load opens it anywhere."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub import HfApi, get_token

from sclip import paths
from sclip.encoders.mfcc import NAME as MFCC
from sclip.encoders.source import check_repo_name, find_folder, hub_problem
from sclip.errors import UserError
from sclip.evaluation.metrics_file import read_metrics
from sclip.files import write_text
from sclip.model.card import model_card
from sclip.model.folder import ENCODERS, VOCABULARY_FILE, ModelConfig, read_config
from sclip.model.listing import CONFIG_FILE, WEIGHTS_FILE
from sclip.model.loading import REPO_FILES, load
from sclip.paths import METRICS

# Files of an earlier push that the model may no longer have.
REPLACED = [VOCABULARY_FILE, *(f"{encoder}/*" for encoder in ENCODERS)]


@dataclass(frozen=True)
class Pushed:
    repo: str
    url: str
    commit: str
    encoder_bytes: dict[str, int]  # of the encoders inside; empty if all are references
    metrics: str | None  # the file whose results are on the card


def push(
    model: str | Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    licence: str | None = None,
    metrics: str | Path | None = None,
) -> Pushed:
    """Upload a model folder to the hub repo `repo`, in one commit. The repo is made if it does not exist.

    Encoders that nobody else can download are uploaded too. `revision` is a branch, `licence` the hub's name of the
    licence of the trained weights. `metrics` is the model's metrics.json; for a model that was trained and evaluated in
    this folder it is found.
    """
    check_repo_name(repo)
    given, _ = find_folder(str(model), None, REPO_FILES)
    file, results = _find_metrics(read_config(given), metrics)  # faults of files here come before those of the hub
    if get_token() is None:
        raise UserError(
            f"{repo}: not pushed: not logged in; use `hf auth login`, or set HF_TOKEN to a token with write access"
        )
    opened = load(model)
    with tempfile.TemporaryDirectory(prefix="sclip-push-") as scratch:
        folder = Path(scratch) / "model"
        opened.encoders_inside |= any(
            not _is_downloadable(encoder.source.name, encoder.source.revision)
            for encoder in (opened.speech, opened.clip)
        )
        opened.save(folder)
        config = read_config(folder)
        sizes = _folder_bytes(folder)
        write_text(folder / "README.md", model_card(config, repo, results, licence, sizes))
        url, commit = _upload(folder, repo, private, revision, f"{config.arch}, pushed by sclip")
    return Pushed(repo, url, commit, sizes, None if file is None else str(file))


def _is_downloadable(name: str, revision: str | None) -> bool:
    """Return whether anybody can open an encoder by its name: a hub repo at a commit, an open_clip tag, or MFCCs."""
    if revision is not None or name == MFCC:
        return True
    model, _, tag = name.partition("/")
    return not Path(name).exists() and bool(open_clip.get_pretrained_cfg(model, tag))


def _find_metrics(config: ModelConfig, given: str | Path | None) -> tuple[Path | None, dict[str, Any] | None]:
    """Return the model's metrics.json and its content, or twice None if there is none."""
    file = _own_metrics(config) if given is None else Path(given)
    if file is None:
        return None, None
    metrics = read_metrics(file)
    found = metrics.get("about", {}).get("arch")
    if found != config.arch:
        raise UserError(
            f"{file}: about.arch: expected {config.arch!r}, found {found!r}; give the model's own {METRICS}"
        )
    if metrics["about"].get("weights") not in (None, config.files.get(WEIGHTS_FILE)):
        raise UserError(
            f"{file}: not the results of the model's present weights; run `sclip evaluate` again, or give the "
            f"model's own {METRICS}"
        )
    return file, metrics


def _own_metrics(config: ModelConfig) -> Path | None:
    """Return the metrics.json of a model that was trained in this folder and has still the same weights."""
    preset, seed = config.origin.get("preset", ""), config.origin.get("seed", "")
    if not preset or not seed.isdecimal():
        return None
    trained = paths.model_folder(preset, config.arch, int(seed))
    file = paths.results_folder(preset, config.arch, int(seed)) / METRICS
    if not file.is_file() or not (trained / CONFIG_FILE).is_file():
        return None
    return file if read_config(trained).files == config.files else None


def _folder_bytes(folder: Path) -> dict[str, int]:
    return {
        name: sum(file.stat().st_size for file in (folder / name).rglob("*") if file.is_file())
        for name in ENCODERS
        if (folder / name).is_dir()
    }


def _upload(folder: Path, repo: str, private: bool, revision: str | None, message: str) -> tuple[str, str]:
    """Upload a folder in one commit, and return its address and the commit."""
    api = HfApi(library_name="sclip")
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        info = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            revision=revision,
            commit_message=message,
            delete_patterns=REPLACED,
        )
    except Exception as error:  # the hub's errors have no common class below Exception
        raise UserError(f"{repo}: not pushed: {hub_problem(error, upload=True)}") from None
    return f"{api.endpoint}/{repo}", str(info.oid)
