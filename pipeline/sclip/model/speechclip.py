"""A trained model as one object, which can be saved to a folder; `loading.py` opens it.

docs/model-folder.md describes the folder. Encoders lie in it, in their own libraries' formats, or are named by repo,
revision and the hash of their weights.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from tqdm.auto import tqdm

from sclip.config import Architecture, HeadConfig
from sclip.encoders.audio import SAMPLE_RATE
from sclip.encoders.clip import ClipEncoder
from sclip.encoders.open import AnySpeechEncoder
from sclip.errors import UserError
from sclip.files import atomic_folder
from sclip.heads.head import EncoderSizes, HeadOutput, SpeechHead
from sclip.heads.vocabulary import Vocabulary
from sclip.model.card import model_card
from sclip.model.folder import (
    FORMAT,
    VOCABULARY_FILE,
    ModelConfig,
    reference,
    write_config,
    write_weights,
    written_files,
)
from sclip.model.inputs import AudioInput, as_picture, batched, batches, check_several, recordings, total
from sclip.model.pieces import Keyword, keywords_of, warn_of_lost_keywords
from sclip.objective import Objective

log = logging.getLogger(__name__)


class SpeechCLIP(nn.Module, PyTorchModelHubMixin):
    """Speech encoder, head and CLIP. All vectors have unit length and lie in CLIP's joint space."""

    def __init__(
        self,
        name: str,
        architecture: Architecture,
        speech: AnySpeechEncoder,
        clip: ClipEncoder,
        vocabulary: Vocabulary | None = None,
        provenance: dict[str, str] | None = None,
        encoders_inside: bool = False,
    ):
        """`provenance`: where the weights come from, for the card. `encoders_inside`: saving copies the encoders."""
        super().__init__()
        self.name, self.architecture, self.vocabulary, self.origin = name, architecture, vocabulary, provenance or {}
        self.speech, self.clip, self.encoders_inside = speech, clip, encoders_inside
        self.weights_digest: str | None = None  # the SHA-256 of the weights file, if the model was loaded from one
        keywords = architecture.head.keywords
        self.text_tower = clip.text_tower if keywords is not None else None
        table, blocked = None, None
        if self.text_tower is not None:
            if vocabulary is None:
                raise UserError(f"architecture {name}: has keywords, and no vocabulary was given")
            vocabulary.check(clip)
            table, blocked = self.text_tower.table[list(vocabulary.ids)], list(vocabulary.blocked)
        token_width = None if table is None else table.shape[1]
        sizes = EncoderSizes(speech.states, speech.width, token_width, clip.joint_width)
        self.head = SpeechHead(self._fitting_head(), sizes, table, blocked)
        self.objective = Objective(architecture.objective)
        self.eval()

    def _fitting_head(self) -> HeadConfig:
        """Return the head's settings with no more keywords than CLIP's text tower has positions for."""
        head = self.architecture.head
        if self.text_tower is None or head.keywords is None:
            return head
        room = self.text_tower.most_keywords
        if head.keywords.cif is None:
            if (head.keywords.slots or 0) > room:
                raise UserError(
                    f"architecture {self.name}: head.keywords.slots: expected at most {room}, which is what the text "
                    f"tower of CLIP {self.clip.source.name} has room for; found {head.keywords.slots}"
                )
            return head
        cif = dataclasses.replace(head.keywords.cif, max_slots=min(head.keywords.cif.max_slots, room))
        return dataclasses.replace(head, keywords=dataclasses.replace(head.keywords, cif=cif))

    @property
    def device(self) -> torch.device:
        return self.head.tokens.device

    @property
    def frame_seconds(self) -> float:
        """Return the duration of a frame of the attention layer, which may be the mean of several hidden states."""
        return self.speech.frame_seconds * self.architecture.head.pool_frames

    @property
    def branches(self) -> list[str]:
        """Return the names of the vectors that the model has for a recording; the first one is the default."""
        head = self.architecture.head
        return ["parallel"] * head.utterance + ["cascaded"] * (head.keywords is not None)

    @torch.no_grad()
    def encode_speech(
        self,
        audio: Iterable[Any],
        *,
        sample_rate: int = SAMPLE_RATE,
        branch: str | None = None,
        batch_size: int = 16,
        progress: bool = False,
    ) -> Tensor:
        """Encode recordings -> (B, J), unit length. A hybrid has the branches `parallel` and `cascaded`.

        A recording is a path, bytes, an open file, samples at `sample_rate`, or a row's audio of `datasets`. Without
        `branch`, the utterance vector is returned where the model has one, else the keywords' vector. `progress` shows
        a bar.
        """
        branch = branch or self.branches[0]
        if branch not in self.branches:
            expected = " or ".join(self.branches)
            raise UserError(f"architecture {self.name}: no branch {branch!r}; expected {expected}")
        order: list[int] = []
        vectors: list[Tensor] = []
        for indices, batch, output in self.run(
            audio, sample_rate=sample_rate, batch_size=batch_size, progress=progress
        ):
            if branch == "cascaded":
                warn_of_lost_keywords(batch, output)
            order += indices
            vectors.append(output.vectors[branch])
        return self._unit(vectors)[torch.tensor(order, dtype=torch.long).argsort()]

    @torch.no_grad()
    def encode_image(self, images: Iterable[Any], *, batch_size: int = 64, progress: bool = False) -> Tensor:
        """Encode pictures -> (B, J), unit length.

        A picture is a path, bytes, an open file, one of Pillow, an array of bytes (H, W, 3), a preprocessed float
        tensor (3, H, W), or a row's image of `datasets`.
        """
        check_several(images, 3)
        pictures = ((f"image {i}", image) for i, image in enumerate(images))

        def encode(batch: list[tuple[str, Any]]) -> Tensor:
            names = [name for name, _ in batch]
            return self.clip.encode_image([as_picture(image, name) for name, image in batch], names)

        return self._encode(pictures, encode, batch_size, total(images), "picture", progress)

    @torch.no_grad()
    def encode_text(self, texts: Iterable[str], *, batch_size: int = 256, progress: bool = False) -> Tensor:
        """Encode texts -> (B, J), unit length. A text that is too long for CLIP's context is cut, and logged."""
        check_several(texts, 0)
        most_tokens = self.clip.most_tokens

        def checked() -> Iterator[str]:
            for i, text in enumerate(texts):
                if not isinstance(text, str):
                    raise UserError(f"text {i}: expected text, found {type(text).__name__}")
                tokens = self.clip.count_tokens(text)
                if tokens is not None and tokens > most_tokens:
                    log.warning("text %d: %d tokens, cut to CLIP's %d", i, tokens, most_tokens)
                yield text

        return self._encode(checked(), self.clip.encode_text, batch_size, total(texts), "text", progress)

    def _encode(
        self,
        items: Iterable[Any],
        encode: Callable[[list[Any]], Tensor],
        batch_size: int,
        count: int | None,
        unit: str,
        progress: bool,
    ) -> Tensor:
        """Encode items in batches -> (B, J), unit length. `count` is their number, if it is known."""
        _check_batch_size(batch_size)
        vectors = []
        with tqdm(total=count, unit=unit, disable=not progress) as bar:
            for batch in batched(items, batch_size):
                vectors.append(encode(batch))
                bar.update(len(batch))
        return self._unit(vectors)

    def _unit(self, vectors: list[Tensor]) -> Tensor:
        """Join batches (b, J) -> (B, J), unit length"""
        return F.normalize(torch.cat([torch.empty(0, self.clip.joint_width, device=self.device), *vectors]), dim=-1)

    def similarity(self, a: Any, b: Any) -> Tensor:
        """Return the cosine of every vector of `a` with every one of `b`: (A, J), (B, J) -> (A, B)

        Vectors are tensors or arrays, of any length and on any device. A single vector (J,) counts as one row.
        """
        sides = []
        for name, vectors in (("a", a), ("b", b)):
            rows = torch.as_tensor(vectors).to(self.device, torch.float32)
            rows = rows[None] if rows.ndim == 1 else rows
            if rows.ndim != 2 or rows.shape[1] != self.clip.joint_width:
                found = tuple(rows.shape)
                raise UserError(f"{name}: expected vectors (N, {self.clip.joint_width}), found {found}")
            sides.append(F.normalize(rows, dim=-1))
        return sides[0] @ sides[1].T

    @torch.no_grad()
    def keywords(
        self,
        audio: Iterable[Any],
        *,
        sample_rate: int = SAMPLE_RATE,
        top: int = 5,
        batch_size: int = 16,
        progress: bool = False,
    ) -> list[list[Keyword]]:
        """Return each recording's keywords: for every slot the `top` nearest word pieces.

        `audio` and `progress` are as in `encode_speech`.
        """
        self.check_keywords(top)
        keywords_by_index: dict[int, list[Keyword]] = {}
        for indices, batch, output in self.run(
            audio, sample_rate=sample_rate, batch_size=batch_size, progress=progress
        ):
            warn_of_lost_keywords(batch, output)
            keywords_by_index |= zip(indices, self.keywords_of(output, top), strict=True)
        return [keywords_by_index[i] for i in range(len(keywords_by_index))]

    def check_keywords(self, top: int) -> None:
        """Refuse a model without keywords, and fewer than one piece of a slot."""
        if self.vocabulary is None or self.architecture.head.keywords is None:
            raise UserError(f"architecture {self.name}: has no keywords; use a model that has them, such as hybrid-cif")
        if top < 1:
            raise UserError(f"top: expected at least 1, found {top}")

    def keywords_of(self, output: HeadOutput, top: int) -> Iterator[list[Keyword]]:
        """Return an iterator over the keywords of each utterance in a head's output, with `top` pieces of a slot."""
        assert self.vocabulary is not None
        assert self.head.keywords is not None
        return keywords_of(output, self.head.keywords, self.vocabulary, self.frame_seconds, top)

    def run(
        self, audio: Iterable[Any], *, sample_rate: int = SAMPLE_RATE, batch_size: int = 16, progress: bool = False
    ) -> Iterator[tuple[list[int], list[AudioInput], HeadOutput]]:
        """Return the head's outputs for batches of recordings of similar length, with the place of each in `audio`.

        `audio` is read one group at a time (model/inputs.py), and a batch is decoded when it is computed. So memory is
        bounded, whatever the number of recordings.
        """
        check_several(audio, 1)
        _check_batch_size(batch_size)
        return self._run(recordings(audio, sample_rate), batch_size, total(audio), progress)

    @torch.no_grad()
    def _run(
        self, audio: Iterable[AudioInput], batch_size: int, count: int | None, progress: bool
    ) -> Iterator[tuple[list[int], list[AudioInput], HeadOutput]]:
        with tqdm(total=count, unit="recording", disable=not progress) as bar:
            for batch in batches(audio, batch_size):
                indices, of_batch = [i for i, _ in batch], [recording for _, recording in batch]
                waveforms = [recording.decode(self.speech) for recording in of_batch]
                output = self.head(self.speech(waveforms), self.text_tower)
                yield indices, of_batch, output
                bar.update(len(batch))

    def train(self, mode: bool = True) -> "SpeechCLIP":
        """Switch the head to training or evaluation. The frozen encoders stay in evaluation."""
        super().train(mode)
        self.speech.eval()
        self.clip.eval()
        return self

    def save(self, folder: str | Path) -> Path:
        """Write a model folder atomically. The folder must not exist."""
        folder = Path(folder)
        if folder.exists():
            raise UserError(f"{folder}: already exists; choose another folder or remove it")
        with atomic_folder(folder) as unfinished:
            self.save_pretrained(unfinished)
        return folder

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the files of a model folder; PyTorchModelHubMixin's save_pretrained and push_to_hub call this."""
        if self.encoders_inside:
            self.speech.save(save_directory / "speech")
            self.clip.save(save_directory / "clip")
        write_weights(save_directory, self._trained())
        if self.vocabulary is not None:
            self.vocabulary.save(save_directory / VOCABULARY_FILE)
        config = ModelConfig(
            format=FORMAT,
            arch=self.name,
            head=self.architecture.head,
            objective=self.architecture.objective,
            sizes=self.head.sizes,
            speech_encoder=reference(self.speech, inside=self.encoders_inside),
            clip_encoder=reference(self.clip, inside=self.encoders_inside),
            origin=self.origin,
            files=written_files(save_directory),
        )
        write_config(save_directory, config)
        (save_directory / "README.md").write_text(model_card(config), encoding="utf-8")

    def _trained(self) -> dict[str, Tensor]:
        """Return the trained tensors, without the encoders."""
        return {f"head.{k}": v for k, v in self.head.state_dict().items()} | {
            f"objective.{k}": v for k, v in self.objective.state_dict().items()
        }

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, name: str | Path, *, revision: str | None = None, **download: Any
    ) -> "SpeechCLIP":
        """Load a model folder, or a hub repo that holds one. `download`: token, cache_dir and the like for the hub."""
        from sclip.model.loading import load  # which imports this module

        return load(name, revision=revision, **download)


def _check_batch_size(size: int) -> None:
    if size < 1:
        raise UserError(f"batch_size: expected at least 1, found {size}")
