"""A configuration that declares absurd sizes is refused before anything of these sizes is built."""

import json

import open_clip
import pytest
import torch
from small import clip_encoder, speech_encoder
from transformers import AutoConfig, AutoModel

from sclip.encoders.clip import ClipEncoder, empty_clip
from sclip.encoders.sizes import check_clip_sizes, check_speech_sizes
from sclip.encoders.speech import SpeechEncoder
from sclip.errors import UserError

MILLION = 1_000_000
SPEECH = [
    ({"num_hidden_layers": MILLION}, r"config\.json: num_hidden_layers: expected .* up to 200, found 1000000"),
    ({"hidden_size": 10**400}, r"config\.json: hidden_size: expected a whole number up to 10,000,000, found 1000"),
    ({"hidden_size": 65_536}, r"config\.json: declares .* weights or more, but the weights files .* only .* bytes"),
    ({"conv_dim": [MILLION] * 7}, r"config\.json: declares .* weights or more"),
    ({"conv_kernel": [2] * MILLION}, r"config\.json: conv_kernel: expected 1 to 200 numbers, found 1000000"),
    ({"num_conv_pos_embeddings": MILLION}, r"config\.json: declares .* weights or more"),
    ({"num_hidden_layers": -1}, "num_hidden_layers: expected a whole number up to 200, found -1"),
    ({"num_hidden_layers": None}, "num_hidden_layers: expected a whole number up to 200, found None"),
]
CLIP = [
    ({"text_cfg": {"layers": MILLION}}, r"model_cfg\.text_cfg: layers: expected .* up to 200, found 1000000"),
    ({"text_cfg": {"context_length": MILLION}}, r"model_cfg\.text_cfg: context_length: expected a number up to 10,000"),
    ({"text_cfg": {"vocab_size": 5 * MILLION}}, r"open_clip_config\.json: model_cfg: declares .* weights or more"),
    ({"text_cfg": {"mlp_ratio": 1e300}}, r"model_cfg\.text_cfg: mlp_ratio: expected a number up to 16, found 1e\+300"),
    ({"vision_cfg": {"layers": [3, MILLION, 3, 3]}}, r"model_cfg\.vision_cfg: layers: expected .* up to 200"),
    ({"vision_cfg": {"width": 65_536}}, r"open_clip_config\.json: model_cfg: declares .* weights or more"),
    ({"vision_cfg": {"layers": [0, 0, 0, 0], "width": 500}}, r"model_cfg: declares .* weights or more"),
    ({"vision_cfg": {"timm_model_name": "vit_gigantic_patch14_clip_224"}}, r"model_cfg: declares .* weights or more"),
    ({"vision_cfg": {"timm_model_name": "no_such_model"}}, r"timm_model_name: 'no_such_model' cannot be used"),
    ({"vision_cfg": {"image_size": MILLION}}, r"open_clip_config\.json: model_cfg: declares .* weights or more"),
    ({"multimodal_cfg": {"layers": MILLION}}, r"model_cfg\.multimodal_cfg: layers: expected a whole number up to 200"),
    ({"embed_dim": 10**9}, r"model_cfg: embed_dim: expected a whole number up to 100,000, found 1000000000"),
    ({"text_cfg": {"mlp_ratio": None}}, "cannot be loaded"),
    ({"text_cfg": None}, r"model_cfg\.text_cfg: expected a table, found None"),
]


@pytest.mark.parametrize(("change", "message"), SPEECH)
def test_absurd_sizes_of_a_speech_encoder_are_refused(change, message, tmp_path):
    speech_encoder().save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message) as error:
        SpeechEncoder.from_pretrained(str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("change", "message"), CLIP)
def test_absurd_sizes_of_clip_are_refused(change, message, tmp_path):
    clip_encoder().save(tmp_path)
    path = tmp_path / "open_clip_config.json"
    config = json.loads(path.read_text())
    for key, value in change.items():
        old = config["model_cfg"].get(key, {})
        config["model_cfg"][key] = old | value if isinstance(value, dict) else value
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=message) as error:
        ClipEncoder.from_pretrained(f"local-dir:{tmp_path}")
    assert "\n" not in str(error.value)


def write_weights(folder, model: torch.nn.Module) -> None:
    """Write a file, without its contents, of as many bytes as the model has weights."""
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(sum(tensor.numel() for tensor in model.state_dict().values()))


@pytest.mark.parametrize("kind", ["hubert", "wav2vec2", "wavlm", "data2vec-audio"])
def test_a_speech_encoder_of_real_size_has_as_many_weights_as_it_declares(kind, tmp_path):
    config = AutoConfig.for_model(kind)
    with torch.device("meta"):
        write_weights(tmp_path, AutoModel.from_config(config))
    for declared in (config.to_dict(), {"model_type": kind}):
        check_speech_sizes(declared, tmp_path, "config.json")


@pytest.mark.parametrize("name", ["RN50x64", "ViT-B-32", "ViT-bigG-14", "coca_ViT-L-14", "ViT-B-16-SigLIP-256"])
def test_a_clip_of_real_size_has_as_many_weights_as_it_declares(name, tmp_path):
    config = open_clip.get_model_config(name)
    with torch.device("meta"):
        model = open_clip.create_model(name, device="meta", load_weights=False)
        write_weights(tmp_path, model)
        assert type(empty_clip(config)) is type(model)
    check_clip_sizes(config, tmp_path, "model_cfg")
