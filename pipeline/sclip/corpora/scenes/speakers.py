"""The speakers of captions: voices of each split, random rates and pitches, noise and room echo."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from sclip.corpora.scenes.voices import SAMPLE_RATE, Speech, Synthesiser, Voice
from sclip.corpora.scenes.world import place_by_hash, split_by_hash

RATES = (145, 195)  # words per minute
PITCHES = (35, 65)
NOISE = (-55.0, -35.0)  # dB below the speech
ECHO = (0.1, 0.35)  # seconds until the echo of a room has fallen by 60 dB
QUIETEST = 0.3  # lowest peak of a recording; full scale is 1


@cache
def synthesiser() -> Synthesiser:
    return Synthesiser()


@cache
def voices(split: str) -> tuple[Voice, ...]:
    """Return the voices of a split in a random but fixed order.

    A speaker is in the same split of every corpus, with all accents.
    """
    members = [voice for voice in synthesiser().voices() if split_by_hash(f"speaker {_speaker(voice)}") == split]
    return tuple(sorted(members, key=lambda voice: place_by_hash(f"order of {voice.name}")))


def _speaker(voice: Voice) -> str:
    """Return the name of the person that a variant of espeak-ng represents.

    edward2 is the same person as edward, but m2 is not m1.
    """
    name = voice.variant.lower()
    person = name.rstrip("0123456789")
    return person if len(person) > 1 else name


def speak(text: str, voice: Voice, random: np.random.Generator) -> Speech:
    """Synthesise a text with random rate, pitch, noise and loudness, half of the time with a room's echo.

    The times of words and phones remain valid, because the direct sound is not delayed.
    """
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
    """Add a decaying echo to the direct sound."""
    seconds = random.uniform(*ECHO)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    echo = random.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    echo[: int(0.003 * SAMPLE_RATE)] = 0  # the nearest wall is half a metre away
    echo *= 0.3 / np.linalg.norm(echo)
    # The length is a power of two, because a transform takes ten times as long for a length with large prime factors.
    size = 1 << (len(samples) + len(echo)).bit_length()
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(echo, size), size)[: len(samples)]
    return samples + wet.astype(np.float32)
