"""A model as MTEB's evaluators take it, and a run of their tasks.

MTEB (https://github.com/embeddings-benchmark/mteb) has retrieval tasks between speech and pictures. R@K of this project
is MTEB's hit_rate_at_K. MTEB's recall_at_K divides by the number of all right answers, and its main score is nDCG@10.
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile
import torch
from huggingface_hub import constants
from torch import Tensor

from sclip.encoders.audio import SAMPLE_RATE
from sclip.encoders.source import REPO, ask_hub, unreachable_reason
from sclip.encoders.waveforms import as_waveform
from sclip.errors import UserError, one_line
from sclip.fingerprints import module_fingerprint
from sclip.model.card import language_of
from sclip.model.loading import load
from sclip.model.speechclip import SpeechCLIP

MODALITIES = ("audio", "image", "text")
LANGUAGES = {"en": "eng-Latn"}  # as MTEB writes them
# Tasks whose data a head was trained on, by the kind of its corpus. Both spoken corpora have COCO's pictures.
SPOKEN_TASKS = {f"{corpus}{way}Retrieval" for corpus in ("SpokenCOCO", "SpeechCoco") for way in ("A2I", "I2A")}
COCO_TASKS = SPOKEN_TASKS | {"MSCOCOI2TRetrieval", "MSCOCOT2IRetrieval"}
TRAINING_TASKS: dict[str, set[str]] = {
    "scenes": set(),
    "flickr8k": {"FlickrAudioToImageRetrieval", "FlickrImageToAudioRetrieval"},
    "spokencoco": COCO_TASKS,
    "speech-coco": COCO_TASKS,
}
SHOWN_SCORES = ("hit_rate_at_1", "hit_rate_at_5", "hit_rate_at_10")


class MtebModel:
    """A model that `mteb.evaluate` takes. Its vectors are those of encode_speech, encode_image and encode_text."""

    def __init__(self, model: SpeechCLIP, name: str, revision: str | None = None, branch: str | None = None):
        """`name` is ORG/NAME, as on MTEB's leaderboard, and `branch` that of `encode_speech`."""
        self.model, self.name, self.revision, self.branch = model, name, revision, branch

    @property
    def mteb_model_meta(self) -> Any:
        """Return MTEB's description of the model."""
        from mteb.models import ModelMeta

        language = language_of(self.model.origin)
        return ModelMeta(
            loader=None,
            name=self.name,
            revision=self.revision,
            release_date=None,
            languages=[LANGUAGES[language]] if language in LANGUAGES else None,
            n_parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            memory_usage_mb=None,
            max_tokens=None,
            embed_dim=self.model.clip.joint_width,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["PyTorch"],
            similarity_fn_name="cosine",
            use_instructions=False,
            training_datasets=TRAINING_TASKS.get(self.model.origin.get("trained on", "")),
            modalities=list(MODALITIES),
            experiment_kwargs={"branch": self.branch} if self.branch else None,
        )

    def encode(
        self,
        inputs: Iterable[dict[str, Any]],
        *,
        task_metadata: Any,
        prompt_type: Any = None,
        **_: Any,
    ) -> Tensor:
        """Encode batches of one modality -> (N, J), unit length"""
        modality = self._modality(task_metadata, prompt_type)
        vectors = [torch.empty(0, self.model.clip.joint_width)]
        for batch in inputs:
            vectors.append(self._encode(modality, batch[modality]).cpu())
        return torch.cat(vectors)

    def _modality(self, task_metadata: Any, prompt_type: Any) -> str:
        """Return what a task's queries or documents are."""
        modalities = task_metadata.get_modalities(prompt_type)
        if len(modalities) != 1 or modalities[0] not in MODALITIES:
            expected = ", ".join(MODALITIES)
            raise UserError(
                f"task {task_metadata.name}: a model of sclip encodes one of {expected} at a time; this task combines "
                f"{', '.join(modalities)}"
            )
        return str(modalities[0])

    def _encode(self, modality: str, items: Sequence[Any]) -> Tensor:
        if modality == "image":
            return self.model.encode_image(items)
        if modality == "text":
            return self.model.encode_text(items)
        recordings = [  # each has its own rate
            as_waveform(item["array"], int(item["sampling_rate"]), f"recording {i}") for i, item in enumerate(items)
        ]
        return self.model.encode_speech(recordings, sample_rate=SAMPLE_RATE, branch=self.branch)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return the cosines of all pairs of unit vectors: (A, J), (B, J) -> (A, B)"""
        return torch.as_tensor(embeddings1).float() @ torch.as_tensor(embeddings2).float().T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return the cosine of each pair of unit vectors: (A, J), (A, J) -> (A,)"""
        return (torch.as_tensor(embeddings1).float() * torch.as_tensor(embeddings2).float()).sum(-1)


@dataclass(frozen=True)
class TaskScores:
    task: str
    split: str
    subset: str
    metric: str  # of the main score
    main_score: float
    scores: dict[str, float]


@dataclass(frozen=True)
class Benchmark:
    model: str
    revision: str | None
    folder: Path  # of MTEB's own result files
    tasks: list[TaskScores]


def run_mteb(name: str, tasks: Sequence[str], out: Path, device: str, branch: str | None, batch_size: int) -> Benchmark:
    """Evaluate a model folder or a hub repo on some of MTEB's tasks. MTEB downloads the tasks' data."""
    mteb = _mteb()
    try:
        found = mteb.get_tasks(tasks=list(tasks))
    except KeyError as error:
        raise UserError(f"MTEB {mteb.__version__}: {error.args[0]}") from None
    _check_decoder(found)
    _check_data(found)
    model = open_for_mteb(name, device, branch)
    try:
        result = mteb.evaluate(
            model,
            found,
            encode_kwargs={"batch_size": batch_size},
            cache=mteb.ResultCache(cache_path=out),
            co2_tracker=False,
        )
    except UserError:
        raise
    except (OSError, RuntimeError, ImportError) as error:  # of the network, the disk, and of a damaged recording
        reason = one_line(error) or type(error).__name__
        raise UserError(f"{', '.join(tasks)}: not evaluated: {reason}") from None
    metrics = {task.metadata.name: str(task.metadata.main_score) for task in found}
    rows = [row for task in result.task_results for row in _scores(task, metrics[task.task_name])]
    return Benchmark(model.name, model.revision, out, rows)


def _check_decoder(tasks: Sequence[Any]) -> None:
    """Refuse tasks whose recordings cannot be decoded, before MTEB downloads them."""
    names = [task.metadata.name for task in tasks if "audio" in task.metadata.modalities]
    if not names:
        return
    from datasets import Audio

    recording = io.BytesIO()
    soundfile.write(recording, torch.zeros(160).numpy(), SAMPLE_RATE, format="WAV")
    try:
        Audio().decode_example({"bytes": recording.getvalue(), "path": None})["array"]
    except (ImportError, OSError, RuntimeError) as error:
        reason = one_line(error).split(". ")[0]
        raise UserError(
            f"{', '.join(names)}: the recordings cannot be decoded ({reason}); install FFmpeg, such as Debian's "
            f"package ffmpeg, and the torchcodec that fits torch {torch.__version__}"
        ) from None


def _check_data(tasks: Sequence[Any]) -> None:
    """Refuse tasks whose data cannot be downloaded now, before MTEB repeats its requests for half a minute."""
    for task in [] if constants.is_offline_mode() else tasks:
        data = task.metadata.dataset
        problem = ask_hub(data["path"], data["revision"], kind="dataset")
        if problem is not None:
            raise UserError(
                f"{task.metadata.name}: its data, {data['path']}, cannot be downloaded: {unreachable_reason(problem)}; "
                "if the data are in the cache, set HF_HUB_OFFLINE=1"
            )


def open_for_mteb(name: str, device: str = "cpu", branch: str | None = None) -> MtebModel:
    """Open a model folder or a hub repo under the name and the revision by which MTEB keeps results."""
    model = load(name, device=device)
    own_name = name if REPO.fullmatch(name) and not Path(name).is_dir() else f"sclip/{model.name}"
    encoders = {"speech": model.speech.fingerprint(), "clip": model.clip.fingerprint()}
    return MtebModel(model, own_name, module_fingerprint(model.head, encoders)[:12], branch)


def _scores(result: Any, metric: str) -> Iterable[TaskScores]:
    for split, subsets in result.scores.items():
        for row in subsets:
            scores = {key: float(value) for key, value in row.items() if isinstance(value, int | float)}
            yield TaskScores(result.task_name, split, row["hf_subset"], metric, scores[metric], scores)


def _mteb() -> Any:
    try:
        import mteb
    except ImportError as error:
        raise UserError(f"MTEB cannot be imported ({error}); run pip install 'mteb[audio,image]'") from None
    return mteb
