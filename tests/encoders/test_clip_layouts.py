"""Small random models of the layouts of newer CLIPs: what each architecture can do with them."""

import json
from functools import partial

import open_clip
import pytest
import timm.models
import torch
from safetensors.torch import save_file
from small import ARCHITECTURES, CAPTIONS, recordings, speech_encoder, vocabulary_of
from timm.layers import LayerNorm
from timm.models import register_model
from timm.models.eva import Eva
from timm.models.fastvit import FastVit
from timm.models.vision_transformer import VisionTransformer
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

import sclip
from sclip.encoders.clip import ClipEncoder
from sclip.errors import UserError
from sclip.evaluation.inference import DecodedKeywords
from sclip.evaluation.keywords import Lexicon
from sclip.evaluation.words import WordComparison
from sclip.model.speechclip import SpeechCLIP
from sclip.padded import Padded

SIDE, EMBED = 64, 20
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
WORDS = sorted({word for caption in CAPTIONS for word in caption.split()} - {"fence"})
PIECES = [*SPECIAL, *(f"\u2581{word}" for word in WORDS), "\u2581fen", "ce", "\u2581", *".,!abcdefghijklmnopqrstuvwxyz"]
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 2}
VIT = {"img_size": SIDE, "patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}


def small_timm(name, kind, **options):
    """Register one of timm's models in a small size."""

    def create(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **given):
        return kind(**options | given)

    create.__name__ = name
    return register_model(create)


small_timm("small_siglip", VisionTransformer, **VIT, class_token=False, global_pool="map")
small_timm(
    "small_mci",
    FastVit,
    layers=(1, 1, 1, 1),
    embed_dims=(8, 8, 16, 32),
    token_mixers=("repmixer", "repmixer", "repmixer", "attention"),
    se_downsamples=(False, False, True, True),
    lkc_use_act=True,
)
small_timm("small_mci_vit", VisionTransformer, **VIT)
small_timm(
    "small_pe_core",
    Eva,
    **VIT,
    attn_type="rope",
    use_pre_transformer_norm=True,
    use_rot_pos_emb=True,
    ref_feat_shape=(4, 4),
    rope_grid_offset=1.0,
    rope_grid_indexing="xy",
    attn_pool_num_heads=2,
    attn_pool_mlp_ratio=4.0,
    norm_layer=partial(LayerNorm, eps=1e-5),
)


def of_timm(name, text_cfg, **options):
    return {"embed_dim": EMBED, "vision_cfg": {"timm_model_name": name, "image_size": SIDE, **options},
            "text_cfg": TEXT | text_cfg, "custom_text": True}  # fmt: skip


SENTENCE_PIECES = {"hf_tokenizer_name": "x", "vocab_size": len(PIECES)}
LAYOUTS = {
    "SigLIP 2": of_timm("small_siglip", SENTENCE_PIECES | {"context_length": 64, "no_causal_mask": True,
                        "proj_bias": True, "pool_type": "last", "tokenizer_kwargs": {"clean": "canonicalize"}},
                        timm_pool="map", timm_proj="none") | {"init_logit_bias": -10, "embed_dim": 32},
    "MobileCLIP2-S0": of_timm("small_mci", {"no_causal_mask": True}, timm_pool="avg", timm_proj=None),
    "MobileCLIP2-B": of_timm("small_mci_vit", {"no_causal_mask": False}, timm_pool="token", timm_proj=None),
    "PE-Core": of_timm("small_pe_core", {"context_length": 32}, timm_pool="map", timm_proj=None),
    "MetaCLIP 2": {
        "embed_dim": EMBED,
        "quick_gelu": True,
        "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": SIDE},
        "text_cfg": TEXT | SENTENCE_PIECES | {"pool_type": "eos", "eos_id": 2},
    },
}  # fmt: skip
REFUSED = {"SigLIP 2": "not causal", "MobileCLIP2-S0": "not causal"}  # for keywords


def write_tokenizer(folder, template):
    """Write a tokenizer in the format of transformers, with a word in two pieces."""
    scores = [(piece, -1.0 if piece.startswith("\u2581") and len(piece) > 1 else -9.0) for piece in PIECES]
    tokenizer = Tokenizer(Unigram([(piece, 0.0) for piece in SPECIAL] + scores[len(SPECIAL) :], unk_id=3))
    tokenizer.pre_tokenizer = Metaspace()
    tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=[("<s>", 0), ("</s>", 2)])
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def clip_folder(folder, layout, template="<s> $A </s>", **text_cfg):
    """Write a folder in open_clip's format, with weights drawn at random."""
    config = LAYOUTS[layout] | {"text_cfg": LAYOUTS[layout]["text_cfg"] | text_cfg}
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    kind = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    torch.manual_seed(0)
    model = kind(**{key: value for key, value in json.loads(json.dumps(config)).items() if key != "custom_text"})
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    if "hf_tokenizer_name" in config["text_cfg"]:
        write_tokenizer(folder, "$A </s>" if layout == "SigLIP 2" else template)
    return folder


def speech_clip(clip, arch):
    torch.manual_seed(0)
    vocabulary = vocabulary_of(CAPTIONS, clip) if ARCHITECTURES[arch].head.keywords else None
    return SpeechCLIP(arch, ARCHITECTURES[arch], speech_encoder(), clip, vocabulary, encoders_inside=True)


def test_the_small_models_are_configured_like_the_published_ones():
    published = {"SigLIP 2": "ViT-B-16-SigLIP2", "MobileCLIP2-S0": "MobileCLIP2-S0", "MobileCLIP2-B": "MobileCLIP2-B",
                 "PE-Core": "PE-Core-B-16", "MetaCLIP 2": "ViT-H-14-worldwide-quickgelu"}  # fmt: skip
    for layout, name in published.items():
        ours, theirs = LAYOUTS[layout], open_clip.get_model_config(name)
        for part, keys in (
            ("text_cfg", ("context_length", "no_causal_mask", "pool_type", "eos_id", "proj_bias", "tokenizer_kwargs")),
            ("vision_cfg", ("timm_pool", "timm_proj")),
        ):
            assert [ours[part].get(key) for key in keys] == [theirs[part].get(key) for key in keys], layout
        assert [ours.get(key) for key in ("custom_text", "quick_gelu")] == [
            theirs.get(key) for key in ("custom_text", "quick_gelu")
        ]
    assert timm.models.is_model("vit_pe_core_base_patch16_224")


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_parallel_works_with_each_layout(layout, tmp_path):
    """Image vectors, speech vectors, the text topline, and the whole model saved and loaded."""
    clip = ClipEncoder.from_pretrained(str(clip_folder(tmp_path / "clip", layout)))
    model = speech_clip(clip, "parallel")
    picture = torch.rand(3, SIDE, SIDE)
    torch.testing.assert_close(clip.encode_image([picture])[0], clip.model.encode_image(picture[None])[0])
    torch.testing.assert_close(
        clip.encode_text(CAPTIONS), clip.model.encode_text(clip.tokenizer(CAPTIONS)), rtol=1e-4, atol=1e-5
    )
    model.save(tmp_path / "model")
    again = sclip.load(tmp_path / "model")
    speech = model.encode_speech(recordings(8000, 9000))
    assert speech.shape == (2, clip.joint_width)
    assert torch.equal(again.encode_speech(recordings(8000, 9000)), speech)
    assert torch.equal(again.encode_text(CAPTIONS), model.encode_text(CAPTIONS))
    assert torch.equal(again.encode_image([picture]), model.encode_image([picture]))


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("arch", ["cascaded", "cascaded-cif", "hybrid", "hybrid-cif"])
def test_keywords_work_or_are_refused_with_a_reason(arch, layout, tmp_path):
    clip = ClipEncoder.from_pretrained(str(clip_folder(tmp_path / "clip", layout)))
    if layout in REFUSED:
        with pytest.raises(UserError, match=REFUSED[layout]):
            _ = clip.text_tower
        return
    model = speech_clip(clip, arch)
    room = clip.text_tower.context_length - 2
    long, short = model.keywords(recordings(320_000, 8000))  # the long one has 999 frames
    assert 1 <= len(short) <= len(long) <= room
    words = {piece.text for keyword in long for piece in keyword.pieces}
    assert words <= {"fen", "ce", *(word for caption in CAPTIONS for word in caption.split())}
    model.save(tmp_path / "model")
    assert sclip.load(tmp_path / "model").keywords(recordings(8000)) == model.keywords(recordings(8000))


def test_keywords_of_cif_are_as_many_as_the_context_has_room_for(tmp_path):
    clip = ClipEncoder.from_pretrained(str(clip_folder(tmp_path / "clip", "PE-Core")))
    model = speech_clip(clip, "cascaded-cif")
    assert model.head.config.keywords.cif.max_slots == 30
    assert ARCHITECTURES["cascaded-cif"].head.keywords.cif.max_slots > 30
    clip = ClipEncoder.from_pretrained(str(clip_folder(tmp_path / "short", "PE-Core", context_length=6)))
    with pytest.raises(UserError, match=r"head\.keywords\.slots: expected at most 4, .* found 8"):
        speech_clip(clip, "cascaded")


@torch.no_grad()
def test_metaclip_2_encodes_keywords_like_a_caption_of_their_tokens(tmp_path):
    clip = ClipEncoder.from_pretrained(str(clip_folder(tmp_path / "clip", "MetaCLIP 2")))
    texts = [*CAPTIONS, "", "dog " * 100]
    expected = clip.model.encode_text(clip.tokenizer(texts))
    torch.testing.assert_close(clip.encode_text(texts), expected, rtol=1e-4, atol=1e-5)
    embeddings = Padded.stack([clip.text_tower.table[ids] for ids in clip.token_ids(CAPTIONS)])
    torch.testing.assert_close(clip.text_tower(embeddings), expected[: len(CAPTIONS)], rtol=1e-4, atol=1e-5)


def test_sentence_pieces_count_as_words(tmp_path):
    clip = ClipEncoder.from_pretrained(str(clip_folder(tmp_path / "clip", "MetaCLIP 2")))
    (ids,) = clip.token_ids(["red fence"])
    assert [clip.piece(token) for token in ids] == ["red</w>", "fen</w>", "ce</w>"]
    assert clip.count_tokens("red fence") == 3
    vocabulary = vocabulary_of(CAPTIONS, clip)
    assert vocabulary.ids[:4] == (1, 0, 2, 3) and vocabulary.blocked == (0, 1, 2, 3)  # padding, start, end, unknown
    vocabulary.check(clip)
    lexicon = Lexicon.of(vocabulary, clip, torch.eye(len(vocabulary)), "en")
    rows = {piece: row for row, piece in enumerate(vocabulary.pieces)}
    keywords = DecodedKeywords(torch.tensor([[rows["fen</w>"], rows["dog</w>"]]]), torch.tensor([2]))
    words = {row["word"]: row for row in WordComparison(keywords, ["a red fence"], lexicon, clip).table()}
    assert {word: (row["found"], row["said"]) for word, row in words.items()} == {
        "a": (0, 0), "red": (0, 0), "fen": (1, 1), "ce": (0, 0),
    }  # fmt: skip
    assert not words["a"]["content"] and words["red"]["content"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eos_id": 1}, "reads the sentence at token 1, and its tokenizer ends it with 2"),
        ({"template": "$A </s>"}, "its tokenizer is a .*, which does not write `start text end`"),
        ({"pool_type": "argmax"}, "its tokenizer is a .*, which does not write `start text end`"),
    ],
)
def test_tokenizers_that_the_tower_does_not_fit_are_refused_for_keywords(options, message, tmp_path):
    clip = ClipEncoder.from_pretrained(str(clip_folder(tmp_path / "clip", "MetaCLIP 2", **options)))
    assert clip.encode_text(CAPTIONS).shape == (3, EMBED)
    with pytest.raises(UserError, match=message):
        _ = clip.text_tower
