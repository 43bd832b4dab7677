"""Find the keywords of recordings of any length, with times and scores.

A recording of up to 20 seconds, or up to the length of a window if that is more, is not cut: its keywords are those of
`model.keywords`, in order of time. A longer one is read in windows of a few seconds (encoders/windows.py), because
models are trained with captions: over a long time, the weights that CIF sums up drift away from the words. All times
are those of the whole recording. Near a joint, a keyword that two windows find is reported once. The earlier window
gives its keywords whose middle lies before the joint. The later window gives its keywords that do not repeat one of
these.
"""

import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from sclip.encoders.audio import LONGEST_SECONDS, SAMPLE_RATE, is_silent
from sclip.encoders.waveforms import measure
from sclip.encoders.windows import Window, read_windows
from sclip.errors import UserError
from sclip.heads.head import HeadOutput
from sclip.model.inputs import AudioInput, check_several, recordings
from sclip.model.loading import load
from sclip.model.pieces import Piece, warn_of_lost_keywords
from sclip.model.speechclip import SpeechCLIP

log = logging.getLogger(__name__)

WHOLE_SECONDS = 20.0  # a recording of at most this duration is not cut
# With 40 test captions of `scenes` in a row, 50 % of the keywords of windows of 8 s were words of the caption
# at that time, 41 % of those of windows of 20 s, and 56 % if each caption was a recording of its own.
WINDOW_SECONDS, SHORTEST_WINDOW = 8.0, 5.0
BATCH_SIZE = 8  # windows are long, and encoders of the papers' sizes have gigabytes of hidden states for a few of them
REPEATED = 0.5  # a later keyword is the same as an earlier one if they share more than this part of the shorter one


@dataclass(frozen=True)
class Word:
    """A keyword, and when it is said, in seconds."""

    start: float
    end: float
    slot: int  # its place among the keywords of its window
    pieces: tuple[Piece, ...]  # the nearest pieces of CLIP's vocabulary, best first

    @property
    def text(self) -> str:
        """Return the best piece, which is the keyword."""
        return self.pieces[0].text

    @property
    def score(self) -> float:
        """Return the cosine of the best piece."""
        return self.pieces[0].score

    @property
    def middle(self) -> float:
        return (self.start + self.end) / 2


@dataclass(frozen=True)
class FoundKeywords:
    """The keywords of one recording."""

    name: str
    seconds: float  # the recording's duration
    words: list[Word]  # in order of time, within the recording
    frame_seconds: float
    alpha: NDArray[np.float32] | None  # (T,): CIF's weight of each frame; None without CIF
    firings: list[float]  # the times at which CIF fires; empty without CIF

    @property
    def has_segments(self) -> bool:
        """Return whether the keywords are CIF's, which follow one another without gaps."""
        return self.alpha is not None

    @property
    def segments(self) -> list[Word]:
        """Return the keywords without overlap. A frame that two of them share belongs to the earlier one."""
        apart, end = [], 0.0
        for word in self.words:
            start = max(end, word.start)
            if start < word.end:
                apart.append(replace(word, start=start))
                end = word.end
        return apart


@dataclass(frozen=True)
class _Part(AudioInput):
    """A window as the model's input, with the recording that it is a part of."""

    recording: str = field(kw_only=True)  # its name
    place: int = field(kw_only=True)  # of the recording among all
    window: Window = field(kw_only=True)


@dataclass(frozen=True)
class _WindowKeywords:
    """Hold the keywords of one window. All times are in seconds of the recording."""

    recording: str
    place: int
    start: float
    end: float
    joint: float | None
    is_silent: bool
    words: list[Word]
    alpha: NDArray[np.float32] | None
    firings: list[float]


def keywords(
    model: str | Path | SpeechCLIP,
    audio: Iterable[Any],
    *,
    sample_rate: int = SAMPLE_RATE,
    top: int = 5,
    window: float = WINDOW_SECONDS,
    on_error: Literal["fail", "skip"] = "fail",
    progress: bool = False,
) -> Iterator[FoundKeywords]:
    """Return the keywords of each recording, in the given order, as they are found.

    `model` is a model, or what `sclip.load` takes. `audio` holds what `model.encode_speech` takes, of any length. `top`
    is the number of nearest pieces of each keyword, itself included. A recording longer than 20 seconds, and longer
    than `window`, is read in windows of `window` seconds; a model with a fixed number of slots finds this number of
    keywords in each. With `on_error="skip"`, a recording that cannot be used, such as a silent one, is logged and left
    out. `progress` shows a bar.
    """
    check_several(audio, 1)
    if on_error not in ("fail", "skip"):
        raise UserError(f"on_error: expected fail or skip, found {on_error!r}")
    model = _opened(model)
    model.check_keywords(top)
    check_window(window)
    return _stream(model, recordings(audio, sample_rate), top, window, on_error == "skip", progress)


def segment(model: str | Path | SpeechCLIP, audio: Iterable[Any], **options: Any) -> Iterator[FoundKeywords]:
    """Return the keywords of each recording by a model with CIF, whose `segments` lie between CIF's firings.

    `options` are those of `keywords`.
    """
    model = _opened(model)
    check_segments(model)
    return keywords(model, audio, **options)


def _opened(model: str | Path | SpeechCLIP) -> SpeechCLIP:
    return model if isinstance(model, SpeechCLIP) else load(model)


def check_window(seconds: float) -> None:
    """Refuse windows that the model cannot take, or that are too short to hold a few words."""
    if not SHORTEST_WINDOW <= seconds <= LONGEST_SECONDS:
        raise UserError(f"window: expected {SHORTEST_WINDOW:g} to {LONGEST_SECONDS:g} seconds, found {seconds:g}")


def check_segments(model: SpeechCLIP) -> None:
    """Refuse a model without CIF."""
    if model.head.cif is None:
        raise UserError(
            f"architecture {model.name}: has no CIF, which cuts a recording into segments; use a model whose "
            "architecture has it, such as hybrid-cif or cascaded-cif"
        )


def _stream(
    model: SpeechCLIP, given: Iterator[AudioInput], top: int, window: float, skip: bool, progress: bool
) -> Iterator[FoundKeywords]:
    failed: set[int] = set()
    parts = _parts(model, given, window, failed, skip)
    with tqdm(unit=" s", unit_scale=True, disable=not progress) as bar:
        in_order = _in_order(model, parts, top, bar)
        for place, group in groupby(in_order, lambda window: window.place):
            windows = list(group)
            if place in failed:
                continue
            if all(window.is_silent for window in windows):  # a long recording; a short one was refused before
                _refuse(UserError(f"{windows[0].recording}: silent; expected a recording with speech"), skip)
                continue
            yield _join(windows, model.frame_seconds)


def _refuse(error: UserError, skip: bool) -> None:
    """Raise the error of a recording that cannot be used, or with `skip` log that it is left out."""
    if not skip:
        raise error
    log.warning("%s; left out", error)


def _parts(
    model: SpeechCLIP, given: Iterator[AudioInput], window: float, failed: set[int], skip: bool
) -> Iterator[_Part]:
    """Yield the windows of all recordings, decoded. Add the places of those that cannot be used to `failed`."""
    frame, size = round(model.frame_seconds * SAMPLE_RATE), int(window * SAMPLE_RATE)  # in samples
    for place, recording in enumerate(given):
        try:
            count, rate = measure(recording.audio, recording.rate, recording.name)
            if count <= max(window, WHOLE_SECONDS) * rate:
                yield _part(Window(0, recording.usable(model.speech).audio, None), recording.name, place)
                continue
            peak = 0.0
            for part in read_windows(recording.audio, recording.rate, recording.name, size, frame):
                if not is_silent(part.waveform):
                    peak = max(peak, float(part.waveform.abs().max()))
                yield _part(part, recording.name, place)
            if peak:  # a silent recording is refused by `_stream`
                recording.warn_if_quiet(peak, model.speech)
        except UserError as error:
            _refuse(error, skip)
            failed.add(place)


def _part(window: Window, recording: str, place: int) -> _Part:
    is_whole = window.start == 0 and window.joint is None
    name = recording if is_whole else f"{recording} at {window.start / SAMPLE_RATE:.0f} s"  # for messages
    return _Part(window.waveform, SAMPLE_RATE, name, True, recording=recording, place=place, window=window)


def _in_order(model: SpeechCLIP, parts: Iterator[_Part], top: int, bar: "tqdm[Any]") -> Iterator[_WindowKeywords]:
    """Yield what the model finds in each window, in the order of the windows, not in that of the batches."""
    waiting: dict[int, _WindowKeywords] = {}
    following = 0
    for indices, batch, output in model.run(parts, batch_size=BATCH_SIZE):
        warn_of_lost_keywords(batch, output)
        waiting |= zip(indices, _of_batch(model, batch, output, top), strict=True)
        while following in waiting:
            window = waiting.pop(following)
            following += 1
            bar.update((window.end if window.joint is None else window.joint) - window.start)
            yield window


def _of_batch(model: SpeechCLIP, batch: list[AudioInput], output: HeadOutput, top: int) -> Iterator[_WindowKeywords]:
    """Yield what the head's output says of each window of a batch."""
    seconds = model.frame_seconds
    spans = output.slot_times(seconds).spans.tolist()
    for b, slots in enumerate(model.keywords_of(output, top)):
        part = batch[b]
        assert isinstance(part, _Part)
        window = part.window
        offset = window.start / SAMPLE_RATE
        words = [
            Word(offset + start, offset + end, k, slot.pieces)
            for k, (slot, (start, end)) in enumerate(zip(slots, spans[b][: len(slots)], strict=True))
        ]
        words.sort(key=lambda word: (word.start, word.end))
        alpha, firings = None, []
        if output.cif is not None:
            frames = model.speech.frames(torch.tensor(len(window.waveform)))
            count = -(-int(frames) // model.architecture.head.pool_frames)
            alpha = output.cif.firing.alpha[b, :count].cpu().numpy().copy()
            fired = output.cif.firing.fired[b].nonzero().flatten().tolist()
            firings = [offset + (frame + 1) * seconds for frame in fired]
        joint = None if window.joint is None else window.joint / SAMPLE_RATE
        silent, end = is_silent(window.waveform), window.end / SAMPLE_RATE
        yield _WindowKeywords(part.recording, part.place, offset, end, joint, silent, words, alpha, firings)


def _join(windows: list[_WindowKeywords], frame_seconds: float) -> FoundKeywords:
    """Combine the windows of one recording."""
    first, end = windows[0], windows[-1].end
    has_cif = first.alpha is not None
    alpha = np.zeros(math.ceil(end / frame_seconds - 1e-6), np.float32) if has_cif else None
    words: list[Word] = []
    firings: set[float] = set()
    spoken = [window for window in windows if not window.is_silent]
    for window in spoken:
        until = math.inf if window.joint is None else window.joint
        near = [word for word in words if word.end > window.start]
        own = [word for word in window.words if word.middle < until and not _is_repeated(word, near, has_cif)]
        ends = {round(word.end, 6) for word in own}
        words += own
        firings |= {time for time in window.firings if len(windows) == 1 or round(time, 6) in ends}
        if alpha is not None and window.alpha is not None:
            frame = round(window.start / frame_seconds)
            alpha[frame : frame + len(window.alpha)] = window.alpha[: len(alpha) - frame]
    if len(spoken) < len(windows):
        silent = len(windows) - len(spoken)
        log.warning("%s: %d of %d windows are silent and have no keywords", first.recording, silent, len(windows))
    # The last frame may end after the recording.
    within = [replace(word, start=min(word.start, end), end=min(word.end, end)) for word in words]
    within.sort(key=lambda word: (word.start, word.end))
    return FoundKeywords(first.recording, end, within, frame_seconds, alpha, sorted(min(time, end) for time in firings))


def _is_repeated(word: Word, earlier: list[Word], has_cif: bool) -> bool:
    """Return whether an earlier window has found this keyword: at the same time, and without CIF also the same token.

    CIF's keywords have a time of their own each. Fixed slots may share it.
    """
    return any(
        min(word.end, other.end) - max(word.start, other.start)
        > REPEATED * min(word.end - word.start, other.end - other.start)
        and (has_cif or word.pieces[0].token == other.pieces[0].token)
        for other in earlier
    )
