"""A folder in open_clip's format: checks of its configuration and its weights, and its tokenizer.

A folder may come from anybody. Nothing in it may make open_clip or transformers read other files, or run code.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, get_clean_fn
from safetensors import safe_open
from transformers import PreTrainedTokenizerFast

from sclip.encoders.sizes import WEIGHT_SUFFIXES
from sclip.errors import UserError, one_line
from sclip.parsing import as_table, read_json

CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Only OpenAI's own files have tensors with these names, beside those of the weights.
OPENAI_TENSORS = {"input_resolution", "context_length", "vocab_size"}

# Weights that were trained with QuickGELU, recognised by the names of tags and folders. Exceptions of the same authors:
# DFN2B with 39 billion samples, DFNDR (MobileCLIP), MetaCLIP 1.2 (altogether), and MetaCLIP 2 except ViT-H-14 at 224
# pixels.
QUICK_GELU = {
    "OpenAI's": re.compile("openai"),
    "DFN's": re.compile(r"dfn[25]b(?!.*39b)"),
    "MetaCLIP's": re.compile(r"metaclip(?!.*altogether|-?2)|(huge|vit-?h)(?!.*(378|bigg)).*metaclip-?2"),
}


@contextmanager
def one_line_errors(name: str, hint: str = "") -> Iterator[None]:
    """Turn every error of loading, such as for a damaged file or a missing network, into a UserError of one line."""
    try:
        yield
    except Exception as error:  # open_clip and transformers raise errors of many kinds
        raise UserError(f"CLIP {name}: cannot be loaded: {one_line(error)}{hint}") from None


def check_model_config(model_cfg: dict[str, Any], where: str) -> None:
    """Refuse what would make open_clip read from anywhere but this folder."""
    text, vision = (as_table(model_cfg.get(part), f"{where}.{part}") for part in ("text_cfg", "vision_cfg"))
    if text.get("hf_model_name") is not None:
        raise UserError(
            f"{where}.text_cfg.hf_model_name: found {text['hf_model_name']!r}, which is loaded from a repo of its own; "
            "only text towers whose weights are in the folder can be used"
        )
    timm_model = vision.get("timm_model_name")
    if timm_model is not None and not (isinstance(timm_model, str) and re.fullmatch(r"[\w.]+", timm_model)):
        raise UserError(
            f"{where}.vision_cfg.timm_model_name: expected the name of one of timm's models, found {timm_model!r}"
        )


class _FolderTokenizer(HFTokenizer):  # type: ignore[misc]
    """open_clip's wrapper around a tokenizer of transformers, built from files of the folder only.

    It reads tokenizer.json, and the special tokens in tokenizer_config.json. open_clip would call AutoTokenizer, which
    builds the class that the folder names, and so could run code of the folder or load other hub repos.
    """

    def __init__(
        self,
        folder: Path,
        context_length: int,
        clean: str = "whitespace",
        strip_sep_token: bool = False,
        tokenizer_mode: str | None = None,
    ):
        path = folder / TOKENIZER_FILES[0]
        if not path.is_file():
            raise UserError(f"{path}: no such file; save the tokenizer in the format of transformers' fast tokenizers")
        config = folder / TOKENIZER_FILES[1]
        options = as_table(read_json(config), str(config)) if config.is_file() else {}
        tokens = {name: options[name] for name in SPECIAL_TOKENS if name in options}
        contents = {name: token["content"] if isinstance(token, dict) else token for name, token in tokens.items()}
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path), **contents)
        self.context_length, self.clean_fn = context_length, get_clean_fn(clean)
        self.strip_sep_token, self.tokenizer_mode = strip_sep_token, tokenizer_mode or ""


def open_tokenizer(text_cfg: Mapping[str, Any], folder: Path, name: str) -> Any:
    """Return CLIP's own tokenizer, or the one in transformers' format in the folder.

    Only options that choose how a text is cleaned are accepted. Any other option raises an error, because it could name
    files elsewhere, or code to run.
    """
    where = f"CLIP {name}: text_cfg"
    options = as_table(text_cfg.get("tokenizer_kwargs") or {}, f"{where}.tokenizer_kwargs")
    allowed = {"clean": str, "strip_sep_token": bool} if text_cfg.get("hf_tokenizer_name") else {"clean": str}
    for option, value in options.items():
        if not isinstance(value, allowed.get(option, ())):
            raise UserError(
                f"{where}.tokenizer_kwargs.{option}: cannot be used, found {value!r}; possible are {', '.join(allowed)}"
            )
    context = {"context_length": text_cfg.get("context_length", DEFAULT_CONTEXT_LENGTH), **options}
    with one_line_errors(f"{name}: its tokenizer"):
        if not text_cfg.get("hf_tokenizer_name"):
            return open_clip.SimpleTokenizer(**context)
        mode = text_cfg.get("tokenizer_mode")
        return _FolderTokenizer(folder, **context, tokenizer_mode=mode)


def warn_without_quick_gelu(
    name: str, model_cfg: Mapping[str, Any], weights: Path, tag: Mapping[str, Any] | None = None
) -> None:
    """Warn of weights that were trained with QuickGELU and are loaded without it: the vectors would be wrong.

    `tag` is what open_clip says about the weights, if it knows them; other weights are known by name, or by what is in
    their files.
    """
    if model_cfg.get("quick_gelu", False):
        return
    plain = name.rpartition("/")[2].lower()
    owner = next((owner for owner, pattern in QUICK_GELU.items() if pattern.search(plain)), None)
    if tag and not tag.get("quick_gelu", False):
        return
    if tag and owner is None:
        owner = "these"
    if owner is None and _has_openai_tensors(weights):
        owner = "OpenAI's"
    if owner is not None:
        warnings.warn(
            f"CLIP {name}: {owner} weights need QuickGELU and this model has GELU; "
            "use the -quickgelu model, or set quick_gelu in the folder's open_clip_config.json",
            stacklevel=4,
        )


def _has_openai_tensors(weights: Path) -> bool:
    paths = sorted(weights.glob("*.*")) if weights.is_dir() else [weights]
    files = (path for path in paths if path.suffix in WEIGHT_SUFFIXES and path.is_file())
    return any(_tensor_names(path) >= OPENAI_TENSORS for path in files)


def _tensor_names(weights: Path) -> set[str]:
    """Return the names of a file's tensors, or nothing if it cannot be read; open_clip reports that later."""
    try:
        if weights.suffix == ".safetensors":
            with safe_open(weights, "pt") as file:
                return set(file.keys())
        return set(torch.load(weights, map_location="meta", weights_only=True, mmap=True))
    except Exception:  # a damaged file fails in whatever way it is damaged
        return set()
