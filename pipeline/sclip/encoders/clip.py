"""The frozen CLIP: pictures, captions and keyword embeddings into one space.

- It is loaded from a hub repo (`hf-hub:org/name`), a local folder (`local-dir:path` or the path alone), or a model and
  a tag of open_clip (`ViT-B-32-quickgelu/openai`).
- open_clip has no call that takes token embeddings, so `TextTower` provides one. Its attention is causal, so only the
  positions that are read are computed: the keywords, start and end, not all 77.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.model import set_model_preprocess_cfg
from open_clip.tokenizer import HFTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import TextTransformer
from PIL import Image
from torch import Tensor, nn

from sclip.device import send
from sclip.encoders.clip_folder import (
    CONFIG_FILE,
    TOKENIZER_FILES,
    WEIGHTS_FILE,
    check_model_config,
    one_line_errors,
    open_tokenizer,
    warn_without_quick_gelu,
)
from sclip.encoders.pictures import as_rgb, picture_fault, read_rgb
from sclip.encoders.sizes import WEIGHT_SUFFIXES, check_clip_sizes
from sclip.encoders.source import Source, check_kind, fetch_repo, shipped_folder, without_network
from sclip.encoders.tokens import PADDING, ClipTokens, Tokens, tokens_of
from sclip.errors import UserError
from sclip.files import refuse_special_files
from sclip.fingerprints import module_fingerprint
from sclip.padded import Padded
from sclip.parsing import read_json
from sclip.tensors import fill, save_tensors


class TextTower:
    """CLIP's text transformer on token embeddings. `start` and `end` are the ids around a sentence."""

    def __init__(self, tower: Any, start: int, end: int, special: Sequence[int] | None = None):
        """Wrap `tower`, which is open_clip's CLIP or the TextTransformer in its CustomTextCLIP.

        `special` are the tokens that are never keywords; the default is those of CLIP's own tokenizer.
        """
        self.tower = tower
        self.start, self.end = start, end
        self.special_tokens = [PADDING, start, end] if special is None else list(special)

    @property
    def table(self) -> Tensor:
        """Return the embedding of every token: (V, W)."""
        return self.tower.token_embedding.weight

    @property
    def context_length(self) -> int:
        return len(self.tower.positional_embedding)

    @property
    def most_keywords(self) -> int:
        """Return how many keywords a sentence has room for, between its start and its end."""
        return self.context_length - 2

    def __call__(self, keywords: Padded) -> Tensor:
        """Encode the sentences `start keywords end`: (B, S, W) -> (B, J)."""
        batch, slots, width = keywords.values.shape
        if slots > self.most_keywords:
            raise UserError(f"{slots} keywords: CLIP's text tower has room for {self.most_keywords}")
        start, end = self.table[self.start], self.table[self.end]
        x = torch.cat([start.expand(batch, 1, width), keywords.values, end.expand(batch, 1, width)], 1)
        last = keywords.lengths + 1  # where the sentence ends
        is_end = torch.arange(slots + 2, device=x.device) == last[:, None]
        return self.run(torch.where(is_end[..., None], end, x), last)

    def run(self, x: Tensor, last: Tensor) -> Tensor:
        """Encode token embeddings (B, N, W), without positions, of sentences that end at `last` (B,) -> (B, J)."""
        tower, count = self.tower, x.shape[1]
        x = tower.transformer(x + tower.positional_embedding[:count], attn_mask=tower.attn_mask[:count, :count])
        x = tower.ln_final(x[torch.arange(len(x), device=x.device), last])
        return tower.text_projection(x) if isinstance(tower.text_projection, nn.Linear) else x @ tower.text_projection


class ClipEncoder(nn.Module):
    model: Any  # open_clip's CLIP or CustomTextCLIP

    def __init__(self, model: nn.Module, config: dict[str, Any], tokenizer: Any, source: Source):
        """Freeze the model. `config` is the content of open_clip_config.json: of the model and of the preprocessing."""
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.config, self.tokenizer, self.source = config, tokenizer, source
        self.preprocess = image_transform_v2(PreprocessCfg(**self.model.visual.preprocess_cfg), is_train=False)
        tower = getattr(self.model, "text", self.model)
        takes_embeddings = hasattr(tower, "token_embedding") and hasattr(tower, "positional_embedding")
        self.tokens = tokens_of(tokenizer, len(tower.token_embedding.weight)) if takes_embeddings else None
        self.refusal = _keyword_refusal(tower, tokenizer, self.tokens)
        self._text_tower = None
        if self.tokens is not None and self.refusal is None:
            self._text_tower = TextTower(tower, self.tokens.start, self.tokens.end, self.tokens.special)

    @classmethod
    def from_pretrained(cls, name: str, revision: str | None = None) -> "ClipEncoder":
        if name.startswith("hf-hub:"):
            repo = name.removeprefix("hf-hub:")
            folder, commit = fetch_repo(repo, revision, [CONFIG_FILE, WEIGHTS_FILE, *TOKENIZER_FILES])
            if not (folder / WEIGHTS_FILE).is_file():
                fetch_repo(repo, commit, ["open_clip_pytorch_model.bin"])
            return cls._from_folder(folder, Source(name, commit))
        if revision is not None:
            raise UserError(f"CLIP {name}: only a hub repo (hf-hub:…) has revisions, found {revision!r}")
        named = Path(name.removeprefix("local-dir:"))
        folder = named if named.is_dir() else shipped_folder(str(named)) or named
        if folder.is_dir():
            refuse_special_files(folder)
        if name.startswith("local-dir:") or folder.is_dir():
            return cls._from_folder(folder, Source(name.removeprefix("local-dir:")))
        return cls._from_tag(name)

    @classmethod
    def from_tensors(cls, model_cfg: dict[str, Any], tensors: Mapping[str, Tensor], name: str) -> "ClipEncoder":
        """Build a CLIP from tensors, with OpenAI's tokenizer and preprocessing, which are open_clip's defaults."""
        model = empty_clip(model_cfg)
        fill(model, tensors, name)
        preprocess = {**vars(PreprocessCfg()), "size": model_cfg["vision_cfg"]["image_size"]}
        set_model_preprocess_cfg(model, preprocess)
        tokenizer = open_clip.SimpleTokenizer(context_length=model_cfg["text_cfg"]["context_length"])
        return cls(model, {"model_cfg": model_cfg, "preprocess_cfg": preprocess}, tokenizer, Source(name))

    @classmethod
    def _from_folder(cls, folder: Path, source: Source) -> "ClipEncoder":
        check_kind(folder, "CLIP", source.name)
        path = folder / CONFIG_FILE
        config = read_json(path)
        if not isinstance(config, dict) or not isinstance(config.get("model_cfg"), dict):
            raise UserError(f"CLIP {source.name}: {path}: expected a table with model_cfg")
        where = f"CLIP {source.name}: {path}: model_cfg"
        check_model_config(config["model_cfg"], where)
        check_clip_sizes(config["model_cfg"], folder, where)
        warn_without_quick_gelu(source.name, config["model_cfg"], folder)
        if not any(file.suffix in WEIGHT_SUFFIXES for file in folder.iterdir()):
            raise UserError(f"CLIP {source.name}: {folder / WEIGHTS_FILE}: no such file; copy the folder again")
        with one_line_errors(source.name):
            model = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True)
        tokenizer = open_tokenizer(config["model_cfg"]["text_cfg"], folder, source.name)
        with one_line_errors(source.name):  # of the preprocessing's settings
            return cls(model, config, tokenizer, source)

    @classmethod
    def _from_tag(cls, name: str) -> "ClipEncoder":
        architecture, _, tag = name.partition("/")
        model_cfg = sizes_of_tag(name)
        warn_without_quick_gelu(name, model_cfg, Path(tag), open_clip.get_pretrained_cfg(architecture, tag))
        hint = f". {without_network('its hub repo')} (local-dir:FOLDER, with {CONFIG_FILE} and {WEIGHTS_FILE})"
        _fetch_tag(name)
        with one_line_errors(name, hint):
            model = open_clip.create_model(architecture, tag, require_pretrained=True)
            tokenizer = open_clip.get_tokenizer(architecture)
        config = {"model_cfg": model_cfg, "preprocess_cfg": dict(model.visual.preprocess_cfg)}
        return cls(model, config, tokenizer, Source(name))

    @property
    def text_tower(self) -> TextTower:
        if self._text_tower is None:
            raise UserError(f"CLIP {self.source.name}: {self.refusal}; keywords need CLIP's own layout")
        return self._text_tower

    @property
    def joint_width(self) -> int:
        return int(self.config["model_cfg"]["embed_dim"])

    @property
    def device(self) -> torch.device:
        return self.model.logit_scale.device

    def encode_image(self, images: Sequence[Any], names: Sequence[str] | None = None) -> Tensor:
        """Encode paths, PIL pictures, byte arrays (H, W, 3) or preprocessed float tensors (3, H, W) -> (B, J).

        `names` are what messages call the images; the default is their number.
        """
        names = [f"image {i}" for i in range(len(images))] if names is None else names
        pixels = torch.stack([self._pixels(image, name) for image, name in zip(images, names, strict=True)])
        return self.model.encode_image(send(pixels, self.device))

    def _pixels(self, image: Any, name: str) -> Tensor:
        if isinstance(image, Tensor) and image.is_floating_point():
            size = self.model.visual.image_size
            expected = (3, *size) if isinstance(size, tuple) else (3, size, size)
            if image.shape != expected:
                raise UserError(f"{name}: expected {expected}, preprocessed, found {tuple(image.shape)}")
            return image
        if isinstance(image, str | Path):
            try:
                return self.preprocess(read_rgb(image))
            except Exception as error:  # Pillow raises errors of many kinds on a damaged file
                raise UserError(picture_fault(Path(image), error)) from None
        if isinstance(image, Image.Image):
            return self.preprocess(self._as_rgb(image, name))
        array = np.asarray(image)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise UserError(f"{name}: expected bytes (H, W, 3), found {array.dtype} {array.shape}")
        return self.preprocess(self._as_rgb(Image.fromarray(array), name))

    def _as_rgb(self, image: Image.Image, name: str) -> Image.Image:
        try:
            return as_rgb(image)
        except (OSError, ValueError) as error:
            raise UserError(f"{name}: cannot be used: {error}") from None

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Encode texts -> (B, J). CLIP's tokenizer cuts a text to the positions of its text tower, usually 77."""
        ids = self.tokenizer(list(texts)).to(self.device)  # (B, context)
        if self._text_tower is None:
            return self.model.encode_text(ids)
        table = self._text_tower.table
        if int(ids.max()) >= len(table):
            raise UserError(
                f"CLIP {self.source.name}: expected ids below {len(table)}, the number of its token embeddings; "
                f"its tokenizer returned {int(ids.max())}"
            )
        last = (ids == self._text_tower.end).int().argmax(-1)
        return self._text_tower.run(table[ids[:, : int(last.max()) + 1]], last)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return each text's tokens, without start, end and padding, and without a limit."""
        assert self.tokens is not None
        return [self.tokens.encode(text) for text in texts]

    @property
    def most_tokens(self) -> int:
        """Return how many tokens of a text are encoded, without its start and its end."""
        return int(self.tokenizer.context_length) - 2

    def count_tokens(self, text: str) -> int | None:
        """Count a text's tokens. Some tokenizers have no call that neither pads nor cuts."""
        return None if self.tokens is None else len(self.tokens.encode(text))

    def piece(self, token: int) -> str:
        """Return a token as CLIP's tokenizer writes it; `</w>` ends a word."""
        assert self.tokens is not None
        return self.tokens.piece(token)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the weights and of the configuration of the model and the preprocessing."""
        return module_fingerprint(self.model, self.config)

    def save(self, folder: Path) -> None:
        """Write a folder that open_clip and `from_pretrained` read."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG_FILE).write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")
        save_tensors(folder / WEIGHTS_FILE, self.model.state_dict())
        if isinstance(self.tokenizer, HFTokenizer):
            self.tokenizer.save_pretrained(folder)


def empty_clip(model_cfg: Mapping[str, Any]) -> nn.Module:
    """Return a CLIP of these sizes, of the class that open_clip would choose, without trained weights."""
    sizes = copy.deepcopy(dict(model_cfg))
    custom_text = sizes.pop("custom_text", False)
    with_decoder = "multimodal_cfg" in sizes
    kind = open_clip.CoCa if with_decoder else open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    model: nn.Module = kind(**sizes)
    return model


def _fetch_tag(name: str) -> None:
    """Download the weights of MODEL/TAG into the hub's cache, where open_clip finds them.

    Without a network, open_clip itself repeats its requests for more than a minute.
    """
    architecture, _, tag = name.partition("/")
    repo, _, file = str((open_clip.get_pretrained_cfg(architecture, tag) or {}).get("hf_hub", "")).rpartition("/")
    if not repo:
        return
    try:
        fetch_repo(repo, None, [file or WEIGHTS_FILE])
    except UserError as error:
        raise UserError(f"CLIP {name}: its weights are in a hub repo: {error}") from None


def sizes_of_tag(name: str) -> dict[str, Any]:
    """Return open_clip's configuration of MODEL/TAG."""
    architecture, _, tag = name.partition("/")
    model_cfg: dict[str, Any] | None = open_clip.get_model_config(architecture)
    if model_cfg is None or not tag:
        raise UserError(
            f"CLIP {name}: expected a folder, hf-hub:ORG/NAME or MODEL/TAG such as ViT-B-32-quickgelu/openai"
        )
    if not open_clip.get_pretrained_cfg(architecture, tag) and not Path(tag).is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
        raise UserError(f"CLIP {name}: expected one of open_clip's tags for {architecture} ({tags}), found {tag!r}")
    return model_cfg


def _keyword_refusal(tower: Any, tokenizer: Any, tokens: Tokens | None) -> str | None:
    """Return why this text tower cannot take keywords, or None if it can."""
    if not hasattr(tower, "token_embedding") or not hasattr(tower, "positional_embedding"):
        return f"its text tower is a {type(tower).__name__}, which does not take token embeddings"
    pooling, end = (
        (tower.pool_type, tower.eos_id)
        if isinstance(tower, TextTransformer)
        else (tower.text_pool_type, tower.text_eos_id)
    )
    if getattr(tower, "cls_emb", None) is not None:
        return "its text tower reads a class token behind the sentence"
    if tower.attn_mask is None:
        return "its text tower is not causal"
    if pooling not in ("argmax", "eos"):
        return f"its text tower pools by {pooling!r}, not at the end of the sentence"
    if tower.text_projection is None:
        return "its text tower has no projection to the joint space"
    if tokens is None or (pooling == "argmax") != isinstance(tokens, ClipTokens):
        return f"its tokenizer is a {type(tokenizer).__name__}, which does not write `start text end`"
    if pooling == "eos" and tokens.end != end:
        return f"its text tower reads the sentence at token {end}, and its tokenizer ends it with {tokens.end}"
    return None
