"""Who speaks a caption, how, and where: voices, rates and pitches, a little noise, a room."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from sclip.corpora.scenes.voices import SAMPLE_RATE, Speech, Synthesiser, Voice
from sclip.corpora.scenes.world import place_by_hash, split_by_hash

RATES = (145, 195)  # words a minute
PITCHES = (35, 65)
NOISE = (-55.0, -35.0)  # dB below the speech
ECHO = (0.1, 0.35)  # seconds until a room's echo is 60 dB down
QUIETEST = 0.3  # of the loudest peak that a recording may have


@cache
def synthesiser() -> Synthesiser:
    return Synthesiser()


@cache
def voices(split: str) -> tuple[Voice, ...]:
    """Those of a split, in an order of no meaning; nobody speaks in two splits, whatever the corpus or the accent."""
    found = [voice for voice in synthesiser().voices() if split_by_hash(f"speaker {_speaker(voice)}") == split]
    return tuple(sorted(found, key=lambda voice: place_by_hash(f"order of {voice.name}")))


def _speaker(voice: Voice) -> str:
    """A variant of espeak-ng is a person. edward2 is edward in another mood, but m2 is not m1."""
    name = voice.variant.lower()
    person = name.rstrip("0123456789")
    return person if len(person) > 1 else name


def speak(text: str, voice: Voice, random: np.random.Generator) -> Speech:
    """The sound travels without delay, so words keep their times."""
    rate, pitch = int(random.integers(*RATES)), int(random.integers(*PITCHES))
    speech = synthesiser().speak(text, voice, rate, pitch)
    samples = speech.samples
    if random.random() < 0.5:
        samples = _in_room(samples, random)
    loudness = float(np.sqrt(np.mean(samples**2)))
    noise = random.standard_normal(len(samples)).astype(np.float32)
    samples = samples + loudness * 10 ** (random.uniform(*NOISE) / 20) * noise
    samples *= random.uniform(QUIETEST, 0.95) / np.abs(samples).max()
    return Speech(samples.astype(np.float32), speech.words, speech.phones)


def _in_room(samples: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """The direct sound, and behind it an echo that dies away."""
    seconds = random.uniform(*ECHO)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    echo = random.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    echo[: int(0.003 * SAMPLE_RATE)] = 0  # the nearest wall is half a metre away
    echo *= 0.3 / np.linalg.norm(echo)
    # A power of two: a length of large primes takes ten times as long to transform.
    size = 1 << (len(samples) + len(echo)).bit_length()
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(echo, size), size)[: len(samples)]
    return samples + wet.astype(np.float32)
