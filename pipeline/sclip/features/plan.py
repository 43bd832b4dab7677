"""Estimates of the disk space and the time that a preset's caches need, before anything is computed.

Lengths come from the headers of a sample of the recordings. Speeds come from a few seconds of encoding on this device.
"""

import math
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sclip.concurrency import chunks, prefetch_batches
from sclip.config import FeaturesConfig, Preset
from sclip.corpora.recordings import Recording, decode, inspect
from sclip.corpora.rows import Row
from sclip.device import PRECISIONS, autocast, weights_cast_once
from sclip.encoders.audio import SAMPLE_RATE
from sclip.encoders.clip import ClipEncoder
from sclip.encoders.open import AnySpeechEncoder
from sclip.errors import Fault, UserError, counted, size_text
from sclip.features.embed import IMAGES_AT_ONCE, read_picture
from sclip.features.settings import check_components
from sclip.features.store import CODES

T = TypeVar("T")
ONLINE = "online"  # instead of a precision: states are not stored
SAMPLE = 2_000  # recordings whose headers are read
USUAL_COMPONENTS = 0.25  # of a frame's numbers; used to estimate codes for a preset that sets no features.components
DISK_BYTES = 64_000_000
SPEECH_SECONDS, PICTURE_SECONDS = 7.0, 3.0  # time limits of the measurements


@dataclass(frozen=True)
class Plan:
    utterances: int
    pictures: int
    sampled: int
    seconds: float  # of audio
    relative_error: float  # twice the relative standard error of `seconds`
    frames: float
    states: tuple[int, int]  # number of hidden states, and their width
    storage: str  # how the preset stores states: a precision of PRECISIONS, CODES, or ONLINE
    components: int  # of codes
    compute: str  # the precision that the preset computes in
    training: str  # the precision that the preset trains in
    vector_bytes: int
    free_bytes: int
    cached_bytes: int  # of caches that exist already; an extraction removes what it does not reuse, at its end
    speech_speed: float  # seconds of audio per second
    picture_speed: float  # pictures per second
    disk_speed: float  # bytes read per second
    memory_bytes: int

    def state_bytes(self, storage: str) -> float:
        """Return the size of all hidden states in a form of storage."""
        if storage == ONLINE:
            return 0
        if storage == CODES:
            return self.frames * self.components
        return self.frames * math.prod(self.states) * PRECISIONS[storage].itemsize

    def read_speed(self, storage: str) -> float:
        """Return how many seconds of audio training can read the states of per second.

        The speed is infinite for states that fit in half of the memory, where the operating system caches them.
        """
        if storage == ONLINE:
            return self.speech_speed
        size = self.state_bytes(storage)
        return math.inf if 2 * size < self.memory_bytes else self.disk_speed * self.seconds / size

    @property
    def fastest(self) -> str:
        """Return the form of storage that fits on the disk and reads fastest. Of equals, return the most exact one."""
        forms = ("fp16", CODES, ONLINE)
        fitting = [storage for storage in forms if self.state_bytes(storage) + self.vector_bytes < self.free_bytes]
        return max(fitting or [ONLINE], key=self.read_speed)

    @property
    def needed(self) -> float:
        return self.state_bytes(self.storage) + self.vector_bytes

    @property
    def fits(self) -> bool:
        return self.needed < self.free_bytes


def make_plan(
    preset: Preset,
    rows: Sequence[Row],
    folder: Path,
    speech: AnySpeechEncoder,
    clip: ClipEncoder,
    device: str | torch.device,
) -> Plan:
    """Measure lengths and speeds, and estimate what the caches of a preset with these rows need in `folder`."""
    if preset.features.components is not None:
        check_components(speech, preset.features.components)
    sample = _sample(rows)
    recordings = _readable(sample)
    speech, clip = speech.to(device), clip.to(device)
    utterances = len(rows) * len(recordings) / len(sample)
    samples = torch.tensor([recording.samples for recording in recordings], dtype=torch.long)
    seconds = samples.double() / SAMPLE_RATE
    pictures = list({row.image_id: row.image for row in rows}.values())
    captions = sum(row.text is not None for row in rows)
    return Plan(
        utterances=round(utterances),
        pictures=len(pictures),
        sampled=len(recordings),
        seconds=float(seconds.mean()) * utterances,
        relative_error=_relative_error(seconds) if len(sample) < len(rows) else 0.0,
        frames=float(speech.frames(samples).clamp(min=0).double().mean()) * utterances,
        states=(speech.states, speech.width),
        storage=_storage(preset.features),
        components=preset.features.components or math.ceil(speech.states * speech.width * USUAL_COMPONENTS),
        compute=preset.features.compute,
        training=preset.training.precision,
        vector_bytes=(len(pictures) + captions) * clip.joint_width * 4,
        free_bytes=shutil.disk_usage(_existing(folder)).free,
        cached_bytes=sum(path.stat().st_size for path in folder.glob("*/*.safetensors")),
        speech_speed=_speech_speed(recordings, speech, preset.features, device),
        picture_speed=_picture_speed(_sample(pictures), clip, device),
        disk_speed=_disk_speed(_existing(folder)),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
    )


def _readable(sample: Sequence[Row]) -> list[Recording]:
    """Inspect the recordings of some rows, and return those without a fault."""
    recordings = [r for _, batch in prefetch_batches(chunks(sample, 64), inspect) for r in batch if r.fault is None]
    if not recordings:
        raise UserError(
            f"none of {counted(len(sample), 'recordings')} can be read; run `sclip check-corpus` to see why"
        )
    return recordings


def _relative_error(seconds: Tensor) -> float:
    """Return twice the standard error of the mean, relative to the mean."""
    return float(2 * seconds.std() / seconds.mean()) / math.sqrt(len(seconds)) if len(seconds) > 1 else math.inf


def _storage(features: FeaturesConfig) -> str:
    if features.online:
        return ONLINE
    return features.precision if features.components is None else CODES


def _disk_speed(folder: Path) -> float:
    """Measure how many bytes per second this disk reads, with a temporary file that is not in the memory's cache."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(os.urandom(DISK_BYTES))
            file.flush()
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):  # macOS does not have it, and reads from memory here
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            began = time.monotonic()
            file.read()
            return DISK_BYTES / (time.monotonic() - began)
    except OSError as error:
        raise UserError(
            f"{folder}: the disk's speed is measured with a temporary file of {DISK_BYTES // 10**6} MB in this folder, "
            f"and that failed: {error.strerror}; allow writing there, or free some space"
        ) from None


def _speech_speed(
    recordings: Sequence[Recording], speech: AnySpeechEncoder, config: FeaturesConfig, device: str | torch.device
) -> float:
    """Measure how many seconds of audio the encoder computes per second.

    Like the batches of extraction, these have recordings of similar length; here all are near the median length.
    """
    median = statistics.median(recording.samples for recording in recordings)
    by_distance = sorted(recordings, key=lambda recording: abs(recording.samples - median))
    decoded = (decode(recording, speech.shortest) for recording in by_distance)
    waveforms = (torch.from_numpy(waveform) for waveform in decoded if not isinstance(waveform, Fault))

    def encode(batch: list[Tensor]) -> None:
        with autocast(device, config.compute):
            speech(batch)

    with weights_cast_once(speech, device, config.compute):  # as an extraction does
        return _speed("recordings", waveforms, encode, _seconds, config.batch_seconds, SPEECH_SECONDS, device)


def _seconds(waveform: Tensor) -> float:
    return len(waveform) / SAMPLE_RATE


def _picture_speed(paths: Sequence[Path], clip: ClipEncoder, device: str | torch.device) -> float:
    """Measure how many pictures CLIP embeds per second."""
    pixels = (x for path in paths if isinstance(x := read_picture(path, clip), Tensor))
    return _speed("pictures", pixels, clip.encode_image, lambda _: 1.0, IMAGES_AT_ONCE, PICTURE_SECONDS, device)


@torch.inference_mode()
def _speed(
    title: str,
    items: Iterator[Tensor],
    encode: Callable[[list[Tensor]], Any],
    weight: Callable[[Tensor], float],
    largest: float,
    seconds: float,
    device: str | torch.device,
) -> float:
    """Return the speed of the fastest batch: the sum of its items' weights per second.

    An item's weight is its seconds of audio, or 1 for a picture. Batches double in size up to a weight of `largest`,
    until `seconds` have passed or the items have run out. `title` says what the items are.
    """
    stop, speeds = time.monotonic() + seconds, list[float]()
    with tqdm(desc=title, unit="batch", disable=None) as bar:
        while time.monotonic() < stop:
            batch = _take(items, 2 ** len(speeds), weight, largest)
            if not batch:
                break
            began = time.monotonic()
            encode(batch)
            if torch.device(device).type == "cuda":
                torch.cuda.synchronize(device)
            speeds.append(sum(map(weight, batch)) / (time.monotonic() - began))
            bar.update()
    if not speeds:
        raise UserError(f"none of the sampled {title} can be read; run `sclip check-corpus` to see why")
    return max(speeds)


def _take(items: Iterator[Tensor], count: int, weight: Callable[[Tensor], float], largest: float) -> list[Tensor]:
    """Take the next `count` items, or fewer if their weight reaches `largest` or no item is left."""
    batch: list[Tensor] = []
    while len(batch) < count and sum(map(weight, batch)) < largest and (item := next(items, None)) is not None:
        batch.append(item)
    return batch


def as_data(plan: Plan) -> dict[str, Any]:
    """Return a plan as plain data, with what follows from its numbers."""
    forms = (*PRECISIONS, CODES, ONLINE)
    return {
        **vars(plan),
        "state_bytes": {form: plan.state_bytes(form) for form in forms},
        "needed_bytes": plan.needed,
        "fits": plan.fits,
        "speech_seconds": plan.seconds / plan.speech_speed,
        "picture_seconds": plan.pictures / plan.picture_speed,
        "read_speed": {form: plan.read_speed(form) for form in forms},  # infinite from memory
        "fastest": plan.fastest,
    }


def describe_plan(plan: Plan, preset: str, folder: Path, device: str) -> Iterator[str]:
    """Yield the lines that `sclip plan` prints. `folder` is on the disk that holds the caches."""
    yield from _describe_sizes(plan, preset, folder)
    speech, pictures = plan.seconds / plan.speech_speed, plan.pictures / plan.picture_speed
    yield f"on {device}: speech at {plan.speech_speed:,.1f} times real time, {_duration(speech)};"
    yield f"    {plan.picture_speed:,.0f} pictures per second, {_duration(pictures)}"
    if device == "cpu" and plan.compute == "fp16":
        yield f"A CPU computes far slower in fp16 than in fp32: set presets.{preset}.features.compute to fp32"
    if device == "cpu" and plan.training == "fp16":
        yield f"Training in fp16 needs a GPU: on a CPU set presets.{preset}.training.precision to fp32 or bf16"
    yield f"speed of reading states, in times real time: {_read_speeds(plan)}"
    settings = {"fp16": "precision: fp16", CODES: f"components: {plan.components}", ONLINE: "online: true"}
    setting = settings[plan.fastest]
    if not plan.fits:
        yield (
            f"The caches do not fit: they need {size_text(plan.needed)}, and {size_text(plan.free_bytes)} are free. "
            f"Make data/{preset} a link to a larger disk, or set presets.{preset}.features to {setting}"
        )
    elif plan.read_speed(plan.fastest) > plan.read_speed(plan.storage):
        yield f"Fastest for training on this machine: presets.{preset}.features with {setting}"


def _describe_sizes(plan: Plan, preset: str, folder: Path) -> Iterator[str]:
    sampled = f"{plan.sampled:,} of them measured" if plan.sampled < plan.utterances else "all measured"
    states, width = plan.states
    yield f"{counted(plan.utterances, 'utterances')} ({sampled}), {counted(plan.pictures, 'pictures')}"
    error = f" ± {100 * plan.relative_error:.1f} %" if plan.relative_error else ""
    yield f"{plan.seconds / 3600:,.2f} hours{error}, {plan.frames:,.0f} frames"
    yield f"{states} hidden states of {width} numbers per frame, stored in data/{preset}/features:"
    for storage, name in [
        *((precision, precision) for precision in PRECISIONS),
        (CODES, f"{plan.components} components"),
    ]:
        key = "components" if storage == CODES else "precision"
        chosen = f"   as features.{key} says in presets.{preset}" if storage == plan.storage else ""
        yield f"  {name}  {size_text(plan.state_bytes(storage))}{chosen}"
    yield f"vectors of pictures and captions: {size_text(plan.vector_bytes)}"
    yield f"free on the disk of {folder}: {size_text(plan.free_bytes)}"
    if plan.cached_bytes:
        yield f"already there in {folder}: {size_text(plan.cached_bytes)}; shards of equal settings are used again"


def _read_speeds(plan: Plan) -> str:
    names = {"fp16": "fp16", CODES: f"{plan.components} components", ONLINE: "online"}
    speeds = {storage: plan.read_speed(storage) for storage in names}
    return "; ".join(
        f"{names[storage]}: {'from memory, without a limit' if speed == math.inf else f'{speed:,.0f}'}"
        for storage, speed in speeds.items()
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 90 * 60 else f"about {seconds / 3600:.1f} hours"


def _sample(items: Sequence[T]) -> list[T]:
    """Return SAMPLE items, evenly spaced; all items if there are no more than that."""
    return [items[i * len(items) // SAMPLE] for i in range(SAMPLE)] if len(items) > SAMPLE else list(items)


def _existing(path: Path) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
