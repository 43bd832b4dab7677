"""Synthesise English sentences with espeak-ng, with the exact time of each word and phone.

espeak carries state from one utterance to the next: the phase of its pitch flutter, the random numbers of breath, the
filters of its Klatt voices. With one loaded library, the same call would give different samples each time. `speak`
therefore reloads the library for every utterance, which takes a third of a millisecond. Equal calls then give equal
samples, in any order and any process. Do not use several threads: a process has one copy of the library.
"""

import _ctypes
import ctypes
import math
import re
import shutil
import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, NamedTuple

import espeakng_loader  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from sclip.errors import UserError

SAMPLE_RATE = 16_000
RATES = range(80, 401)  # words per minute; for faster speech, espeak compresses the sound but not the event times
PITCHES = range(100)
MARGIN = 0.05  # seconds of silence before the first word and after the last

# espeak's language codes and their files. Shavian (en-shaw) is left out because it reads another alphabet. New York
# (en-us-nyc) and the West Midlands (en-gb-x-gbcwmd) give no time for some words, such as "human" and "mounted".
LANGUAGES = {
    "en-029": "en-029",
    "en-gb": "en",
    "en-gb-scotland": "en-GB-scotland",
    "en-gb-x-gbclan": "en-GB-x-gbclan",
    "en-gb-x-rp": "en-GB-x-rp",
    "en-us": "en-US",
}
# Variants that are left out, because of their names or definitions, or of measurements with a sentence of 17 words.
UNUSABLE = {
    "whispering": {"caleb", "whisper", "whisperf"},
    "robots and monsters": {"Demonic", "UniRobot", "anikaRobot", "announcer", "robosoft"}
    | {f"robosoft{n}" for n in range(2, 9)},
    "not the same twice, even in a fresh library": {"Reed"},
    "fewer than 55% of loud frames periodic": {"croak", "grandpa", "klatt", "klatt2"},
    "loud echo over the next word": {"Alicia", "Marco", "RicishayMax", "RicishayMax2", "RicishayMax3"},
    "a fifth slower than the rest": {"AnxiousAndy"},
    "as the plain voice; within 1 dB of adam, of steph2": {"fast", "klatt6", "steph3"},
    "more than 0.2% of samples clipped": {"Jacky", "antonio", "ed", "iven", "paul"},
}


@dataclass(frozen=True)
class Word:
    text: str
    start: float  # seconds, as in Phone
    end: float


@dataclass(frozen=True)
class Phone:
    text: str  # espeak's mnemonic, without stress
    start: float
    end: float  # equals start if espeak merges a final l or r into the vowel before it


@dataclass(frozen=True, order=True)
class Voice:
    language: str  # a key of LANGUAGES
    variant: str  # "" is the language's plain voice

    @property
    def name(self) -> str:
        return f"{self.language}+{self.variant}" if self.variant else self.language


@dataclass(frozen=True, eq=False)
class Speech:
    samples: NDArray[np.float32]  # (N,) at 16 kHz
    words: tuple[Word, ...]
    phones: tuple[Phone, ...]


class Synthesiser:
    """A synthesiser of English speech. A process needs one; a forked child may use that of its parent."""

    def __init__(self) -> None:
        self._data = _lower_case_data()
        Finalize(self, shutil.rmtree, (self._data, True), exitpriority=0)  # runs in worker processes too, unlike atexit

    def voices(self) -> list[Voice]:
        """Return all languages with all usable variants, sorted."""
        return sorted(self._voices)

    def speak(self, text: str, voice: Voice, rate: int, pitch: int, pitch_range: int = 50) -> Speech:
        """Synthesise a text, with `rate` in words per minute, and `pitch` and `pitch_range` in 0..99."""
        assert rate in RATES and pitch in PITCHES and pitch_range in PITCHES
        if voice not in self._voices:
            raise UserError(f"voice {voice.name}: unknown or left out; choose one of Synthesiser.voices()")
        text = " ".join(text.split())
        with _fresh_library(self._data) as library:
            sound, events = _record(library, _unmerged(text), voice, {1: rate, 3: pitch, 4: pitch_range})
        words, phones = _align(events, text)
        if len(words) < len(re.findall(r"\S*\w\S*", text)) or not words:
            spoken = " ".join(word.text for word in words)
            raise UserError(
                f"text {text!r}: expected words that {voice.name} speaks, each with a time; found {spoken!r}"
            )
        return _trim(np.frombuffer(sound, np.int16), words, phones)

    @cached_property
    def _voices(self) -> frozenset[Voice]:
        variants = {file.name for file in (self._data / "voices" / "!v").iterdir()}.difference(*UNUSABLE.values())
        return frozenset(Voice(*pair) for pair in product(LANGUAGES, variants | {""}))


# ---- espeak-ng's speak_lib.h


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _RawEvent(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_RawEvent))
_LIST_TERMINATED, _WORD, _PHONEME = 0, 1, 7
_AUDIO_OUTPUT_SYNCHRONOUS, _PHONEME_EVENTS, _CHARS_UTF8 = 2, 1, 1
_ESPEAK_RATE = 22_050
_BUFFER = 2000  # ms; a larger buffer means fewer callbacks


class _Event(NamedTuple):
    kind: int
    sample: int
    character: int  # position in the text, from 0; for words
    phone: str


def _lower_case_data() -> Path:
    """Make a folder of links to espeak's data, with an extra link for each language code in lower case.

    espeak converts a voice's name to lower case before it opens the file. It then does not find en-US and reads all
    voices, which takes longer than speaking a sentence.
    """
    original = Path(espeakng_loader.get_data_path())
    data = Path(tempfile.mkdtemp(prefix="sclip-voices-"))
    (data / "lang").mkdir()
    for entry in original.iterdir():
        if entry.name != "lang":
            (data / entry.name).symlink_to(entry)
    for entry in (original / "lang").iterdir():
        (data / "lang" / entry.name).symlink_to(entry)
    for code, file in LANGUAGES.items():
        (data / "lang" / code).symlink_to(original / "lang" / "gmw" / file)
    return data


@contextmanager
def _fresh_library(data: Path) -> Iterator[ctypes.CDLL]:
    """Load and initialise the library, and unload it afterwards."""
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        rate = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, _BUFFER, bytes(data), _PHONEME_EVENTS)
        assert rate == _ESPEAK_RATE, f"espeak-ng does not start: expected the sample rate {_ESPEAK_RATE}, found {rate}"
        library.espeak_ng_SetRandSeed(ctypes.c_long(0))  # the default is the time of day
        yield library
        library.espeak_Terminate()
    finally:
        _ctypes.dlclose(library._handle)


def _record(library: ctypes.CDLL, text: str, voice: Voice, parameters: dict[int, int]) -> tuple[bytes, list[_Event]]:
    """Return 16-bit samples and the events of words and phones."""
    chunks: list[bytes] = []
    events: list[_Event] = []

    def receive(samples: int | None, count: int, raw: Any) -> int:
        if samples:
            chunks.append(ctypes.string_at(samples, 2 * count))
        for event in raw:
            if event.type == _LIST_TERMINATED:
                break
            phone = event.id.string.decode() if event.type == _PHONEME else ""
            events.append(_Event(event.type, event.sample, event.text_position - 1, phone))
        return 0

    callback = _CALLBACK(receive)
    library.espeak_SetSynthCallback(callback)
    failed = library.espeak_SetVoiceByName(voice.name.encode())
    for parameter, value in parameters.items():
        failed |= library.espeak_SetParameter(parameter, value, 0)
    encoded = text.encode()
    size = ctypes.c_size_t(len(encoded) + 1)
    failed |= library.espeak_Synth(encoded, size, 0, 1, 0, _CHARS_UTF8, None, None)
    assert not failed, f"espeak-ng refuses {voice.name} {parameters} {text!r}"
    return b"".join(chunks), events


# ---- words and phones from events


def _unmerged(text: str) -> str:
    """Replace spaces by no-break spaces, so that espeak does not merge "of the" and others into one word.

    A space after punctuation remains, because it ends a clause.
    """
    return re.sub(r"(?<=\w) ", "\u00a0", text)


def _align(events: list[_Event], text: str) -> tuple[list[Word], list[Phone]]:
    """Compute the words and phones of a recording, with times in seconds.

    A phone lasts until the next event. A word lasts from its event to the end of its last phone; its event comes before
    the closure of a stop. A word after a pause starts with its first phone.
    """
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    starts = [start for start, _ in spans]
    times: dict[int, tuple[int, int]] = {}  # number of the word in the text -> first and last sample
    phones: list[Phone] = []
    token = begin = -1
    after_pause = True
    for event, following in pairwise(events):
        if event.kind == _WORD:
            token, begin = bisect_right(starts, event.character) - 1, event.sample
        elif event.kind == _PHONEME and event.phone.startswith("_"):
            after_pause = True
        elif event.kind == _PHONEME:
            first, _ = times.get(token, (event.sample if after_pause else begin, 0))
            times[token] = first, following.sample
            phones.append(Phone(event.phone.lstrip("',"), event.sample / _ESPEAK_RATE, following.sample / _ESPEAK_RATE))
            after_pause = False
    words = [
        Word(_strip_punctuation(text[slice(*spans[token])]), start / _ESPEAK_RATE, end / _ESPEAK_RATE)
        for token, (start, end) in times.items()
    ]
    assert all(word.start < word.end for word in words), words
    assert all(a.end <= b.start for a, b in pairwise(words)), words
    return words, phones


def _strip_punctuation(token: str) -> str:
    return re.sub(r"^\W+|\W+$", "", token) or token


def _trim(sound: NDArray[np.int16], words: list[Word], phones: list[Phone]) -> Speech:
    begin = max(0, round((words[0].start - MARGIN) * _ESPEAK_RATE))
    end = round((words[-1].end + MARGIN) * _ESPEAK_RATE)
    shift = begin / _ESPEAK_RATE
    return Speech(
        _resample(sound[begin:end] * np.float32(2**-15)),
        tuple(Word(word.text, word.start - shift, word.end - shift) for word in words),
        tuple(Phone(phone.text, phone.start - shift, phone.end - shift) for phone in phones),
    )


# ---- Resampling from 22,050 to 16,000 Hz with numpy's Fourier transform. Matrix products and torchaudio use threads.
# Threads hang in forked workers, and the last bits of their results depend on the number of threads.

_STEP_IN, _STEP_OUT = 441, 320
_PASS = 0.95  # share of the new band that is not attenuated; the filter falls to 0 above it
_REACH = 0.02  # seconds of zeros after the end, because the transform is circular
_FAST = sorted(2**two * odd for two in range(24) for odd in (1, 3, 5, 9, 15))  # lengths with a fast transform


def _resample(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    steps = _FAST[bisect_left(_FAST, (len(samples) + _REACH * _ESPEAK_RATE) / _STEP_IN)]
    spectrum = np.fft.rfft(samples, steps * _STEP_IN)[: steps * _STEP_OUT // 2 + 1]
    top = spectrum[round(_PASS * len(spectrum)) :]
    top *= np.cos(np.linspace(0, np.pi / 2, len(top))) ** 2
    resampled = np.fft.irfft(spectrum, steps * _STEP_OUT)[: math.ceil(len(samples) * _STEP_OUT / _STEP_IN)]
    return (resampled * (_STEP_OUT / _STEP_IN)).astype(np.float32)
