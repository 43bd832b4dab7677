"""Test that published configurations are converted, and that unsupported values are refused.

Every value in CONFIG differs from the default.
"""

import copy

import pytest
import torch

from sclip.config import Architecture, AttentionConfig, CifConfig, HeadConfig, KeywordConfig, ObjectiveConfig
from sclip.errors import UserError
from sclip.interop.settings import PublishedSettings, Settings, published_settings

CONFIG = {
    "model_settings": {
        "cascaded_objective_weight": 1.5,
        "parallel_objective_weight": 0.5,
        "parallel_branch": {
            "transformer_args": {
                "type": "TransformerEncoder", "n_layers": 1, "d_model": 32, "nhead": 4, "dim_feedforward": 96,
                "dropout": 0.2,
            },
        },
        "cascaded_branch": {
            "type": "KW_HybridBranch_dynamic",
            "vq": {"type": "SimpleVectorQuantizer", "args": {"temp": "fixed=0.3", "use_gumbel": False, "hard": True}},
            "keyword": {
                "number": 5,
                "batchnorms": {"type": "eachKw", "parallel": True},
                "kw_projection": {"dropout": 0.4},
            },
            "transformer_args": {
                "type": "MultiheadAttentionAndNorm", "n_layers": 1, "d_model": 32, "nhead": 2, "dim_feedforward": 64,
                "dropout": 0.3,
            },
            "downsampling": {
                "type": "cif",
                "cif": {
                    "quantity_loss_weight": 0.7, "conv_cif_dropout": 0.1, "cif_threshold": 0.9, "scaling_step": 123,
                    "apply_scaling": True, "tail_handling_firing_threshold": 0.6,
                },
            },
        },
    },
    "cl_loss": {
        "type": "MaskedContrastiveLoss",
        "args": {"temperature": 0.09, "temperature_trainable": True, "margin": 0.2, "dcl": False},
    },
    "clip": {"name": "ViT-L/14"},
    "audio_encoder": {
        "type": "FairseqHubert", "name": "hubert_large_ll60k", "feat_select_idx": "weighted_sum",
        "normalize_hiddenstates": True,
    },
    "data": {"dataset": {"normalize_waveform": True}},
}  # fmt: skip
TENSORS = {
    "cascaded_branch.downsampling.conv.0.weight": torch.empty(32, 32, 5),
    "cascaded_branch.downsampling.conv.3.weight": torch.empty(32, 32, 5),
    "cascaded_branch.linear_proj.sequential.0.weight": torch.empty(48, 32),
    "cascaded_branch.linear_proj.sequential.3.weight": torch.empty(24, 48),
}
CASCADED = "model_settings.cascaded_branch"


def with_settings(**changes) -> Settings:
    config = copy.deepcopy(CONFIG)
    for path, value in changes.items():
        *parents, last = path.split(".")
        table = config
        for key in parents:
            table = table.setdefault(key, {})
        table[last] = value
    return Settings(config, "a.ckpt")


def read(**changes) -> PublishedSettings:
    return published_settings(with_settings(**changes), TENSORS)


def test_hybrid_cif_settings_are_converted():
    attention = AttentionConfig(heads=2, feed_forward=0.0, dropout=0.3)
    cif = CifConfig(
        layers=2, kernel=5, dropout=0.5, threshold=0.9, tail=0.6, max_slots=75, frames_per_slot=20, scaled_steps=123,
        convolves_padding=False,
    )  # fmt: skip
    keywords = KeywordConfig(cif=cif, hidden=(48,), dropout=0.4, temperature=0.3, norm_counts_padding=True)
    head = HeadConfig(attention, utterance=True, keywords=keywords, normalize_states=True)
    objective = ObjectiveConfig(0.5, 1.5, 0.7, temperature=0.09, learn_temperature=True, margin=0.2)
    expected = PublishedSettings("hybrid-cif", Architecture(head, objective), True, "hubert_large_ll60k", "ViT-L/14")
    assert read() == expected


def test_cascaded_settings_are_converted():
    published = read(**{f"{CASCADED}.type": "CascadedBranch", "model_settings.parallel_objective_weight": 0.0})
    assert published.arch == "cascaded"
    keywords = KeywordConfig(slots=5, hidden=(48,), dropout=0.4, temperature=0.3, scrambled_norm_start=True)
    assert published.architecture.head == HeadConfig(
        AttentionConfig(heads=2, dropout=0.3), keywords=keywords, normalize_states=True
    )
    assert published.architecture.objective.parallel == published.architecture.objective.quantity == 0


def test_parallel_settings_are_converted_from_both_layouts():
    """SpeechCLIP has the layer type outside its arguments, SpeechCLIP+ inside."""
    for place in ("transformer_type", "transformer_args.type"):
        changes = {
            "model_settings.cascaded_objective_weight": 0.0,
            "model_settings.parallel_branch.transformer_args.type": None,
        }
        changes[f"model_settings.parallel_branch.{place}"] = "TransformerEncoder"
        published = read(**changes)
        assert published.arch == "parallel"
        attention = AttentionConfig(heads=4, feed_forward=3.0, dropout=0.2)
        assert published.architecture.head == HeadConfig(attention, utterance=True, normalize_states=True)


def test_scaling_step_is_converted():
    cif = f"{CASCADED}.downsampling.cif"
    steps = [
        read(**{f"{cif}.{key}": value}).architecture.head.keywords.cif.scaled_steps
        for key, value in (("apply_scaling", False), ("scaling_step", -1), ("scaling_step", 0))
    ]
    assert steps == [0, 2**62, 0]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("audio_encoder.type", "s3prl_plus"),
        ("audio_encoder.feat_select_idx", "last_hidden_state"),
        ("audio_encoder.normalize_type", "method1"),
        ("model_settings.image_encoder_projection", {}),
        ("model_settings.parallel_branch_projection", {}),
        ("model_settings.cascaded_branch_projection", {}),
        (f"{CASCADED}.type", "KW_CascadedBranch_Integrated"),
        (f"{CASCADED}.transformer_args.type", "RelTransformerEncoder"),
        (f"{CASCADED}.transformer_args.n_layers", 2),
        (f"{CASCADED}.transformer_args.norm_first", True),
        (f"{CASCADED}.transformer_args.activation", "relu"),
        (f"{CASCADED}.transformer_args.layer_norm_eps", 1e-6),
        (f"{CASCADED}.vq.type", "GumbelVectorQuantizer"),
        (f"{CASCADED}.vq.args.use_gumbel", True),
        (f"{CASCADED}.vq.args.hard", False),
        (f"{CASCADED}.vq.args.temp", "learnable=0.1"),
        (f"{CASCADED}.downsampling.type", "true_boundary"),
        (f"{CASCADED}.downsampling.cif.produce_weight_type", "dense"),
        (f"{CASCADED}.downsampling.cif.apply_tail_handling", False),
        ("cl_loss.type", "SupConLoss"),
        ("cl_loss.args.dcl", True),
        ("cl_loss.args.a2b", False),
    ],
)
def test_unsupported_value_is_refused_by_name(path, value):
    with pytest.raises(UserError) as error:
        read(**{path: value})
    assert str(error.value).startswith(f"a.ckpt: {path}: expected ")


def test_an_attention_layer_is_refused_under_the_key_that_has_its_type():
    settings = with_settings(**{f"{CASCADED}.transformer_type": "Foo"})
    del settings._data["model_settings"]["cascaded_branch"]["transformer_args"]["type"]
    with pytest.raises(UserError, match=r"cascaded_branch\.transformer_type: expected .*, found 'Foo'"):
        published_settings(settings, TENSORS)


@pytest.mark.parametrize(("key", "value"), [("type", "same"), ("parallel", False)])
def test_unsupported_norm_of_fixed_slots_is_refused(key, value):
    changes = {f"{CASCADED}.type": "HybridBranch", f"{CASCADED}.keyword.batchnorms.{key}": value}
    with pytest.raises(UserError, match=f"keyword.batchnorms.{key}: expected"):
        read(**changes)


def test_missing_setting_is_named():
    settings = with_settings()
    del settings._data["cl_loss"]
    with pytest.raises(UserError, match=r"a\.ckpt: cl_loss\.type is missing from the configuration"):
        published_settings(settings, TENSORS)
