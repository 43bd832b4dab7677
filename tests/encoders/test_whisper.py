"""A tiny random Whisper writes transcripts: the same in any batch, in windows, and by name or folder."""

import json
import shutil

import pytest
import torch
from small import recordings
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

from sclip.encoders.whisper import Recognizer
from sclip.errors import UserError

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|fr|>", "<|transcribe|>", "<|translate|>",
           "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]  # fmt: skip
VOCABULARY = {piece: i for i, piece in enumerate([*LETTERS, "Ġ", *(f"Ġ{letter}" for letter in LETTERS)])}
IDS = {token: len(VOCABULARY) + i for i, token in enumerate(SPECIAL)}
TIMES = len(VOCABULARY) + len(SPECIAL)  # the first of the tokens of times


def write_whisper(folder, multilingual=True, tokens=9, **sizes):
    """Write a Whisper in the format of transformers, with weights drawn at random, which writes a few letters."""
    torch.manual_seed(0)
    config = WhisperConfig(
        **{"vocab_size": TIMES + 1501, "num_mel_bins": 80, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1,
           "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
           "max_target_positions": 32} | sizes,
        decoder_start_token_id=IDS["<|startoftranscript|>"], bos_token_id=IDS["<|endoftext|>"],
        eos_token_id=IDS["<|endoftext|>"], pad_token_id=IDS["<|endoftext|>"], init_std=0.5,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    options = model.generation_config
    values = {
        "no_timestamps_token_id": IDS["<|notimestamps|>"],
        "prev_sot_token_id": IDS["<|startofprev|>"],
        "max_length": tokens,
        "is_multilingual": multilingual,
        "suppress_tokens": list(range(len(VOCABULARY), TIMES + 1501)),
        "_from_model_config": False,
    }
    for name, value in values.items():
        setattr(options, name, value)
    if multilingual:
        options.lang_to_id = {token: IDS[token] for token in ("<|en|>", "<|fr|>")}
        options.task_to_id = {task: IDS[f"<|{task}|>"] for task in ("transcribe", "translate")}
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    tokenizer = WhisperTokenizer(vocab=VOCABULARY, merges=[("Ġ", letter) for letter in LETTERS])
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_whisper(tmp_path_factory.mktemp("whisper"))


def test_transcripts_do_not_depend_on_the_batch(folder):
    recognizer = Recognizer.from_pretrained(str(folder), language="en")
    waveforms = recordings(16000, 400, 90000)
    together = recognizer(waveforms)
    assert together == [text for waveform in waveforms for text in recognizer([waveform])]
    assert all(text and set(text) <= {*LETTERS, " "} for text in together)  # no mark of a language or a time
    assert len(set(together)) > 1


def test_a_long_recording_is_cut_into_windows_that_are_joined(folder, monkeypatch):
    recognizer = Recognizer.from_pretrained(str(folder), language="en")
    long = recordings(75 * 16000)[0]
    windows = list(recognizer._windows(long))
    assert len(windows) == 3 and all(len(window) <= 30 * 16000 for window in windows[:-1])
    torch.testing.assert_close(torch.cat([torch.from_numpy(window) for window in windows]), long)
    monkeypatch.setattr("sclip.encoders.whisper.WINDOWS_AT_ONCE", 3)
    short = recordings(8000)[0]
    parts = [recognizer([torch.from_numpy(window)])[0] for window in windows]
    assert recognizer([long, short]) == [" ".join(parts), *recognizer([short])]


def test_the_language_is_one_of_whisper_s(folder, tmp_path):
    assert Recognizer.from_pretrained(str(folder))(recordings(8000))  # finds out by itself
    english, french = (Recognizer.from_pretrained(str(folder), language=of) for of in ("en", "fr"))
    assert english.fingerprint() != french.fingerprint()
    with pytest.raises(UserError, match="no language 'xx'; its languages: en, fr"):
        Recognizer.from_pretrained(str(folder), language="xx")
    one = str(write_whisper(tmp_path / "english", multilingual=False))
    assert Recognizer.from_pretrained(one)(recordings(8000))
    with pytest.raises(UserError, match="it knows English alone"):
        Recognizer.from_pretrained(one, language="en")


def test_the_fingerprint_covers_what_decides_the_transcripts(folder, tmp_path):
    recognizer = Recognizer.from_pretrained(str(folder))
    before = recognizer.fingerprint()
    recognizer(recordings(8000))
    assert recognizer.fingerprint() == before == Recognizer.from_pretrained(str(folder)).fingerprint()
    for file, key, value in (
        ("config.json", "encoder_attention_heads", 4),
        ("generation_config.json", "max_length", 5),
        ("preprocessor_config.json", "n_fft", 512),
    ):
        changed = tmp_path / key
        shutil.copytree(folder, changed)
        settings = json.loads((changed / file).read_text())
        (changed / file).write_text(json.dumps(settings | {key: value}))
        assert Recognizer.from_pretrained(str(changed)).fingerprint() != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "hubert"}, "expected a model_type of whisper, found 'hubert'"),
        ({"d_model": 4096, "encoder_layers": 100}, "declares .* weights or more"),
        ({"decoder_layers": 2}, r"\d+ tensors are missing, model\.decoder\.layers\.1"),
    ],
)
def test_other_and_damaged_folders_are_refused(change, message, folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=message):
        Recognizer.from_pretrained(str(tmp_path))
    with pytest.raises(UserError, match="no such folder"):
        Recognizer.from_pretrained(str(tmp_path / "none"))
