"""An utterance's hidden states: the same in any batch, and those of transformers one by one."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from small import SPEECH_CONFIG, speech_encoder, w2v_bert
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    HubertConfig,
    HubertModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

from sclip.device import autocast, weights_cast_once
from sclip.encoders.source import Source
from sclip.encoders.speech import SpeechEncoder, samples_of_a_frame
from sclip.errors import UserError

SMALL = SPEECH_CONFIG | {"num_hidden_layers": 3}
LARGE = SMALL | {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
DATA2VEC = SMALL | {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 7, "num_codevector_groups": 1}
LAYOUTS = {
    "hubert-base": (HubertModel, HubertConfig, SMALL),
    "hubert-large": (HubertModel, HubertConfig, LARGE),
    "hubert-batch-norm": (HubertModel, HubertConfig, SMALL | {"conv_pos_batch_norm": True}),
    "wav2vec2-base": (Wav2Vec2Model, Wav2Vec2Config, SMALL),
    "wav2vec2-large": (Wav2Vec2Model, Wav2Vec2Config, LARGE),
    "wavlm-base": (WavLMModel, WavLMConfig, SMALL),
    "wavlm-large": (WavLMModel, WavLMConfig, LARGE),
    "data2vec": (Data2VecAudioModel, Data2VecAudioConfig, DATA2VEC),
}


def encoder(layout: str, **options) -> SpeechEncoder:
    return SpeechEncoder(reference_model(layout), Source(layout), **options)


def reference_model(layout: str):
    torch.manual_seed(0)
    model_class, config, sizes = LAYOUTS[layout]
    model = model_class(config(**sizes)).eval()
    for name, tensor in model.state_dict().items():
        if name.endswith("batch_norm.running_mean"):
            torch.nn.init.normal_(tensor)  # so that padding, normalised, is not zero
    return model


def recordings(*lengths: int) -> list[torch.Tensor]:
    """Loud and quiet, with an offset, so that norms over padding show."""
    generator = torch.Generator().manual_seed(1)
    return [(0.02 + 0.3 / (i + 1) * torch.randn(n, generator=generator)) for i, n in enumerate(lengths)]


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_states_do_not_depend_on_the_batch(layout):
    speech = encoder(layout)
    waveforms = recordings(16000, 400, 719, 720, 9000, 401)
    batch = speech(waveforms)
    assert batch.lengths.tolist() == [49, 1, 1, 2, 27, 1]
    for together, waveform in zip(batch, waveforms, strict=True):
        alone = speech([waveform]).values[0]
        assert together.shape == alone.shape == (4, len(alone[0]), 32)
        assert (together - alone).abs().max() <= 1e-5 * alone.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_states_are_those_of_the_reference(layout):
    """One utterance through transformers' own model, block by block."""
    reference = reference_model(layout)
    speech = encoder(layout, normalize_waveform=False)
    blocks = []
    for i, block in enumerate(reference.encoder.layers):
        if i == 0:
            block.register_forward_pre_hook(lambda _, args, kwargs: blocks.append(args[0]), with_kwargs=True)
        block.register_forward_hook(lambda _, args, out: blocks.append(out[0] if isinstance(out, tuple) else out))
    (waveform,) = recordings(8000)
    reference(waveform[None])
    batch = speech([waveform])
    found, expected = batch.values[0], torch.cat(blocks)
    assert batch.lengths.tolist() == [found.shape[1]] == [int(speech.frames(torch.tensor(8000)))]
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert torch.equal(speech([waveform], states=[2, 0]).values[0], found[[2, 0]])


def test_convolutions_of_narrow_groups_are_computed_in_fp32_with_amx(monkeypatch):
    """oneDNN computes them wrongly in bf16 on such CPUs."""
    convolution = speech_encoder().model.encoder.pos_conv_embed.conv
    frames = torch.randn(2, convolution.in_channels, 40)
    exact = convolution(frames)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(convolution(frames), exact)
        assert torch.equal(convolution(frames.bfloat16()), convolution(frames.bfloat16().float()))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    with torch.autocast("cpu", torch.bfloat16):
        assert convolution(frames).dtype == torch.bfloat16


class CastsOfWeights(TorchDispatchMode):
    """Count the conversions of a module's weights to another type."""

    def __init__(self, module):
        super().__init__()
        self.weights, self.count = {weight.data_ptr() for weight in module.parameters()}, 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += operation is torch.ops.aten._to_copy.default and args[0].data_ptr() in self.weights
        return operation(*args, **kwargs or {})


@torch.no_grad()
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("layout", [*LAYOUTS, "w2v-bert"])
def test_weights_that_are_cast_once_give_the_same_states(layout, precision, bf16):
    speech = SpeechEncoder(w2v_bert(), Source(layout)) if layout == "w2v-bert" else encoder(layout)
    before = {name: (weight.data_ptr(), weight.dtype) for name, weight in speech.named_parameters()}

    def encoded():
        with autocast("cpu", precision), CastsOfWeights(speech) as casts:
            return speech(recordings(16000, 720)).values, casts.count

    expected, casts_of_each_batch = encoded()
    with pytest.raises(ZeroDivisionError), weights_cast_once(speech, "cpu", precision):
        states, casts = encoded()
        raise ZeroDivisionError
    assert states.dtype == expected.dtype
    assert torch.equal(states, expected)
    assert casts <= 3  # those of positional convolutions and of embeddings of distances
    assert casts_of_each_batch == 0 if precision == "fp32" else casts_of_each_batch > 30
    assert {name: (weight.data_ptr(), weight.dtype) for name, weight in speech.named_parameters()} == before


def test_only_layer_norm_models_normalise_the_waveform_by_default():
    assert [encoder(name).normalize_waveform for name in ("hubert-base", "hubert-large")] == [False, True]


def test_utterances_shorter_than_a_frame_are_refused():
    speech = encoder("hubert-base")
    assert speech.shortest == 400
    assert speech.frame_seconds == 0.02
    with pytest.raises(UserError, match=r"1: too short: 0\.0249 s, 399 samples at 16 kHz; .* at least 0\.025 s, 400 "):
        speech(recordings(400, 399))


def test_a_saved_encoder_loads_with_the_same_states(tmp_path):
    speech = encoder("hubert-base", normalize_waveform=True)
    speech.save(tmp_path / "speech")
    again = SpeechEncoder.from_pretrained(str(tmp_path / "speech"), normalize_waveform=True)
    waveforms = recordings(3000, 800)
    assert torch.equal(again(waveforms).values, speech(waveforms).values)


def test_missing_tensors_are_not_drawn_at_random(tmp_path):
    encoder("hubert-base").save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["encoder.layers.1.attention.k_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"1 tensors are missing, encoder\.layers\.1\.attention\.k_proj\.weight"):
        SpeechEncoder.from_pretrained(str(tmp_path))


def test_another_kind_of_model_is_refused(tmp_path):
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"a model_type of hubert, .*, data2vec-audio, wav2vec2-bert, found 'bert'"):
        SpeechEncoder.from_pretrained(str(tmp_path))


@torch.no_grad()
def test_log_mel_features_are_those_of_transformers():
    """An odd frame of 10 ms at the end counts for the normalisation and is left out."""
    speech = SpeechEncoder(w2v_bert(), Source("w2v-bert"))
    waveforms = [*recordings(16000, 560, 719, 720, 9000), 1e-4 * recordings(900)[0], 0.5 + recordings(1500)[0]]
    waveforms[0][4000:9000] = 0
    expected = SeamlessM4TFeatureExtractor()([w.numpy() for w in waveforms], sampling_rate=16000, return_tensors="pt")
    for i, (waveform, length) in enumerate(zip(waveforms, expected["attention_mask"].sum(1).tolist(), strict=True)):
        found = speech.input.features(waveform)
        assert len(found) == length == int(speech.frames(torch.tensor(len(waveform))))
        torch.testing.assert_close(found, expected["input_features"][i, :length], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("position", ["relative_key", "rotary", "relative"])
def test_w2v_bert_gives_the_states_of_transformers_in_any_batch(position):
    reference, speech = w2v_bert(position), SpeechEncoder(w2v_bert(position), Source("w2v-bert"))
    waveforms = recordings(16000, 560, 720, 9000, 561)
    batch = speech(waveforms)
    assert batch.lengths.tolist() == [49, 1, 1, 27, 1]
    assert (speech.states, speech.width, speech.shortest, speech.frame_seconds) == (4, 32, 560, 0.02)
    extractor = SeamlessM4TFeatureExtractor()
    for together, waveform in zip(batch, waveforms, strict=True):
        inputs = extractor(waveform.numpy(), sampling_rate=16000, return_tensors="pt")
        states = torch.stack(reference(**inputs, output_hidden_states=True).hidden_states, 1)[0]
        expected = states[:, : len(together[0])]
        assert together.shape == expected.shape
        assert (together - expected).abs().max() <= 1e-4 * expected.abs().max()
        assert torch.equal(speech([waveform], states=[3, 1]).values[0], speech([waveform]).values[0, [3, 1]])


def test_w2v_bert_is_saved_and_loaded(tmp_path):
    speech = SpeechEncoder(w2v_bert(), Source("w2v-bert"))
    speech.save(tmp_path)
    again = SpeechEncoder.from_pretrained(str(tmp_path))
    assert samples_of_a_frame(tmp_path) == again.shortest == 560
    assert torch.equal(again(recordings(3000)).values, speech(recordings(3000)).values)
    assert again.fingerprint() == speech.fingerprint()
    assert SeamlessM4TFeatureExtractor.from_pretrained(tmp_path).stride == 2
    assert not again.normalize_waveform
    with pytest.raises(UserError, match="normalizes its features; leave normalize_waveform out"):
        SpeechEncoder.from_pretrained(str(tmp_path), normalize_waveform=True)
    with pytest.raises(UserError, match=r"0: too short: 0\.0349 s, 559 samples at 16 kHz; .* at least 0\.035 s, 560 "):
        again(recordings(559))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feature_projection_input_dim": 80}, "feature_projection_input_dim: expected 160, 2 frames of 80 log-mel"),
        ({"num_hidden_layers": 150, "hidden_size": 4096}, "declares .* weights or more"),
        ({"max_source_positions": 10**9}, "max_source_positions: expected a number up to 100,000"),
    ],
)
def test_sizes_of_w2v_bert_are_checked_before_it_is_built(change, message, tmp_path):
    SpeechEncoder(w2v_bert(), Source("w2v-bert")).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=message):
        SpeechEncoder.from_pretrained(str(tmp_path))


def test_mhubert_is_read_as_its_authors_published_it(tmp_path):
    """mHuBERT-147 has the layout of HuBERT base, with the names that tensors of a weight norm had in older torch."""
    speech = encoder("hubert-base")
    speech.save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    renamed = {
        re.sub(r"parametrizations\.weight\.original(\d)", lambda m: f"weight_{'gv'[int(m[1])]}", name): tensor
        for name, tensor in tensors.items()
    }
    assert {name[-2:] for name in renamed.keys() - tensors.keys()} == {"_g", "_v"}
    save_file(renamed, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True}))
    again = SpeechEncoder.from_pretrained(str(tmp_path))
    assert not again.normalize_waveform
    assert torch.equal(again(recordings(3000)).values, speech(recordings(3000)).values)
