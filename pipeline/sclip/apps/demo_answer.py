"""Compute and render what the demo shows for a recording: each model's keywords in time, and the pictures it finds."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from sclip.apps.inputs import list_files
from sclip.encoders.audio import SAMPLE_RATE, is_silent, read_audio, too_short_reason
from sclip.encoders.pictures import picture_fault, read_rgb
from sclip.errors import UserError, printable
from sclip.evaluation.examples import head_fields
from sclip.files import walk_folder
from sclip.model.loading import load
from sclip.model.speechclip import SpeechCLIP
from sclip.report.page import COLOURS, VIEW, templates
from sclip.report.utterances import MAX_PIXELS, TimedOutput, picture_url, timed_output, waveform_path

log = logging.getLogger(__name__)

PLAYED_SUFFIXES = {".flac", ".mp3", ".ogg", ".wav"}  # of recordings that all browsers play
SHOWN_PICTURES = 6
PICTURE_BATCH = 64
BRANCH_NAMES = {"cascaded": "its keywords", "parallel": "its utterance vector"}


@dataclass(frozen=True)
class DemoModel:
    name: str  # as the user gave it
    model: SpeechCLIP
    vectors: Tensor  # (N, J): its CLIP's vectors of the pictures


@dataclass(frozen=True)
class FoundPicture:
    name: str
    url: str
    score: float


@dataclass(frozen=True)
class TimeAxis:
    """Hold what the time axis reads (report/timeline.html)."""

    id: str
    seconds: float
    waveform: str
    outputs: list[TimedOutput]
    words: tuple[()] = ()  # the template reads word times, which a new recording does not have


@dataclass(frozen=True)
class ModelAnswer:
    arch: str
    name: str
    axis: TimeAxis
    found: dict[str, list[FoundPicture]]  # by what ranked them


@dataclass(frozen=True)
class Demo:
    """The models and the pictures of a demo."""

    models: list[DemoModel]
    pictures: list[Path]
    examples: list[Path]  # recordings to choose from

    def answer(self, recording: str | None) -> str:
        """Return the HTML for a recording's file. A mistake gives one line of text in place of the answer."""
        if recording is None:
            return ""
        name = printable(Path(recording).name)
        try:
            return self._answer(Path(recording))
        except UserError as error:
            return _render(error=str(error).replace(recording, name))
        except Exception as error:  # the page must go on working, and its reader does not see the terminal
            log.exception(f"{name}: the demo failed")
            return _render(error=f"{name}: the demo failed: {type(error).__name__}; its terminal shows where")

    def _answer(self, recording: Path) -> str:
        waveform = torch.from_numpy(read_audio(recording))
        shortest = max(demo_model.model.speech.shortest for demo_model in self.models)
        if len(waveform) < shortest:
            raise UserError(f"audio {recording}: {too_short_reason(len(waveform), shortest)}")
        note = "The recording is silent: what is found means nothing." if is_silent(waveform) else ""
        answers = [self._of_model(number, waveform) for number in range(len(self.models))]
        return _render(
            audio=f"/gradio_api/file={quote(str(recording))}",
            name=printable(recording.name),
            note=note,
            answers=answers,
        )

    @torch.inference_mode()
    def _of_model(self, number: int, waveform: Tensor) -> ModelAnswer:
        demo_model = self.models[number]
        model, seconds = demo_model.model, len(waveform) / SAMPLE_RATE
        output = model.head(model.speech([waveform]), model.text_tower)
        fields = timed_output(head_fields(model, output), set(), model.frame_seconds, seconds)
        outputs = [TimedOutput(f"model-{number}", *fields)]
        axis = TimeAxis(demo_model.name, seconds, waveform_path(waveform), outputs)
        vectors = output.vectors
        found = {
            name: self._nearest(demo_model, vectors[branch])
            for branch, name in BRANCH_NAMES.items()
            if branch in vectors
        }
        return ModelAnswer(model.name, demo_model.name, axis, found)

    def _nearest(self, demo_model: DemoModel, vector: Tensor) -> list[FoundPicture]:
        """Return the pictures that are nearest to a vector (1, J), best first."""
        scores = F.normalize(vector, dim=-1)[0] @ demo_model.vectors.T  # (N,)
        best = scores.topk(min(SHOWN_PICTURES, len(self.pictures)))
        files = [self.pictures[i] for i in best.indices.tolist()]
        return [
            FoundPicture(printable(file.name), picture_url(file, MAX_PIXELS), score)
            for file, score in zip(files, best.values.tolist(), strict=True)
        ]


def open_demo(names: Sequence[str], folder: Path, device: str) -> Demo:
    """Load the models and encode the pictures of a folder. Models with the same CLIP share the pictures' vectors."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder of the pictures to search with --images")
    pictures = [Path(path) for path in list_files(folder.absolute(), "image").files]
    models = [load(name, device=device) for name in names]
    vectors: dict[str, Tensor] = {}  # by the fingerprint of the CLIP
    for model in models:
        clip = model.clip.fingerprint()
        if clip not in vectors:
            vectors[clip], pictures = _encode(model, pictures)
        if not pictures:
            raise UserError(f"{folder}: none of its pictures can be read; give another folder with --images")
    return Demo(
        [DemoModel(name, model, vectors[model.clip.fingerprint()]) for name, model in zip(names, models, strict=True)],
        pictures,
        [path for path in map(Path, walk_folder(str(folder))) if path.suffix.lower() in PLAYED_SUFFIXES],
    )


def _encode(model: SpeechCLIP, files: list[Path]) -> tuple[Tensor, list[Path]]:
    """Return the vectors (N, J) of the pictures that can be read, and their files. The others are logged."""
    vectors, readable = [], []
    batches = range(0, len(files), PICTURE_BATCH)
    for start in tqdm(batches, desc="pictures", unit="batch", disable=len(batches) == 1):
        images: list[Image.Image] = []
        for file in files[start : start + PICTURE_BATCH]:
            try:
                images.append(read_rgb(file))
            except Exception as error:  # a damaged picture can raise any exception
                log.warning(f"{picture_fault(file, error)}; left out")
            else:
                readable.append(file)
        vectors.append(model.encode_image(images))
    return torch.cat(vectors), readable


def _render(error: str = "", answers: Sequence[ModelAnswer] = (), **values: object) -> str:
    """Fill in demo.html."""
    colours = {f"model-{number}": f"colour-{number % COLOURS}" for number in range(len(answers))}
    template = templates(Path(__file__).parent).get_template("demo.html")
    return template.render(error=error, answers=answers, view=VIEW, colours=colours, **values)
