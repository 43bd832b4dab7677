"""CLIP through open_clip: the text tower as CLIP runs it, cut to length; the layouts it takes and those it refuses."""

import copy
import json
import re
import warnings

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from small import CAPTIONS, CLIP_CONFIG, clip_encoder
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from sclip.encoders.clip import ClipEncoder
from sclip.errors import UserError
from sclip.padded import Padded

CUSTOM = CLIP_CONFIG | {"custom_text": True}


def saved(folder, model_cfg=CLIP_CONFIG, tensors=None):
    """A folder in open_clip's format, with weights drawn at random."""
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": {}}))
    if tensors is None:
        config = {key: value for key, value in copy.deepcopy(model_cfg).items() if key != "custom_text"}
        kind = open_clip.CustomTextCLIP if model_cfg.get("custom_text") else open_clip.CLIP
        tensors = kind(**config).state_dict()
    save_file(tensors, folder / "open_clip_model.safetensors")
    return folder


@torch.no_grad()
@pytest.mark.parametrize("model_cfg", [CLIP_CONFIG, CUSTOM], ids=["CLIP", "CustomTextCLIP"])
def test_text_vectors_equal_those_of_open_clip(tmp_path, model_cfg):
    clip = ClipEncoder.from_pretrained(f"local-dir:{saved(tmp_path / 'clip', model_cfg)}")
    texts = [*CAPTIONS, "", "word " * 100]
    for batch in (texts, texts[:2]):
        expected = clip.model.encode_text(clip.tokenizer(batch))
        torch.testing.assert_close(clip.encode_text(batch), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_keywords_are_encoded_like_a_caption_of_their_tokens():
    """Fed with a caption's own embeddings, the tower gives what the caption gives; padding does not matter."""
    clip = clip_encoder()
    ids = clip.token_ids(CAPTIONS)
    embeddings = Padded.stack([clip.text_tower.table[i] for i in ids])
    garbage = Padded(torch.where(embeddings.valid[..., None], embeddings.values, 9.0), embeddings.lengths)
    expected = clip.model.encode_text(clip.tokenizer(CAPTIONS))
    torch.testing.assert_close(clip.text_tower(garbage), expected, rtol=1e-4, atol=1e-5)


def test_more_keywords_than_positions_are_refused():
    with pytest.raises(UserError, match="76 keywords: CLIP's text tower has room for 75"):
        clip_encoder().text_tower(Padded(torch.zeros(1, 76, 24), torch.tensor([76])))


@torch.no_grad()
def test_paths_arrays_and_pictures_give_the_same_vector(tmp_path):
    clip = clip_encoder()
    array = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    picture = Image.fromarray(array)
    picture.save(tmp_path / "picture.png")
    picture.convert("RGBA").save(tmp_path / "transparent.png")
    kinds = [array, picture, tmp_path / "picture.png", str(tmp_path / "transparent.png"), clip.preprocess(picture)]
    found = clip.encode_image(kinds)
    torch.testing.assert_close(found, found[:1].expand(5, -1))
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    for wrong, message in (
        (tmp_path / "broken.jpg", r"image broken\.jpg: cannot be read: not a picture in a supported format"),
        (tmp_path / "none.jpg", r"image none\.jpg: no such file"),
        (np.zeros((3, 8, 8), np.uint8), r"image 0: expected bytes \(H, W, 3\), found uint8 \(3, 8, 8\)"),
        (Image.new("P", (1, 60_000)), r"image 0: cannot be used: 1 x 60000 pixels"),
        (np.zeros((1, 60_000, 3), np.uint8), r"image 0: cannot be used: 60000 x 1 pixels"),
        (torch.zeros(3, 9, 9), r"image 0: expected \(3, 16, 16\), preprocessed, found \(3, 9, 9\)"),
        (np.zeros((8, 8, 3)), r"image 0: expected bytes \(H, W, 3\), found float64"),
    ):
        with pytest.raises(UserError, match=message):
            clip.encode_image([wrong])


def test_saved_and_loaded(tmp_path):
    clip = clip_encoder()
    clip.save(tmp_path / "clip")
    again = ClipEncoder.from_pretrained(str(tmp_path / "clip"))
    assert torch.equal(again.encode_text(CAPTIONS), clip.encode_text(CAPTIONS))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    assert torch.equal(again.preprocess(picture), clip.preprocess(picture))


@pytest.mark.parametrize(
    ("text_cfg", "message"),
    [
        ({"no_causal_mask": True}, "not causal"),
        ({"pool_type": "last"}, "pools by 'last'"),
        ({"embed_cls": True}, "class token"),
    ],
)
def test_other_text_towers_are_refused_for_keywords_alone(tmp_path, text_cfg, message):
    config = CUSTOM | {"text_cfg": CLIP_CONFIG["text_cfg"] | text_cfg}
    clip = ClipEncoder.from_pretrained(str(saved(tmp_path / "clip", config)))
    assert clip.encode_text(CAPTIONS).shape == (3, 20)
    with pytest.raises(UserError, match=message):
        _ = clip.text_tower


def test_a_folder_may_bring_a_tokenizer_in_the_format_of_transformers(tmp_path):
    words = {word: i for i, word in enumerate(["[PAD]", "a", "dog", "runs"])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = Whitespace()
    config = CUSTOM | {"text_cfg": CLIP_CONFIG["text_cfg"] | {"hf_tokenizer_name": "x"}}
    folder = saved(tmp_path / "clip", config)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(folder)
    clip = ClipEncoder.from_pretrained(str(folder))
    assert clip.tokenizer(["a dog"])[0, :3].tolist() == [1, 2, 0]
    assert clip.encode_text(["a dog runs"]).shape == (1, 20)


@pytest.mark.parametrize("name", ["ViT-B-32", "no-such-model/openai"])
def test_unknown_names_are_user_errors(name):
    with pytest.raises(UserError, match=f"CLIP {name}: expected a folder, hf-hub:ORG/NAME or MODEL/TAG such as"):
        ClipEncoder.from_pretrained(name)


def test_a_wrong_tag_is_refused_with_the_tags_that_exist():
    name = "ViT-L-14-quickgelu/laion2b"
    tags = r"\(openai, .*dfn2b\), found 'laion2b'"
    with pytest.raises(UserError, match=f"CLIP {name}: expected one of open_clip's tags for ViT-L-14-quickgelu {tags}"):
        ClipEncoder.from_pretrained(name)


def test_incomplete_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"open_clip_config\.json: no such file"):
        ClipEncoder.from_pretrained(f"local-dir:{tmp_path}")
    folder = saved(tmp_path / "clip")
    tensors = load_file(folder / "open_clip_model.safetensors")
    del tensors["ln_final.bias"]
    save_file(tensors, folder / "open_clip_model.safetensors")
    with pytest.raises(UserError, match=r"cannot be loaded: .*ln_final\.bias"):
        ClipEncoder.from_pretrained(str(folder))
    (folder / "open_clip_model.safetensors").unlink()  # open_clip alone would draw weights at random
    with pytest.raises(UserError, match=r"open_clip_model\.safetensors: no such file; copy"):
        ClipEncoder.from_pretrained(str(folder))


def test_openai_weights_without_quick_gelu_are_warned_of(tmp_path, monkeypatch):
    """By name, or by what OpenAI's own files carry beside the weights; whatever then comes of loading it."""
    plain = CLIP_CONFIG | {"quick_gelu": False}
    marks = {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
    tensors = open_clip.CLIP(**plain).state_dict()
    with pytest.warns(UserWarning, match="OpenAI's weights need QuickGELU"), pytest.raises(UserError):
        ClipEncoder.from_pretrained(str(saved(tmp_path / "local", plain, {**tensors, **marks})))
    with pytest.warns(UserWarning, match="OpenAI's weights need QuickGELU"):
        ClipEncoder.from_pretrained(str(saved(tmp_path / "vit-openai", plain, tensors)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ClipEncoder.from_pretrained(str(saved(tmp_path / "quick-openai", CLIP_CONFIG)))
        ClipEncoder.from_pretrained(str(saved(tmp_path / "someone-else-s", plain)))

    def no_download(*_, **__):
        raise UserError("no download in a test")

    monkeypatch.setattr(open_clip, "create_model", no_download)
    torch.save({**tensors, **marks}, tmp_path / "weights.pt")
    for tag in ("openai", str(tmp_path / "weights.pt")):
        with pytest.warns(UserWarning, match="OpenAI's weights need QuickGELU"), pytest.raises(UserError):
            ClipEncoder.from_pretrained(f"ViT-B-32/{tag}")


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("DFN2B-CLIP-ViT-B-16", "DFN"),
        ("DFN5B-CLIP-ViT-H-14-378", "DFN"),
        ("vit_base_patch16_clip_224.metaclip_2pt5b", "MetaCLIP"),
        ("metaclip-l14-400m", "MetaCLIP"),
        ("vit_huge_patch14_clip_224.metaclip2_worldwide", "MetaCLIP"),
        ("DFN2B-CLIP-ViT-L-14-39B", None),
        ("MobileCLIP2-B-dfndr2b", None),
        ("vit_huge_patch14_clip_224.metaclip_altogether", None),
        ("vit_huge_patch14_clip_378.metaclip2_worldwide", None),
        ("vit_gigantic_patch14_clip_224.metaclip2_worldwide", None),
    ],
)
def test_weights_of_other_authors_without_quick_gelu_are_warned_of(name, owner, tmp_path, recwarn):
    """Against open_clip's own list, where it has one."""
    ClipEncoder.from_pretrained(str(saved(tmp_path / name, CLIP_CONFIG | {"quick_gelu": False})))
    found = [str(warning.message) for warning in recwarn if "QuickGELU" in str(warning.message)]
    assert [f"{owner}'s weights need QuickGELU" in message for message in found] == [True] * (owner is not None)


def test_tags_are_warned_of_as_open_clip_lists_them(monkeypatch, recwarn):
    def no_download(*_, **__):
        raise UserError("no download in a test")

    monkeypatch.setattr("sclip.encoders.clip.fetch_repo", no_download)
    tags = [(model, tag) for model, tag in open_clip.list_pretrained() if re.search("dfn|metaclip|meta$|webli", tag)]
    assert len(tags) > 40
    for model, tag in tags:
        recwarn.clear()
        with pytest.raises(UserError, match="no download"):
            ClipEncoder.from_pretrained(f"{model}/{tag}")
        warned = any("QuickGELU" in str(warning.message) for warning in recwarn)
        has_quick_gelu = open_clip.get_model_config(model).get("quick_gelu", False)
        needs_it = open_clip.get_pretrained_cfg(model, tag).get("quick_gelu", False)
        assert warned == (needs_it and not has_quick_gelu), (model, tag)


def test_a_clip_that_ships_keeps_its_name_in_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("models/mini-clip", "local-dir:models/mini-clip"):
        assert ClipEncoder.from_pretrained(name).source.name == "models/mini-clip"
