"""Folders and hub repos from strangers: none of their Python code is downloaded or run."""

import json
import socket
from pathlib import Path

import huggingface_hub
import pytest
import torch
from small import clip_encoder, model, speech_encoder
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

import sclip
from sclip.encoders import source
from sclip.encoders.clip import ClipEncoder
from sclip.encoders.speech import SpeechEncoder
from sclip.errors import UserError
from sclip.model.folder import written_files

TRUSTING = {"hf_tokenizer_name": "x", "tokenizer_kwargs": {"trust_remote_code": True}}


@pytest.fixture
def trap(tmp_path):
    """A file that appears as soon as a folder's code runs."""
    return tmp_path / "code has run"


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def sign(folder) -> None:
    """Write the digests of a model's files, as a stranger would."""
    config = json.loads((folder / "config.json").read_text())
    del config["digest"]
    (folder / "config.json").write_text(json.dumps(config | {"files": written_files(folder)}))


def set_text_cfg(folder: Path, changes: dict) -> None:
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["text_cfg"] |= changes
    path.write_text(json.dumps(config))


def add_code(folder: Path, trap: Path) -> None:
    """Put a module into the folder, and files that name it as the tokenizer's, the configuration's and the model's."""
    (folder / "evil.py").write_text(f"open({str(trap)!r}, 'w')\nclass Evil: ...\n")
    auto_map = {kind: "evil.Evil" for kind in ("AutoConfig", "AutoModel")}
    for name in ("tokenizer_config.json", "config.json"):
        path = folder / name
        path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), "auto_map": auto_map}))
    edit(folder / "tokenizer_config.json", tokenizer_class="Evil", auto_map={"AutoTokenizer": ["evil.Evil", None]})


@pytest.mark.parametrize(
    "text_cfg",
    [
        TRUSTING,
        {"hf_tokenizer_name": "x"},
        {"tokenizer_kwargs": {"bpe_path": "/etc/passwd"}},
        {"tokenizer_kwargs": {"additional_special_tokens": ["(a+)+"]}},
        {"hf_model_name": "stranger/model"},
    ],
    ids=["trusting tokenizer", "tokenizer", "file of its own", "pattern of its own", "text tower of its own"],
)
def test_code_and_files_that_a_clip_folder_names_are_not_used(tmp_path, trap, text_cfg):
    saved = model("cascaded").save(tmp_path / "model")
    add_code(saved / "clip", trap)
    set_text_cfg(saved / "clip", text_cfg)
    sign(saved)
    for load in (lambda: sclip.load(saved), lambda: ClipEncoder.from_pretrained(str(saved / "clip"))):
        with pytest.raises(UserError, match=r"CLIP .*(tokenizer|hf_model_name)"):
            load()
    assert not trap.exists()


@pytest.mark.parametrize("name", ["hf-hub:stranger/model", "local-dir:/tmp", False, 0])
def test_a_vision_tower_from_elsewhere_is_refused(tmp_path, name):
    clip_encoder().save(tmp_path / "clip")
    path = tmp_path / "clip/open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["vision_cfg"]["timm_model_name"] = name
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="timm_model_name: expected the name of one of timm's models, found"):
        ClipEncoder.from_pretrained(str(tmp_path / "clip"))


@pytest.mark.parametrize(
    "config",
    [
        {"tokenizer_class": "AutoImageProcessor"},
        {"tokenizer_class": "AutoModel", "auto_map": {"AutoModel": "evil.Evil"}},
        {"tokenizer_class": "AutoProcessor"},
        {"tokenizer_class": "BertTokenizer", "vocab_file": "/etc/passwd", "tokenizer_file": "/etc/passwd"},
    ],
)
def test_a_tokenizer_is_what_its_file_says_whatever_class_the_folder_names(tmp_path, trap, monkeypatch, config):
    """transformers would open the class that tokenizer_config.json names, and ask to run the folder's code."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked a question"))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("opened a connection"))
    clip_encoder().save(tmp_path / "clip")
    add_code(tmp_path / "clip", trap)
    edit(tmp_path / "clip/config.json", model_type="evil")
    (tmp_path / "clip/preprocessor_config.json").write_text('{"auto_map": {"AutoImageProcessor": "evil.Evil"}}')
    set_text_cfg(tmp_path / "clip", {"hf_tokenizer_name": "x"})
    Tokenizer(WordLevel({"[PAD]": 0, "a": 1, "dog": 2}, "[PAD]")).save(str(tmp_path / "clip/tokenizer.json"))
    (tmp_path / "clip/tokenizer_config.json").write_text(json.dumps({"pad_token": {"content": "[PAD]"}, **config}))
    clip = ClipEncoder.from_pretrained(str(tmp_path / "clip"))
    assert clip.tokenizer(["dog"])[0, :2].tolist() == [2, 0]
    assert not trap.exists()


def test_an_unknown_kind_of_speech_model_runs_nothing_and_asks_nothing(tmp_path, trap):
    speech_encoder().save(tmp_path / "speech")
    edit(tmp_path / "speech/config.json", model_type="evil")
    add_code(tmp_path / "speech", trap)
    with pytest.raises(UserError, match=r"expected a model_type of hubert, .*, found 'evil'"):
        SpeechEncoder.from_pretrained(str(tmp_path / "speech"))
    assert not trap.exists()


def test_a_speech_model_with_code_is_read_as_the_kind_it_names(tmp_path, trap):
    original = speech_encoder()
    original.save(tmp_path / "speech")
    add_code(tmp_path / "speech", trap)
    kernel = dict.fromkeys(("_attn_implementation", "attn_implementation", "experts_implementation"), "org/kernel")
    edit(tmp_path / "speech/config.json", **kernel, quantization_config={"quant_method": "torchao"})
    again = SpeechEncoder.from_pretrained(str(tmp_path / "speech"))
    assert again.fingerprint() == original.fingerprint()
    assert again.model.config._attn_implementation == "sdpa"
    assert torch.equal(again([torch.ones(800)]).values, original([torch.ones(800)]).values)
    assert not trap.exists()


@pytest.mark.parametrize(
    "load",
    [sclip.load, SpeechEncoder.from_pretrained, lambda name: ClipEncoder.from_pretrained(f"hf-hub:{name}")],
    ids=["model", "speech", "clip"],
)
def test_no_python_file_is_asked_of_the_hub(monkeypatch, tmp_path, load):
    asked: list[str] = []

    def snapshot_download(repo, allow_patterns, **_):
        asked.extend(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(source, "snapshot_download", snapshot_download)
    with pytest.raises(UserError):
        load("stranger/repo")
    files = [
        "config.json",
        "open_clip_config.json",
        "evil.py",
        "tokenizer_evil.py",
        "speech/modeling_evil.py",
        "vocab.py",
    ]
    chosen = list(huggingface_hub.utils.filter_repo_objects(files, allow_patterns=asked))
    assert chosen
    assert not [name for name in chosen if name.endswith(".py")]


@pytest.mark.parametrize(
    "load",
    [sclip.load, sclip.SpeechCLIP.from_pretrained, SpeechEncoder.from_pretrained],
    ids=["load", "from_pretrained", "speech"],
)
def test_a_mistyped_path_is_not_looked_up_on_the_hub(monkeypatch, tmp_path, load):
    monkeypatch.setattr(source, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    with pytest.raises(UserError, match=r"models/mini-hubrt: no such folder\. The folder models exists"):
        load("models/mini-hubrt")
    for name in ("models/scenes/parallel", "./hubert", "hubert", str(tmp_path / "hubert")):
        with pytest.raises(UserError, match="no such folder"):
            load(name)


def test_settings_of_the_preprocessing_that_cannot_be_used_are_one_line(tmp_path):
    clip_encoder().save(tmp_path / "clip")
    edit(tmp_path / "clip/open_clip_config.json", preprocess_cfg={"mean": "white", "interpolation": [1, 2]})
    with pytest.raises(UserError, match=r"CLIP .*: cannot be loaded: "):
        ClipEncoder.from_pretrained(str(tmp_path / "clip"))
