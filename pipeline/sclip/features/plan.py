"""What a preset will take before anything runs: how much is read, how much is kept, and about how long it will be.

Lengths come from the headers of a sample of the recordings, speeds from a few seconds of work on this device.
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
from sclip.corpora.make import find_rows
from sclip.corpora.recordings import Recording, decode, inspect
from sclip.device import PRECISIONS, autocast
from sclip.encoders.audio import SAMPLE_RATE
from sclip.encoders.clip import ClipEncoder
from sclip.encoders.open import AnySpeechEncoder
from sclip.errors import Problems, UserError
from sclip.features.embed import IMAGES_AT_ONCE, read_picture
from sclip.features.store import CODES

T = TypeVar("T")
ONLINE = "online"  # a way to keep states: not at all
SAMPLE = 2_000  # recordings whose lengths are looked up
USUAL_COMPONENTS = 0.25  # of a frame's numbers: where a preset keeps states, what codes would take instead
DISK_BYTES = 64_000_000
SPEECH_SECONDS, PICTURE_SECONDS = 7.0, 3.0  # of measuring


@dataclass(frozen=True)
class Plan:
    utterances: int
    pictures: int
    sampled: int
    seconds: float  # of audio
    doubt: float  # twice the standard error of `seconds`, as a share of it
    frames: float
    states: tuple[int, int]  # hidden states, and their width
    kept: str  # what the preset keeps: a precision of PRECISIONS, CODES, or ONLINE
    components: int  # of codes
    compute: str  # the precision that the preset computes in
    vector_bytes: int
    free_bytes: int
    speech_speed: float  # seconds of audio a second
    picture_speed: float  # pictures a second
    disk_speed: float  # bytes read a second
    memory_bytes: int

    def bytes(self, kept: str) -> float:
        """Of hidden states, in a precision, or coded, or not kept."""
        if kept == ONLINE:
            return 0
        if kept == CODES:
            return self.frames * self.components
        return self.frames * math.prod(self.states) * PRECISIONS[kept].itemsize

    def pace(self, kept: str) -> float:
        """Seconds of audio whose states are had in a second. What half of the memory holds, the system keeps there."""
        if kept == ONLINE:
            return self.speech_speed
        return (
            math.inf if 2 * self.bytes(kept) < self.memory_bytes else self.disk_speed * self.seconds / self.bytes(kept)
        )

    @property
    def best(self) -> str:
        """What fits and is had soonest; of equals, what loses least."""
        ways = [kept for kept in ("fp16", CODES, ONLINE) if self.bytes(kept) + self.vector_bytes < self.free_bytes]
        return max(ways or [ONLINE], key=self.pace)

    @property
    def needed(self) -> float:
        return self.bytes(self.kept) + self.vector_bytes

    @property
    def fits(self) -> bool:
        return self.needed < self.free_bytes


def make_plan(
    preset: Preset,
    manifest: Path,
    speech: AnySpeechEncoder,
    clip: ClipEncoder,
    device: str | torch.device,
    problems: Problems,
) -> Plan:
    rows, _ = find_rows(preset.corpus, manifest, problems)
    sample = _spread(rows, SAMPLE)
    recordings = [r for _, read in prefetch_batches(chunks(sample, 64), inspect) for r in read if r.fault is None]
    if not recordings:
        raise UserError(f"none of {len(sample)} recordings can be read; `sclip check-corpus` says why")
    speech, clip = speech.to(device), clip.to(device)
    utterances = len(rows) * len(recordings) / len(sample)
    samples = torch.tensor([recording.samples for recording in recordings], dtype=torch.long)
    seconds = samples.double() / SAMPLE_RATE
    doubt = float(2 * seconds.std() / seconds.mean()) / math.sqrt(len(seconds)) if len(seconds) > 1 else math.inf
    pictures = list({row.image_id: row.image for row in rows}.values())
    captions = sum(row.text is not None for row in rows)
    return Plan(
        utterances=round(utterances),
        pictures=len(pictures),
        sampled=len(recordings),
        seconds=float(seconds.mean()) * utterances,
        doubt=doubt,
        frames=float(speech.frames(samples).clamp(min=0).double().mean()) * utterances,
        states=(speech.states, speech.width),
        kept=_kept(preset.features),
        components=preset.features.components or math.ceil(speech.states * speech.width * USUAL_COMPONENTS),
        compute=preset.features.compute,
        vector_bytes=(len(pictures) + captions) * clip.joint_width * 4,
        free_bytes=shutil.disk_usage(_existing(manifest)).free,
        speech_speed=_speech_speed(recordings, speech, preset.features, device),
        picture_speed=_picture_speed(_spread(pictures, SAMPLE), clip, device),
        disk_speed=_disk_speed(_existing(manifest)),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
    )


def _kept(features: FeaturesConfig) -> str:
    if features.online:
        return ONLINE
    return features.precision if features.components is None else CODES


def _disk_speed(folder: Path) -> float:
    """Bytes a second, of a file that memory has forgotten. Nothing stays."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(os.urandom(DISK_BYTES))
        file.flush()
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):  # macOS has none, and reads from memory here
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        began = time.monotonic()
        file.read()
        return DISK_BYTES / (time.monotonic() - began)


def _speech_speed(
    recordings: Sequence[Recording], speech: AnySpeechEncoder, config: FeaturesConfig, device: str | torch.device
) -> float:
    """Seconds of audio a second. Extraction's batches are of like length; here they are all of about the middle one."""
    middle = statistics.median(recording.samples for recording in recordings)
    usual = sorted(recordings, key=lambda recording: abs(recording.samples - middle))
    waveforms = (x for recording in usual if isinstance(x := decode(recording, speech.shortest), Tensor))

    def encode(batch: list[Tensor]) -> None:
        with autocast(device, config.compute):
            speech(batch)

    return _speed("speech", waveforms, encode, _seconds, config.batch_seconds, SPEECH_SECONDS, device)


def _seconds(waveform: Tensor) -> float:
    return len(waveform) / SAMPLE_RATE


def _picture_speed(paths: Sequence[Path], clip: ClipEncoder, device: str | torch.device) -> float:
    """Pictures a second"""
    pixels = (x for path in paths if isinstance(x := read_picture(path, clip), Tensor))
    return _speed("pictures", pixels, clip.encode_image, lambda _: 1.0, IMAGES_AT_ONCE, PICTURE_SECONDS, device)


@torch.inference_mode()
def _speed(
    what: str,
    items: Iterator[Tensor],
    encode: Callable[[list[Tensor]], Any],
    weight: Callable[[Tensor], float],
    most: float,
    seconds: float,
    device: str | torch.device,
) -> float:
    """Weight a second, of the fastest batch: they double up to `most` while there is time, the last may be a rest."""
    stop, speeds = time.monotonic() + seconds, list[float]()
    with tqdm(desc=what, unit="batch", disable=None) as bar:
        while time.monotonic() < stop:
            batch: list[Tensor] = []
            size = 2 ** len(speeds)
            while len(batch) < size and sum(map(weight, batch)) < most and (item := next(items, None)) is not None:
                batch.append(item)
            if not batch:
                break
            began = time.monotonic()
            encode(batch)
            if torch.device(device).type == "cuda":
                torch.cuda.synchronize()
            speeds.append(sum(map(weight, batch)) / (time.monotonic() - began))
            bar.update()
    return max(speeds, default=math.nan)


def describe_plan(plan: Plan, preset: str, place: Path, device: str) -> Iterator[str]:
    sampled = f"{plan.sampled:,} of them looked at" if plan.sampled < plan.utterances else "all looked at"
    states, width = plan.states
    yield f"{plan.utterances:,} utterances ({sampled}), {plan.pictures:,} pictures"
    yield f"{plan.seconds / 3600:,.2f} hours ± {100 * plan.doubt:.1f} %, {plan.frames:,.0f} frames"
    yield f"{states} hidden states of {width} numbers a frame, kept in data/{preset}/features:"
    for kept, name in [*((kept, kept) for kept in PRECISIONS), (CODES, f"{plan.components} components")]:
        key = "components" if kept == CODES else "precision"
        chosen = f"   as features.{key} says in presets.{preset}" if kept == plan.kept else ""
        yield f"  {name}  {_size(plan.bytes(kept))}{chosen}"
    yield f"vectors of pictures and captions: {_size(plan.vector_bytes)}"
    yield f"free on the disk of {place}: {_size(plan.free_bytes)}"
    speech, pictures = plan.seconds / plan.speech_speed, plan.pictures / plan.picture_speed
    yield f"on {device}: speech at {plan.speech_speed:,.1f} times real time, {_duration(speech)};"
    yield f"    {plan.picture_speed:,.0f} pictures a second, {_duration(pictures)}"
    if device == "cpu" and plan.compute == "fp16":
        yield f"A CPU computes far slower in fp16 than in fp32: set presets.{preset}.features.compute to fp32"
    yield f"states are had, in times real time: {_paces(plan)}"
    setting = {"fp16": "precision: fp16", CODES: f"components: {plan.components}", ONLINE: "online: true"}[plan.best]
    if not plan.fits:
        yield (
            f"It will not fit: {_size(plan.needed)} of {_size(plan.free_bytes)}. Make data/{preset} a link to a larger "
            f"disk, or set presets.{preset}.features to {setting}"
        )
    elif plan.pace(plan.best) > plan.pace(plan.kept):
        yield f"Fastest to train from here: presets.{preset}.features with {setting}"


def _paces(plan: Plan) -> str:
    names = {"fp16": "fp16", CODES: f"{plan.components} components", ONLINE: "online"}
    paces = {kept: plan.pace(kept) for kept in names}
    return ", ".join(
        f"{names[kept]} {'at once, from memory' if pace == math.inf else f'{pace:,.0f}'}"
        for kept, pace in paces.items()
    )


def _size(count: float) -> str:
    return f"{count / 1e9:,.2f} GB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 90 * 60 else f"about {seconds / 3600:.1f} hours"


def _spread(items: Sequence[T], count: int) -> list[T]:
    """So many, evenly out of all."""
    return [items[i * len(items) // count] for i in range(count)] if len(items) > count else list(items)


def _existing(path: Path) -> Path:
    """The nearest folder above that is there."""
    return next(folder for folder in path.resolve().parents if folder.is_dir())
