"""A speech recogniser, for a topline that uses text: a Whisper of transformers writes what is said.

Whisper reads windows of 30 s, and a shorter recording is padded to that, so a transcript does not depend on its batch.
A longer recording is cut at its pauses.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

from sclip.concurrency import chunks
from sclip.encoders.audio import SAMPLE_RATE, Samples
from sclip.encoders.sizes import check_whisper_sizes
from sclip.encoders.source import Source, find_folder
from sclip.encoders.speech import WEIGHT_FILES, configuration, declared_options, without_progress_bar
from sclip.encoders.windows import read_windows
from sclip.errors import UserError, one_line
from sclip.fingerprints import module_fingerprint
from sclip.parsing import read_json, shortened

CONFIG_FILE = "config.json"
FILES = [
    CONFIG_FILE,
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    *WEIGHT_FILES,
]
FRAME = SAMPLE_RATE // 100
WINDOWS_AT_ONCE = 16


class Recognizer(nn.Module):
    model: Any

    def __init__(self, model: Any, extractor: Any, tokenizer: Any, source: Source, language: str | None = None):
        """`language` is that of the speech; without it, a multilingual Whisper detects the language of each window."""
        super().__init__()
        self.model, self.source, self.language = model.eval().requires_grad_(False), source, language
        self.extractor, self.tokenizer = extractor, tokenizer
        languages = getattr(model.generation_config, "lang_to_id", None) or {}
        if language is not None and f"<|{language}|>" not in languages:
            known = ", ".join(sorted(name.strip("<|>") for name in languages)) or "none: it knows English alone"
            raise UserError(f"Whisper {source.name}: no language {shortened(language)}; its languages: {known}")

    @classmethod
    def from_pretrained(cls, name: str, revision: str | None = None, language: str | None = None) -> "Recognizer":
        """Load a local folder, or a hub repo at a revision, in transformers' format."""
        folder, commit = find_folder(name, revision, FILES)
        options = read_json(folder / CONFIG_FILE)
        model_type = options.get("model_type") if isinstance(options, dict) else None
        if model_type != "whisper":
            raise UserError(f"Whisper {name}: expected a model_type of whisper, found {model_type!r}")
        check_whisper_sizes(options, folder, f"Whisper {name}: {folder / CONFIG_FILE}")
        try:
            with without_progress_bar():
                model, loading = WhisperForConditionalGeneration.from_pretrained(
                    folder,
                    config=WhisperConfig(**declared_options(WhisperConfig, options)),
                    dtype=torch.float32,
                    weights_only=True,
                    output_loading_info=True,
                )
                extractor = WhisperFeatureExtractor.from_pretrained(folder)
                tokenizer = WhisperTokenizer.from_pretrained(folder)
        except Exception as error:  # transformers fails in many ways on a damaged folder
            raise UserError(f"Whisper {name}: cannot be loaded: {one_line(error)}") from None
        missing = set(loading["missing_keys"])
        if missing:
            raise UserError(f"Whisper {name}: {len(missing)} tensors are missing, {min(missing)} among them")
        return cls(model, extractor, tokenizer, Source(name, commit), language)

    def forward(self, waveforms: Sequence[Tensor]) -> list[str]:
        """Transcribe 16 kHz waveforms (N,): return one text for each."""
        pieces = [list(self._windows(waveform)) for waveform in waveforms]
        batches = chunks(list(itertools.chain.from_iterable(pieces)), WINDOWS_AT_ONCE)
        texts = iter([text for batch in batches for text in self._recognize(batch)])
        return [" ".join(filter(None, itertools.islice(texts, len(windows)))) for windows in pieces]

    def _windows(self, waveform: Tensor) -> Iterator[Samples]:
        for window in read_windows(waveform, SAMPLE_RATE, "recording", self.extractor.n_samples, FRAME):
            end = len(window.waveform) if window.joint is None else window.joint - window.start
            yield window.waveform[:end].numpy()

    @torch.inference_mode()
    def _recognize(self, windows: Sequence[Samples]) -> list[str]:
        """Transcribe windows of at most 30 s, by greedy search."""
        inputs = self.extractor(windows, sampling_rate=SAMPLE_RATE, return_tensors="pt", return_attention_mask=True)
        features = inputs.input_features.to(self.model.device, self.model.dtype)
        multilingual = getattr(self.model.generation_config, "is_multilingual", False)
        options = {"language": self.language, "task": "transcribe"} if multilingual else {}
        mask = inputs.attention_mask.to(self.model.device)
        ids = self.model.generate(features, attention_mask=mask, do_sample=False, num_beams=1, **options)
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def fingerprint(self) -> str:
        """Return the SHA-256 of the weights and of the settings that decide the transcripts."""
        settings = {
            "language": self.language,
            "model": configuration(self.model.config),
            "generation": configuration(self.model.generation_config),
            "features": self.extractor.to_dict(),
            "vocabulary": self.tokenizer.get_vocab(),
        }
        return module_fingerprint(self.model, settings)
