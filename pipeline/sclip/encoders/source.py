"""Where an encoder or a model comes from: a folder, a folder that ships with the package, or a hub repo.

A repo's files are downloaded by name or by ending, never all of them: a repo may hold Python code, and none of it is
fetched or run.
"""

import glob
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sclip.errors import UserError
from sclip.files import refuse_special_files
from sclip.formats import MODEL_KIND
from sclip.parsing import read_table
from sclip.paths import SHIPPED_MODELS

log = logging.getLogger(__name__)

RANDOM = "random weights"
REPO = re.compile(r"[\w.-]+/[\w.-]+")
COMMIT = re.compile(r"[0-9a-f]{40}")
PROBE_SECONDS = 10.0
NOT_UPLOADED = "Nothing was uploaded; run the command again with a network, or copy the model folder by hand"
LISTED_FILES = 10  # files that an error names


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
        f"Without a network: copy a filled cache to {constants.HF_HUB_CACHE} (HF_HOME sets its folder), or copy "
        f"{what}'s files into a folder and give that folder as the name"
    )


def shipped_folder(name: str) -> Path | None:
    """Return the folder of a model that ships with the package, such as models/mini-hubert, or None."""
    folder = SHIPPED_MODELS / name.removeprefix("models/")
    return folder if re.fullmatch(r"(models/)?[\w-]+", name) and folder.is_dir() else None


def find_folder(name: str, revision: str | None, patterns: list[str], **download: Any) -> tuple[Path, str | None]:
    """Return the folder `name`, or the downloaded files of the hub repo `name` and the commit that they are of.

    The names of the models that ship with the package work in every folder.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = shipped_folder(name) or folder
    if folder.is_dir():
        if revision is not None:
            raise UserError(f"{name}: a folder has no revisions, found {revision!r}; leave the revision out")
        refuse_special_files(folder)
        return folder, None
    if not REPO.fullmatch(name):
        raise UserError(f"{name}: no such folder, and not the name of a hub repo, which is ORG/NAME")
    if folder.parent.is_dir():
        raise UserError(
            f"{name}: no such folder. The folder {folder.parent} exists, so this is not looked up as a hub repo; "
            "check the name, or start from another folder"
        )
    return fetch_repo(name, revision, patterns, **download)


def check_kind(folder: Path, wanted: Literal["speech encoder", "CLIP"], name: str) -> None:
    """Refuse a folder that certainly holds something else: a trained model, or the other kind of encoder."""
    config = read_table(folder / "config.json")
    has_clip = (folder / "open_clip_config.json").is_file()
    if str(config.get("format")).startswith(MODEL_KIND):
        found = "a trained model of sclip"
    elif wanted == "CLIP" and not has_clip and "model_type" in config:
        found = f"a {config['model_type']} of transformers"
    elif wanted == "speech encoder" and has_clip and "model_type" not in config:
        found = "a CLIP of open_clip"
    else:
        return
    example = "models/mini-hubert" if wanted == "speech encoder" else "local-dir:models/mini-clip"
    raise UserError(f"{wanted} {name}: {found}, not a {wanted}; name an encoder's folder, such as {example}")


def fetch_repo(repo: str, revision: str | None, patterns: list[str], **download: Any) -> tuple[Path, str]:
    """Return the folder with a hub repo's files, from the network or HF_HOME's cache, and the commit.

    `patterns` name the files to download. `download`: more arguments of huggingface_hub.snapshot_download.
    """
    check_repo_name(repo)
    problem = None
    try:
        problem = _unreachable(repo, revision, **download)
        cached_only = {"local_files_only": True} if problem is not None else {}
        folder = Path(
            snapshot_download(repo, revision=revision, allow_patterns=patterns, **{**download, **cached_only})
        )
    except Exception as error:  # the hub's errors have no common class below Exception
        at = f" at {revision}" if revision else ""
        raise UserError(
            f"{repo}: no such folder, and not available as a hub repo{at}: {hub_problem(problem or error)}"
        ) from None
    if problem is not None:
        log.warning("%s: %s; using commit %s from the cache", repo, unreachable_reason(problem), folder.name[:12])
    return folder, folder.name


def fetch_file(repo: str, path: str, revision: str | None) -> tuple[Path, str]:
    """Return one file of a hub repo, and the commit that it is of."""
    folder, commit = fetch_repo(repo, revision, [glob.escape(path)])
    if (folder / path).is_file():
        return folder / path, commit
    at = f" at {revision}" if revision else ""
    raise UserError(f"{repo}: no file {path}{at}; {_other_files(repo, commit, Path(path).suffix)}")


def check_repo_name(repo: str) -> None:
    if not REPO.fullmatch(repo):
        raise UserError(f"{repo}: not the name of a hub repo, which is ORG/NAME")


def hub_problem(error: BaseException, *, upload: bool = False) -> str:
    """Return what went wrong with a request to the hub, to download or to upload, and what to do, on one line."""
    advice = NOT_UPLOADED if upload else without_network("the repo")
    cause = error
    while isinstance(cause, LocalEntryNotFoundError | RuntimeError) and cause.__cause__ is not None:
        cause = cause.__cause__  # the first failure; the library wraps it
    if isinstance(cause, GatedRepoError):
        return "the repo is gated; accept its conditions on its page, and log in with `hf auth login` or set HF_TOKEN"
    if isinstance(cause, RevisionNotFoundError):
        return "the repo has no such revision; give a branch, a tag or a commit of it"
    if isinstance(cause, HfHubHTTPError):
        return _http_problem(cause)
    missing_or_unreachable = isinstance(cause, LocalEntryNotFoundError | ConnectionError | TimeoutError)
    if isinstance(cause, ValueError | OSError) and not missing_or_unreachable:
        return _first_line(str(cause))  # of the disk, or of a name that the hub does not allow
    if constants.is_offline_mode():
        return f"{'' if upload else 'it is not in the cache, and '}HF_HUB_OFFLINE is set. {advice}"
    if isinstance(cause, LocalEntryNotFoundError):
        return f"it is not in the cache. {advice}"
    return f"{unreachable_reason(cause)}. {advice}"


def _http_problem(error: HfHubHTTPError) -> str:
    status, answer = error.response.status_code, f"the hub answered {error.response.status_code}"
    if status == 401 and "credentials" in str(error):
        return f"{answer}: the token is not valid; use `hf auth login` again, or set HF_TOKEN"
    if status == 401 or isinstance(error, RepositoryNotFoundError):
        return (
            f"{answer}: there is no such repo, or it is private; check the name, and for a private repo log in with "
            "`hf auth login` or set HF_TOKEN"
        )
    if status == 403:
        return f"{answer}: the token may not do this; use one with access to the repo, and to push with write"
    if status >= 500 or status == 429:
        return f"{answer}: it is overloaded or has a fault; try again later"
    return f"{answer}: {_first_line(error.server_message or str(error))}"


def unreachable_reason(error: BaseException) -> str:
    """Return why the hub cannot be used, on one line."""
    if isinstance(error, HfHubHTTPError):
        return f"{constants.ENDPOINT} answered {error.response.status_code}"
    return f"{constants.ENDPOINT} cannot be reached ({type(error).__name__}: {_first_line(str(error))})"


def _first_line(text: str) -> str:
    return (text.strip() or "no reason given").splitlines()[0]


def _unreachable(repo: str, revision: str | None, **download: Any) -> Exception | None:
    """Return why the hub cannot be used now, or None if it can, or if it is not needed.

    huggingface_hub repeats some requests for half a minute when there is no network. A single request before them
    finds that out at once. What the hub says about the repo itself is left to the download.
    """
    if constants.is_offline_mode() or download.get("local_files_only"):
        return None
    if revision is not None and COMMIT.fullmatch(revision):
        cache = Path(download.get("cache_dir") or constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
        if (cache / f"trees/{revision}.json").is_file():  # the list of the commit's files
            return None
    return ask_hub(repo, revision, token=download.get("token"))


def ask_hub(
    repo: str, revision: str | None, *, kind: str = "model", token: str | bool | None = None
) -> Exception | None:
    """Ask once for a repo, and return why the hub cannot be used now, or None. `kind`: model or dataset."""
    try:
        HfApi(token=token).repo_info(repo, revision=revision, repo_type=kind, timeout=PROBE_SECONDS)
    except HfHubHTTPError as error:
        return error if error.response.status_code >= 500 else None
    except ValueError:  # of a name that the hub does not allow
        return None
    except Exception as error:  # each HTTP library has its own errors for a network that is down
        return error
    return None


def _other_files(repo: str, commit: str, ending: str) -> str:
    """Return which files with an ending the repo has, as advice."""
    try:
        files = HfApi().list_repo_files(repo, revision=commit)
    except Exception:  # offline; the file is missing all the same
        return without_network("the repo")
    alike = sorted(file for file in files if file.endswith(ending))
    if not alike:
        return f"it has no {ending or 'such'} file"
    more = f" and {len(alike) - LISTED_FILES} more" if len(alike) > LISTED_FILES else ""
    return f"it has {', '.join(alike[:LISTED_FILES])}{more}"
