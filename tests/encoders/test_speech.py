"""An utterance's hidden states: the same in any batch, and those of transformers one by one."""

import pytest
import torch
from small import SPEECH_CONFIG
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

from sclip.encoders.source import Source
from sclip.encoders.speech import SpeechEncoder
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
    found = speech([waveform]).values[0]
    expected = torch.cat(blocks)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert torch.equal(speech([waveform], states=[2, 0]).values[0], found[[2, 0]])


def test_only_layer_norm_models_normalise_the_waveform_by_default():
    assert [encoder(name).normalize_waveform for name in ("hubert-base", "hubert-large")] == [False, True]


def test_utterances_shorter_than_a_frame_are_refused():
    speech = encoder("hubert-base")
    assert speech.shortest == 400
    assert speech.frame_seconds == 0.02
    with pytest.raises(UserError, match="utterance 1: 399 samples; a frame takes 400"):
        speech(recordings(400, 399))


def test_a_saved_encoder_loads_with_the_same_states(tmp_path):
    speech = encoder("hubert-base", normalize_waveform=True)
    speech.save(tmp_path / "speech")
    again = SpeechEncoder.from_pretrained(str(tmp_path / "speech"), normalize_waveform=True)
    waveforms = recordings(3000, 800)
    assert torch.equal(again(waveforms).values, speech(waveforms).values)


def test_missing_tensors_are_not_drawn_at_random(tmp_path):
    from safetensors.torch import load_file, save_file

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
    with pytest.raises(UserError, match="a model_type of hubert, wav2vec2, wavlm, data2vec-audio, found 'bert'"):
        SpeechEncoder.from_pretrained(str(tmp_path))
