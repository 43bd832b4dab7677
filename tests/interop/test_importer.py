"""What an import says of a checkpoint that is not as it should be, and of one that merely differs."""

import json
import re

import open_clip
import pytest
import torch
from click.testing import CliRunner
from golden_files import GOLDEN
from transformers import HubertConfig

import sclip
from sclip.cli import main
from sclip.interop.checkpoint import read_checkpoint
from sclip.interop.fairseq import hubert_config
from sclip.interop.importer import clip_config, find_rows, import_checkpoint


def changed(tmp_path, change, name="base-hybrid-cif"):
    """A golden checkpoint after `change(state_dict, config)`, imported from the command line."""
    checkpoint = read_checkpoint(GOLDEN / f"{name}.ckpt")
    change(checkpoint["state_dict"], checkpoint["hyper_parameters"]["config"])
    torch.save(checkpoint, tmp_path / "changed.ckpt")
    arguments = ["import", str(tmp_path / "changed.ckpt"), str(tmp_path / "out")]
    return CliRunner().invoke(main, [*arguments, "--encoders", str(GOLDEN / f"{name}.json")])


BRANCH = "model_settings.cascaded_branch"
KEYS = "cascaded_branch.self_att.multihead_attn_layer.in_proj_weight"


def setting(path: str, value):
    def change(_, config):
        *parents, last = path.split(".")
        for key in parents:
            config = config[key]
        config[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, _: t.pop(KEYS), "sclip's head.attention.qkv.weight is missing"),
        (lambda t, _: t.update({KEYS: torch.ones(3, 3)}), "head.attention.qkv.weight: expected (96, 32), found (3, 3)"),
        (lambda t, _: t.pop("audio_encoder.encoder.layer_norm.bias"), "hubert.feature_projection.layer_norm.bias is"),
        (lambda t, _: t.pop("clip.model.visual.proj"), "open_clip's clip.visual.proj is missing"),
        (lambda t, _: t.pop("clip.model.text_projection"), "clip.model.text_projection is missing"),
        (lambda t, _: t.pop("criterion.temperature"), "sclip's objective.log_scale is missing"),
        (lambda t, _: t.pop("clip.original_text_emb_weight"), "clip.original_text_emb_weight is missing, and the"),
        (lambda t, _: t.pop("clip.model.visual.conv1.weight"), "clip.model.visual.conv1.weight is missing"),
        (lambda t, _: t.pop("cascaded_branch.downsampling.conv.0.weight"), "head.cif.convolutions.0.weight is missing"),
        (
            lambda t, _: t.update({KEYS: torch.ones(96, 32, dtype=torch.long)}),
            "expected torch.float32, found torch.int64",
        ),
        (lambda t, _: t.update({KEYS: torch.ones(96, 32).to_sparse()}), f"state_dict.{KEYS}: expected a plain tensor"),
        (setting(f"{BRANCH}.transformer_args.nhead", 0), "cannot be made into a model: ValueError: heads: expected at"),
        (setting(f"{BRANCH}.vq.args.temp", "fixed=abc"), "cannot be made into a model: ValueError: could not convert"),
        (lambda t, _: t.pop("cascaded_branch.cls"), "sclip's head.tokens is missing"),
        (
            lambda t, _: t["clip.model.token_embedding.weight"][5].add_(1),
            "row 5 is not in clip.original_text_emb_weight",
        ),
        (lambda t, _: t.update({"cascaded_branch.new.weight": torch.ones(1)}), "cascaded_branch.new.weight: unknown"),
        (setting(f"{BRANCH}.type", "NewBranch"), f"{BRANCH}.type: expected 'CascadedBranch' or"),
        (setting(f"{BRANCH}.type", "CascadedBranch_dynamic"), "parallel_objective_weight: expected 0, found 1.0"),
        (setting(f"{BRANCH}.vq.args.temp", "learnable=0.1"), f"{BRANCH}.vq.args.temp: expected 'fixed=0.1'"),
        (lambda t, _: t.pop("clip.model.visual.class_embedding"), "clip.model.visual.class_embedding is missing"),
        (setting("audio_encoder.type", "s3prl_plus"), "audio_encoder.type: expected 'FairseqHubert'"),
        (lambda _, c: c.pop("cl_loss"), "its configuration has no cl_loss.type"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_one_line_says_what_is_wrong(tmp_path, change, message):
    result = changed(tmp_path, change)
    assert result.exit_code == 1
    assert re.fullmatch(r"Error: .*changed\.ckpt: .*\n", result.output)
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_what_differs_and_does_not_matter(tmp_path):
    """eye_mat of any size, no second copy of CLIP, half precision, tensors that nobody knows outside the branches."""

    def change(tensors, _):
        for name in [n for n in tensors if n.startswith("cascaded_branch.clip.")]:
            del tensors[name]
        tensors["criterion.eye_mat"] = torch.eye(7)
        tensors["criterion.later_addition"] = torch.ones(1)
        for name, tensor in tensors.items():
            tensors[name] = tensor.half() if tensor.is_floating_point() else tensor

    result = changed(tmp_path, change)
    assert result.exit_code == 0, result.output
    assert re.search(r"ignored +unknown: criterion\.later_addition", result.output)
    model = sclip.load(tmp_path / "out")
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert model.encode_speech([torch.randn(3000)]).isfinite().all()


def test_a_whole_vocabulary_needs_no_search(tmp_path):
    """A checkpoint whose vocabulary was never reduced has one token table."""

    def change(tensors, config):
        tensors["clip.model.token_embedding.weight"] = tensors.pop("clip.original_text_emb_weight")
        config["clip"]["reduce_subword_embbedding"] = None

    assert changed(tmp_path, change).exit_code == 0
    model = sclip.load(tmp_path / "out")
    assert model.vocabulary.ids == tuple(range(200))
    assert model.vocabulary.blocked == (0, 2, 3)


def test_sizes_are_told_from_published_tensors_alone(tmp_path):
    """Heads cannot be: 64 wide in what was published, and unknown in anything of another width."""
    with pytest.raises(sclip.UserError, match="a width of 32 is not a published one"):
        import_checkpoint(GOLDEN / "large-parallel.ckpt", tmp_path / "out")
    sizes = json.loads((GOLDEN / "large-parallel.json").read_text())
    for given, message in (
        ("{", "sizes.json: not JSON"),
        ('{"hubert": {}}', "expected the tables hubert and clip: KeyError"),
        (json.dumps({**sizes, "hubert": {"hidden_size": 30}}), "no HuBERT has this configuration"),
        (json.dumps({**sizes, "hubert": {**sizes["hubert"], "hidden_size": 64}}), r"expected \(.*64.*\), found"),
    ):
        (tmp_path / "sizes.json").write_text(given)
        with pytest.raises(sclip.UserError, match=message):
            import_checkpoint(GOLDEN / "large-parallel.ckpt", tmp_path / "out", tmp_path / "sizes.json")
    with pytest.raises(sclip.UserError, match=r"none\.json: no such file"):
        import_checkpoint(GOLDEN / "large-parallel.ckpt", tmp_path / "out", tmp_path / "none.json")


@pytest.mark.parametrize(
    ("name", "width", "layers", "heads", "norms"), [("base", 768, 12, 12, "group"), ("large", 1024, 24, 16, "layer")]
)
def test_the_published_hubert_sizes(name, width, layers, heads, norms):
    """Shapes of fairseq's HuBERT base and large, by fairseq's names, give transformers' configurations of them."""
    with torch.device("meta"):
        shapes = {f"encoder.layers.{i}.fc1.weight": torch.empty(4 * width, width) for i in range(layers)}
        for i, kernel in enumerate((10, 3, 3, 3, 3, 2, 2)):
            shapes[f"feature_extractor.conv_layers.{i}.0.weight"] = torch.empty(512, 512 if i else 1, kernel)
        if norms == "layer":
            shapes["feature_extractor.conv_layers.0.0.bias"] = torch.empty(512)
            shapes["feature_extractor.conv_layers.0.2.1.weight"] = torch.empty(512)
        shapes["encoder.pos_conv.0.weight_v"] = torch.empty(width, width // 16, 128)
    expected = HubertConfig() if name == "base" else HubertConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
        feat_extract_norm="layer", conv_bias=True, do_stable_layer_norm=True,
    )  # fmt: skip
    assert hubert_config(shapes)["num_attention_heads"] == heads
    assert hubert_config(shapes) == expected.to_dict()


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-L-14"])
def test_the_published_clip_sizes(name):
    expected = open_clip.get_model_config(f"{name}-quickgelu")
    with torch.device("meta"):
        tensors = open_clip.CLIP(**expected).state_dict()
    assert clip_config(tensors, GOLDEN) == expected


def test_rows_are_found_bit_for_bit():
    full = torch.randn(50, 4)
    assert find_rows(full[[7, 3, 49]], full, GOLDEN) == (7, 3, 49)


def test_mistakes(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "bare.ckpt")
    with pytest.raises(sclip.UserError, match="not a checkpoint of SpeechCLIP"):
        import_checkpoint(tmp_path / "bare.ckpt", tmp_path / "out")
    torch.save({"state_dict": {"x": 1}, "hyper_parameters": {"config": {}}}, tmp_path / "odd.ckpt")
    with pytest.raises(sclip.UserError, match="expected tensors under state_dict"):
        import_checkpoint(tmp_path / "odd.ckpt", tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(sclip.UserError, match="there: already exists"):
        import_checkpoint(GOLDEN / "large-parallel.ckpt", tmp_path / "there")
