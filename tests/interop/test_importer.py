"""Test the import of checkpoints with missing, unknown or changed tensors and settings."""

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
from sclip.interop.importer import clip_config, find_vocabulary_rows, import_checkpoint


def import_changed(tmp_path, change, name="base-hybrid-cif"):
    """Apply `change(state_dict, config)` to a golden checkpoint and import it with the command line."""
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
        (lambda t, _: t.pop("clip.original_text_emb_weight"), "clip.original_text_emb_weight is missing; a checkpoint"),
        (lambda t, _: t.pop("clip.model.visual.conv1.weight"), "clip.model.visual.conv1.weight is missing"),
        (lambda t, _: t.pop("cascaded_branch.downsampling.conv.0.weight"), "head.cif.convolutions.0.weight is missing"),
        (
            lambda t, _: t.update({KEYS: torch.ones(96, 32, dtype=torch.long)}),
            "expected torch.float32, found torch.int64",
        ),
        (
            lambda t, _: t.update({KEYS: torch.ones(96, 32).to_sparse()}),
            f"state_dict.{KEYS}: expected a name and a dense",
        ),
        (setting(f"{BRANCH}.transformer_args.nhead", 0), "cannot be imported: ValueError: heads: expected at"),
        (setting(f"{BRANCH}.vq.args.temp", "fixed=abc"), "cannot be imported: ValueError: could not convert"),
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
        (lambda _, c: c.pop("cl_loss"), "cl_loss.type is missing from the configuration"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_invalid_checkpoint_gives_one_line_error(tmp_path, change, message):
    result = import_changed(tmp_path, change)
    assert result.exit_code == 1
    assert re.fullmatch(r"Error: .*changed\.ckpt: .*\n", result.output)
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_harmless_differences_are_accepted(tmp_path):
    """Change the size of eye_mat and the precision, drop the second CLIP, add an unknown tensor outside a branch."""

    def change(tensors, _):
        for name in [n for n in tensors if n.startswith("cascaded_branch.clip.")]:
            del tensors[name]
        tensors["criterion.eye_mat"] = torch.eye(7)
        tensors["criterion.later_addition"] = torch.ones(1)
        for name, tensor in tensors.items():
            tensors[name] = tensor.half() if tensor.is_floating_point() else tensor

    result = import_changed(tmp_path, change)
    assert result.exit_code == 0, result.output
    assert re.search(r"ignored +unknown: criterion\.later_addition", result.output)
    model = sclip.load(tmp_path / "out")
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert model.encode_speech([torch.randn(3000)]).isfinite().all()


def test_full_vocabulary_is_imported(tmp_path):
    """Use a checkpoint with a single token table, because its vocabulary was never reduced."""

    def change(tensors, config):
        tensors["clip.model.token_embedding.weight"] = tensors.pop("clip.original_text_emb_weight")
        config["clip"]["reduce_subword_embbedding"] = None

    assert import_changed(tmp_path, change).exit_code == 0
    model = sclip.load(tmp_path / "out")
    assert model.vocabulary.ids == tuple(range(200))
    assert model.vocabulary.blocked == (0, 2, 3)


def test_unpublished_sizes_need_a_valid_sizes_file(tmp_path):
    """Tensors do not show the number of attention heads; the published sizes imply it."""
    with pytest.raises(sclip.UserError, match="expected a multiple of 64 as width, found 32"):
        import_checkpoint(GOLDEN / "large-parallel.ckpt", tmp_path / "out")
    sizes = json.loads((GOLDEN / "large-parallel.json").read_text())
    for content, message in (
        ("{", "sizes.json: not JSON"),
        ('{"hubert": {}}', "expected the tables hubert and clip: KeyError"),
        (json.dumps({**sizes, "hubert": {"hidden_size": 30}}), "no HuBERT model has this configuration"),
        (json.dumps({**sizes, "hubert": {**sizes["hubert"], "hidden_size": 64}}), r"expected \(.*64.*\), found"),
    ):
        (tmp_path / "sizes.json").write_text(content)
        with pytest.raises(sclip.UserError, match=message):
            import_checkpoint(GOLDEN / "large-parallel.ckpt", tmp_path / "out", tmp_path / "sizes.json")
    with pytest.raises(sclip.UserError, match=r"none\.json: no such file"):
        import_checkpoint(GOLDEN / "large-parallel.ckpt", tmp_path / "out", tmp_path / "none.json")


@pytest.mark.parametrize(
    ("name", "width", "layers", "heads", "norms"), [("base", 768, 12, 12, "group"), ("large", 1024, 24, 16, "layer")]
)
def test_hubert_config_of_published_sizes(name, width, layers, heads, norms):
    """Convert the tensor shapes of fairseq's HuBERT base and large to transformers' configurations."""
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
def test_clip_config_of_published_sizes(name):
    expected = open_clip.get_model_config(f"{name}-quickgelu")
    with torch.device("meta"):
        tensors = open_clip.CLIP(**expected).state_dict()
    assert clip_config(tensors, GOLDEN) == expected


def test_find_vocabulary_rows_returns_indices_in_the_full_table():
    full = torch.randn(50, 4)
    assert find_vocabulary_rows(full[[7, 3, 49]], full, GOLDEN) == (7, 3, 49)
    assert find_vocabulary_rows(torch.ones(1, 2), torch.ones(3, 2), GOLDEN) == (0,)  # the first of equal rows


def test_unusable_inputs_are_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "bare.ckpt")
    with pytest.raises(sclip.UserError, match="not a checkpoint of SpeechCLIP"):
        import_checkpoint(tmp_path / "bare.ckpt", tmp_path / "out")
    torch.save({"state_dict": {"x": 1}, "hyper_parameters": {"config": {}}}, tmp_path / "odd.ckpt")
    with pytest.raises(sclip.UserError, match="expected tensors under state_dict"):
        import_checkpoint(tmp_path / "odd.ckpt", tmp_path / "out")
    (tmp_path / "existing").mkdir()
    with pytest.raises(sclip.UserError, match="existing: already exists"):
        import_checkpoint(GOLDEN / "large-parallel.ckpt", tmp_path / "existing")
