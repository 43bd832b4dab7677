"""Word times match the sound, and equal calls give equal sounds, whatever was spoken before."""

import multiprocessing
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from sclip.corpora.scenes.voices import MARGIN, RATES, SAMPLE_RATE, Synthesiser, Voice, _resample
from sclip.errors import UserError

APPLES = "two small red apples beside a dog on the grass"
US = Voice("en-us", "f3")


@pytest.fixture(scope="module")
def synthesiser():
    return Synthesiser()


def speak(synthesiser, text=APPLES, voice=US, rate=175, pitch=50):
    return synthesiser.speak(text, voice, rate, pitch)


def apples_sound(synthesiser):
    return speak(synthesiser).samples.tobytes()


def decibels(samples):
    return 10 * np.log10(np.square(samples).mean() + 1e-10)


def test_every_voice_speaks_every_word(synthesiser):
    voices = synthesiser.voices()
    assert len(voices) == len(set(voices)) == 426 and voices == sorted(voices) and US in voices
    sounds = set()
    for voice in voices:
        speech = speak(synthesiser, "dogs on the grass", voice)
        assert [word.text for word in speech.words] == ["dogs", "on", "the", "grass"], voice
        sounds.add(speech.samples.tobytes())
    assert len(sounds) == len(voices)


@pytest.mark.parametrize("rate", [RATES[0], 175, RATES[-1]])
@pytest.mark.parametrize("variant", ["", "f2", "m2", "klatt4", "pablo"])
def test_words_are_loud_and_pauses_are_silent(synthesiser, variant, rate):
    speech = speak(synthesiser, "a small dog, two cats of the town, and some birds sat", Voice("en-gb", variant), rate)
    samples, level = speech.samples, decibels(speech.samples)

    def level_between(start, end):
        return decibels(samples[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]) - level

    assert all(level_between(word.start, word.end) > -12 for word in speech.words)
    pauses = [(a.end, b.start) for a, b in pairwise(speech.words) if a.end < b.start]
    assert len(pauses) == 2
    assert all(level_between(start + 0.005, end - 0.005) < -20 for start, end in pauses)
    assert speech.words[0].start <= MARGIN + 1e-4
    assert speech.words[-1].end <= len(samples) / SAMPLE_RATE <= speech.words[-1].end + MARGIN + 1e-4


def test_phones_are_within_their_words(synthesiser):
    speech = speak(synthesiser)
    assert all(a.start <= a.end <= b.start for a, b in pairwise(speech.phones))
    grass = speech.words[-1]
    assert [phone.text for phone in speech.phones if phone.start >= grass.start] == ["g", "r", "aa", "s"]
    assert speech.phones[-1].end == grass.end
    for phone in (phone for phone in speech.phones if phone.text == "s"):  # a fricative crosses zero often
        sound = speech.samples[round(phone.start * SAMPLE_RATE) : round(phone.end * SAMPLE_RATE)]
        assert np.mean(np.diff(np.signbit(sound))) > 0.3


def test_punctuation_is_not_part_of_words(synthesiser):
    text = "I don't have 2 ice-creams, or 3.5 of the dogs'!"
    words = [word.text for word in speak(synthesiser, text).words]
    assert words == ["I", "don't", "have", "2", "ice-creams", "or", "3.5", "of", "the", "dogs"]
    assert [word.text for word in speak(synthesiser, " a\tdog\n- on  it").words] == ["a", "dog", "on", "it"]


@pytest.mark.parametrize("variant", ["", "f5", "m1", "klatt4", "adam", "sandro"])
def test_speech_does_not_depend_on_earlier_calls(synthesiser, variant):
    voice = Voice("en-us", variant)
    first = speak(synthesiser, voice=voice)
    speak(synthesiser, "an old man laughs", voice, 250, 80)
    speak(synthesiser, "an old man laughs", Voice("en-gb", "linda"), 120, 20)
    again = speak(synthesiser, voice=voice)
    assert first.samples.tobytes() == again.samples.tobytes()
    assert first.words == again.words and first.phones == again.phones


def test_a_forked_worker_gives_the_same_sound(synthesiser):
    np.ones((500, 500)) @ np.ones((500, 500))  # starts the threads of numpy in the parent
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(apples_sound_of_a_worker).get(30) == apples_sound(synthesiser)


def apples_sound_of_a_worker():
    return apples_sound(Synthesiser())


def test_another_process_gives_the_same_sound(synthesiser):
    code = f"""
import sys
from sclip.corpora.scenes.voices import Synthesiser, Voice
sys.stdout.buffer.write(Synthesiser().speak("{APPLES}", Voice("en-us", "f3"), 175, 50).samples.tobytes())
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert process.stdout == apples_sound(synthesiser)


def test_rate_and_pitch_change_the_sound(synthesiser):
    slow, fast = (speak(synthesiser, rate=rate).words[-1].end for rate in (120, 240))
    assert 1.5 < slow / fast < 2.5
    assert speak(synthesiser, pitch=20).samples.tobytes() != speak(synthesiser, pitch=80).samples.tobytes()


def test_resampling_keeps_times_and_levels():
    def tone(rate, hertz):
        return np.sin(2 * np.pi * hertz * np.arange(rate // 2) / rate).astype(np.float32)

    for hertz in (100, 1000, 7000):
        resampled = _resample(tone(22_050, hertz))
        assert resampled.dtype == np.float32 and len(resampled) == 8000
        np.testing.assert_allclose(resampled[200:-200], tone(16_000, hertz)[200:-200], atol=5e-3)
    assert np.abs(_resample(tone(22_050, 9000))[200:-200]).max() < 5e-3


@pytest.mark.parametrize("text", ["", " \n", "..."])
def test_a_text_without_words_is_a_user_error(synthesiser, text):
    with pytest.raises(UserError, match="expected words"):
        speak(synthesiser, text)


@pytest.mark.parametrize("name", [("en-us", "f33"), ("en-us", "whisper"), ("xx", ""), ("en-us", "../m1")])
def test_an_unknown_voice_is_a_user_error(synthesiser, name):
    with pytest.raises(UserError, match=r"voice .*: unknown or left out"):
        speak(synthesiser, voice=Voice(*name))
