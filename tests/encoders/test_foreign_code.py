"""Folders and hub repos from strangers: none of their Python code is downloaded or run."""

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch
from small import clip_encoder, model, speech_encoder

import sclip
from sclip.encoders import source
from sclip.encoders.clip import ClipEncoder
from sclip.encoders.speech import SpeechEncoder
from sclip.errors import UserError

TRUSTING = {"hf_tokenizer_name": "x", "tokenizer_kwargs": {"trust_remote_code": True}}


@pytest.fixture
def trap(tmp_path):
    """A file that appears as soon as a folder's code runs."""
    return tmp_path / "code has run"


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


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
    for load in (lambda: sclip.load(saved), lambda: ClipEncoder.from_pretrained(str(saved / "clip"))):
        with pytest.raises(UserError, match=r"CLIP .*(tokenizer|hf_model_name)"):
            load()
    assert not trap.exists()


def test_a_vision_tower_from_elsewhere_is_refused(tmp_path):
    clip_encoder().save(tmp_path / "clip")
    path = tmp_path / "clip/open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["vision_cfg"]["timm_model_name"] = "hf-hub:stranger/model"
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="timm_model_name: expected the name of one of timm's models, found 'hf-hub:"):
        ClipEncoder.from_pretrained(str(tmp_path / "clip"))


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


@pytest.mark.parametrize("load", [sclip.load, SpeechEncoder.from_pretrained], ids=["model", "speech"])
def test_a_mistyped_path_is_not_looked_up_on_the_hub(monkeypatch, tmp_path, load):
    monkeypatch.setattr(source, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    with pytest.raises(UserError, match=r"models/mini-hubrt: no such folder\. The folder models exists"):
        load("models/mini-hubrt")
    for name in ("models/scenes/parallel", "./hubert", "hubert", str(tmp_path / "hubert")):
        with pytest.raises(UserError, match="no such folder"):
            load(name)
