"""The frozen speech encoder: waveforms in, all hidden states out, with their true lengths.

It can be any encoder of transformers' wav2vec 2.0 family, or W2V-BERT 2.0. inputs.py describes what each of them reads.

**An utterance's states do not depend on its batch.** transformers applies the attention mask, and this module corrects
two other places that read padding:
- the first norm of group-norm models, whose statistics run over time (`ValidGroupNorm`)
- positional convolutions, which would read what a convolution (data2vec) or a BatchNorm (some HuBERTs) before them
  wrote into the padding

The hidden states are the input of the first block and then the output of each block. The last one of large models is
taken before the final norm.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    Data2VecAudioModel,
    HubertModel,
    PreTrainedConfig,
    Wav2Vec2BertModel,
    Wav2Vec2Model,
    WavLMModel,
)
from transformers.utils import logging

from sclip.device import send
from sclip.encoders.audio import too_short_reason
from sclip.encoders.convolutions import avoid_wrong_convolutions, speed_up_convolutions
from sclip.encoders.inputs import LogMelInput, WaveformInput, receptive_field
from sclip.encoders.sizes import check_speech_sizes
from sclip.encoders.source import Source, check_kind, fetch_repo, find_folder
from sclip.errors import UserError, one_line
from sclip.fingerprints import module_fingerprint
from sclip.padded import Padded, valid_mask
from sclip.parsing import read_json
from sclip.tensors import save_tensors

LOG_MEL = "wav2vec2-bert"  # the type that reads log-mel filter banks
FAMILY = {
    "hubert": HubertModel,
    "wav2vec2": Wav2Vec2Model,
    "wavlm": WavLMModel,
    "data2vec-audio": Data2VecAudioModel,
    LOG_MEL: Wav2Vec2BertModel,
}
CONFIG_FILE = "config.json"
WEIGHT_FILES = ["model.safetensors", "model-*.safetensors", "model.safetensors.index.json"]
# A checkpoint may lack this tensor, because only pre-training reads it.
UNREAD = {"masked_spec_embed"}


class _Batch(NamedTuple):
    first_lengths: list[int]  # after the first convolution
    valid: Tensor  # (B, T)


# One for each thread: several threads may encode at the same time.
_CURRENT_BATCH: ContextVar[_Batch] = ContextVar("the current batch")


class ValidGroupNorm(nn.Module):
    """A norm of each channel over an utterance's own frames; nn.GroupNorm would count padding."""

    def __init__(self, norm: nn.GroupNorm):
        super().__init__()
        assert norm.num_groups == norm.num_channels
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each utterance: (B, C, T) -> (B, C, T), zero after the utterance's end.

        A loop over utterances is faster than masked sums of the batch. This is the encoder's largest tensor: torch's
        own norm reads it once, masked sums read it nine times.
        """
        normed = torch.zeros_like(x)
        for row, out, length in zip(x, normed, _CURRENT_BATCH.get().first_lengths, strict=True):
            out[:, :length] = F.group_norm(row[None, :, :length], len(row), self.weight, self.bias, self.eps)[0]
        return normed


class SpeechEncoder(nn.Module):
    """A speech encoder of transformers. The model is changed in place, not copied.

    With `normalize_waveform` each utterance is first brought to zero mean and unit variance. The default is what the
    model was trained with: true for models whose norms are layer norms. A hub repo's preprocessor_config.json is
    ignored, because those of base models contradict their training. W2V-BERT has no such choice.
    """

    def __init__(self, model: Any, source: Source, normalize_waveform: bool | None = None):
        super().__init__()
        config = model.config
        if config.model_type not in FAMILY:
            raise UserError(f"speech encoder {source.name}: a {config.model_type}; expected one of {', '.join(FAMILY)}")
        if getattr(config, "add_adapter", False):
            raise UserError(
                f"speech encoder {source.name}: has an adapter, which changes lengths; use a model without one"
            )
        layer_norms = getattr(config, "feat_extract_norm", "layer") == "layer"
        self.model, self.source = model.eval().requires_grad_(False), source
        self.input: WaveformInput | LogMelInput
        if config.model_type == LOG_MEL:
            if normalize_waveform:
                raise UserError(f"speech encoder {source.name}: normalizes its features; leave normalize_waveform out")
            self.input = LogMelInput()
            return
        self.input = WaveformInput(model, layer_norms if normalize_waveform is None else normalize_waveform)
        if not layer_norms:
            first = model.feature_extractor.conv_layers[0]
            first.layer_norm = ValidGroupNorm(first.layer_norm)
        avoid_wrong_convolutions(model)
        speed_up_convolutions(model)
        positions = model.encoder.pos_conv_embed
        convolutions = list(getattr(positions, "layers", []))[1:]
        if getattr(positions, "batch_norm", None) is not None:
            convolutions.append(positions.conv)
        for convolution in convolutions:
            convolution.register_forward_pre_hook(self._zero_padding)

    @classmethod
    def from_pretrained(
        cls, name: str, revision: str | None = None, normalize_waveform: bool | None = None
    ) -> "SpeechEncoder":
        """Load a local folder, or a hub repo at a revision, in transformers' format."""
        folder, commit = find_folder(name, revision, [CONFIG_FILE, *WEIGHT_FILES])
        if commit is not None and not any(folder.glob("model*.safetensors")):
            fetch_repo(name, commit, ["pytorch_model.bin"])
        kind, config = _read_config(folder, name)
        try:
            with without_progress_bar():
                model, loading = kind.from_pretrained(
                    folder,
                    config=config,
                    dtype=torch.float32,
                    attn_implementation="sdpa" if kind._supports_sdpa else "eager",
                    weights_only=True,
                    output_loading_info=True,
                )
        except Exception as error:  # transformers fails in many ways on a damaged folder
            raise UserError(f"speech encoder {name}: cannot be loaded: {one_line(error)}") from None
        missing = set(loading["missing_keys"]) - UNREAD
        if missing:
            raise UserError(f"speech encoder {name}: {len(missing)} tensors are missing, {min(missing)} among them")
        return cls(model, Source(name, commit), normalize_waveform)

    @property
    def states(self) -> int:
        return int(self.model.config.num_hidden_layers) + 1

    @property
    def width(self) -> int:
        return int(self.model.config.hidden_size)

    @property
    def normalize_waveform(self) -> bool:
        return self.input.normalize

    @property
    def depends_on_loudness(self) -> bool:
        """Return whether quiet speech gives other hidden states than loud speech."""
        return isinstance(self.input, WaveformInput) and not self.input.normalize

    @property
    def frame_seconds(self) -> float:
        return self.input.frame_seconds

    @property
    def shortest(self) -> int:
        """Return how many samples make one frame."""
        return self.input.shortest

    def frames(self, samples: Tensor) -> Tensor:
        """Return the number of frames of waveforms, given their numbers of samples."""
        return self.input.frames(samples)

    def forward(self, waveforms: Sequence[Tensor], states: Sequence[int] | None = None) -> Padded:
        """Encode 16 kHz waveforms (N,) -> (B, L, T, D): all hidden states, or the chosen ones."""
        for i, waveform in enumerate(waveforms):
            if len(waveform) < self.shortest:
                raise UserError(f"utterance {i}: {too_short_reason(len(waveform), self.shortest)}")
        samples = torch.tensor([len(waveform) for waveform in waveforms])
        longest = int(self.frames(samples.max()))
        arguments, lengths, first_lengths = self.input(self._received(waveforms), send(samples, self.model.device))
        _CURRENT_BATCH.set(_Batch(first_lengths, valid_mask(lengths, longest)))
        hidden = self.model(**arguments, output_hidden_states=True).hidden_states
        return Padded(torch.stack([hidden[i] for i in (range(self.states) if states is None else states)], 1), lengths)

    def _received(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Return the waveforms on the encoder's device, in fp32. Those from elsewhere are copied together."""
        waveforms, device = [waveform.float() for waveform in waveforms], self.model.device
        if all(waveform.device == device for waveform in waveforms):
            return waveforms
        return list(torch.split(send(torch.cat(waveforms), device), [len(waveform) for waveform in waveforms]))

    def _zero_padding(self, _: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
        """Replace the padding of a convolution's input by zeros: (B, D, T) -> (B, D, T)."""
        return (arguments[0] * _CURRENT_BATCH.get().valid[:, None],)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the weights and of the configuration that computes with them."""
        return module_fingerprint(self.model, configuration(self.model.config))

    def save(self, folder: Path) -> None:
        """Write a folder that transformers and `from_pretrained` read."""
        self.model.config.dtype = self.model.dtype
        self.model.config.architectures = [type(self.model).__name__]
        self.model.config.save_pretrained(folder)
        save_tensors(folder / "model.safetensors", self.model.state_dict(), {"format": "pt"})
        self.input.extractor().save_pretrained(folder)


def configuration(config: Any) -> dict[str, Any]:
    """Return the settings of a transformers configuration that decide the computation."""
    # The origin of the weights, and the type that they are stored in. Fingerprints cover the weights themselves.
    ignored_keys = {"architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path"}
    return {key: value for key, value in config.to_diff_dict().items() if key not in ignored_keys}


def declared_options(config_class: type[PreTrainedConfig], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that the class declares.

    Others can name code to download and run: `auto_map`, `_attn_implementation`, `quantization_config`.
    """
    declared = config_class().to_dict().keys() - {"model_type"}
    return {name: value for name, value in options.items() if name in declared}


def _read_config(folder: Path, name: str) -> tuple[Any, PreTrainedConfig]:
    """Return the model class, which is one of FAMILY's, and the configuration of a folder in transformers' format."""
    check_kind(folder, "speech encoder", name)
    options = read_json(folder / CONFIG_FILE)
    model_type = options.get("model_type") if isinstance(options, dict) else None
    if not isinstance(model_type, str) or model_type not in FAMILY:
        raise UserError(f"speech encoder {name}: expected a model_type of {', '.join(FAMILY)}, found {model_type!r}")
    kind = FAMILY[model_type]
    check_speech_sizes(options, folder, f"speech encoder {name}: {folder / CONFIG_FILE}")
    try:
        return kind, kind.config_class(**declared_options(kind.config_class, options))
    except Exception as error:  # whatever a wrong value makes of the class's own checks
        raise UserError(f"speech encoder {name}: {folder / CONFIG_FILE}: cannot be used: {one_line(error)}") from None


def samples_of_a_frame(folder: Path) -> int:
    """Return how many samples make one frame of the encoder in `folder`, without reading its weights."""
    kind, config = _read_config(folder, str(folder))
    if kind is FAMILY[LOG_MEL]:
        return LogMelInput.shortest
    return receptive_field(config.conv_kernel, config.conv_stride)


@contextmanager
def without_progress_bar() -> Iterator[None]:
    """Hide the bar that transformers draws for every load, on a terminal or not."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
