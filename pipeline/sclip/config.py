"""The settings of params.yaml as types, which are checked before anything runs.

An architecture is a composition, not a class: an attention layer, an utterance token or none, keyword slots (learned
tokens, Continuous Integrate-and-Fire, or none), and the weights of the losses. Some fields reproduce accidents of the
published code; they are off by default.

A preset is an experiment: a corpus, two encoders, how features are stored, how heads are trained, and exceptions for
single architectures. `Params.experiment` combines a preset and an architecture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from sclip import paths
from sclip.errors import UserError
from sclip.parsing import as_table, check_keys, entry, merged, parse, parse_yaml, read_yaml

LARGEST_SEED = 2**32 - 1
# The largest head. A model folder's config.json may come from anybody, and the head is built before its weights are
# read, so a config.json without limits could fill the memory.
MOST_LAYERS, WIDEST_KERNEL, MOST_SLOTS, MOST_HIDDEN, WIDEST_HIDDEN, WIDEST_FEED_FORWARD = 20, 99, 1_000, 8, 16_384, 64


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_range(name: str, value: float, least: int, most: int) -> None:
    _require(least <= value <= most, f"{name}: expected {least} to {most}, found {value}")


def _require_seed(name: str, value: int) -> None:
    _require_range(name, value, 0, LARGEST_SEED)


def _require_widths(name: str, widths: tuple[int, ...]) -> None:
    """Check the widths of a projection's hidden layers."""
    _require(len(widths) <= MOST_HIDDEN, f"{name}: expected up to {MOST_HIDDEN} widths, found {len(widths)}")
    for i, width in enumerate(widths):
        _require_range(f"{name}[{i}]", width, 1, WIDEST_HIDDEN)


@dataclass(frozen=True)
class AttentionConfig:
    """One post-norm self-attention layer over the learned tokens and the frames."""

    heads: int
    feed_forward: float = 0.0  # hidden width as a multiple of the layer's width; 0: no feed-forward part
    dropout: float = 0.1

    def __post_init__(self) -> None:
        _require(self.heads >= 1, f"heads: expected at least 1, found {self.heads}")
        _require_range("feed_forward", self.feed_forward, 0, WIDEST_FEED_FORWARD)
        _require(0 <= self.dropout < 1, f"dropout: expected 0 to 1, found {self.dropout}")


@dataclass(frozen=True)
class CifConfig:
    """Continuous Integrate-and-Fire: the sum of the frames' weights decides the number of keyword slots."""

    layers: int = 1
    kernel: int = 3
    dropout: float = 0.5
    threshold: float = 1.0  # a slot fires when the sum of the weights since the last firing reaches it
    tail: float = 0.5  # evaluation: a remaining sum of at least this fires one more slot
    max_slots: int = 75
    frames_per_slot: int = 20  # decides the target in training; 20 frames are 2.5 slots a second
    scaled_steps: int = 5000  # in this many first steps, training scales the weights so that they meet the target
    convolves_padding: bool = False  # as published: an utterance's last weight depends on its batch

    def __post_init__(self) -> None:
        _require_range("layers", self.layers, 1, MOST_LAYERS)
        _require_range("kernel", self.kernel, 1, WIDEST_KERNEL)
        _require(self.kernel % 2 == 1, f"kernel: expected an odd width, found {self.kernel}")
        _require(0 <= self.dropout < 1, f"dropout: expected 0 to 1, found {self.dropout}")
        _require(self.threshold > 0, f"threshold: expected more than 0, found {self.threshold}")
        _require(0 < self.tail <= self.threshold, f"tail: expected up to the threshold, found {self.tail}")
        _require(self.max_slots >= 1, f"max_slots: expected at least 1, found {self.max_slots}")
        _require(self.frames_per_slot >= 1, f"frames_per_slot: expected at least 1, found {self.frames_per_slot}")


@dataclass(frozen=True)
class KeywordConfig:
    """The keywords: slots, either learned tokens or from CIF, that become tokens of CLIP's vocabulary."""

    slots: int | None = None
    cif: CifConfig | None = None
    hidden: tuple[int, ...] = ()  # widths of the hidden layers in the projection to CLIP's tokens
    dropout: float = 0.1  # between the layers of the projection
    temperature: float = 0.1  # of the softmax that the quantiser's gradient goes through
    norm_counts_padding: bool = False  # as published, CIF: BatchNorm's statistics include empty slots
    scrambled_norm_start: bool = False  # as published, learned slots: BatchNorm starts from shuffled statistics

    def __post_init__(self) -> None:
        _require((self.slots is None) != (self.cif is None), "expected one of slots and cif")
        if self.slots is not None:
            _require_range("slots", self.slots, 1, MOST_SLOTS)
        _require_widths("hidden", self.hidden)
        _require(0 <= self.dropout < 1, f"dropout: expected 0 to 1, found {self.dropout}")
        _require(self.temperature > 0, f"temperature: expected more than 0, found {self.temperature}")
        _require(
            not (self.norm_counts_padding and self.cif is None),
            "norm_counts_padding: has no effect without cif, as learned slots have no padding; remove it",
        )
        _require(
            not (self.scrambled_norm_start and self.slots is None),
            "scrambled_norm_start: has no effect without slots; remove it",
        )


@dataclass(frozen=True)
class HeadConfig:
    """The head: all layers between the speech encoder's hidden states and CLIP."""

    attention: AttentionConfig
    utterance: bool = False  # one more learned token, pooled into the utterance vector
    utterance_hidden: tuple[int, ...] = ()  # widths of the hidden layers in its projection
    keywords: KeywordConfig | None = None
    normalize_states: bool = False  # normalise each hidden state over its width before the weighted sum

    def __post_init__(self) -> None:
        _require(self.utterance or self.keywords is not None, "expected utterance, keywords or both")
        _require_widths("utterance_hidden", self.utterance_hidden)


@dataclass(frozen=True)
class ObjectiveConfig:
    """The weights of the losses, and the settings that the two contrastive losses share."""

    parallel: float = 0.0  # contrastive: utterance vectors and pictures
    cascaded: float = 0.0  # contrastive: keyword vectors and pictures
    quantity: float = 0.0  # CIF: the difference between the sum of its weights and the target length
    temperature: float = 0.07  # the start value, or the fixed value
    learn_temperature: bool = True
    margin: float = 0.0  # subtracted from the scores of matching pairs

    def __post_init__(self) -> None:
        _require(self.temperature > 0, f"temperature: expected more than 0, found {self.temperature}")
        for name in ("parallel", "cascaded", "quantity"):
            _require(getattr(self, name) >= 0, f"{name}: expected 0 or more, found {getattr(self, name)}")
        _require(self.parallel + self.cascaded > 0, "expected a weight above 0 for parallel or cascaded")


@dataclass(frozen=True)
class Architecture:
    head: HeadConfig
    objective: ObjectiveConfig

    def __post_init__(self) -> None:
        keywords = self.head.keywords
        has_output = {
            "parallel": ("head.utterance", self.head.utterance),
            "cascaded": ("head.keywords", keywords is not None),
            "quantity": ("head.keywords.cif", keywords is not None and keywords.cif is not None),
        }
        for loss, (output, present) in has_output.items():
            _require(
                present or not getattr(self.objective, loss),
                f"objective.{loss}: the head has no such output; add {output}",
            )


# The languages with a list of stop words, by ISO 639-1 code. Keywords are tokens of CLIP's English vocabulary, in which
# stop words of other languages are often several tokens or single bytes, so figures for other languages would be wrong.
LANGUAGES = {"en": "English"}


def _require_language(language: str | None) -> None:
    _require(
        language is None or language in LANGUAGES,
        f"language: expected one of {', '.join(LANGUAGES)}, found {language!r}; leave it out to use no stop words",
    )


@dataclass(frozen=True)
class Splits:
    """A number for each split."""

    train: int
    dev: int
    test: int


@dataclass(frozen=True)
class ScenesConfig:
    """The corpus that ships with the project: pictures of emoji, captions of a grammar, synthetic voices."""

    language: ClassVar[str] = "en"

    kind: Literal["scenes"]
    seed: int
    pictures: Splits
    captions: Splits  # for each picture, each spoken once
    voices: Splits  # no voice is in two splits
    nouns: int  # the number of kinds of things

    def __post_init__(self) -> None:
        _require_seed("seed", self.seed)
        for split in ("train", "dev", "test"):
            pictures, captions = getattr(self.pictures, split), getattr(self.captions, split)
            _require(pictures >= 1, f"pictures.{split}: expected at least 1, found {pictures}")
            _require(1 <= captions <= 5, f"captions.{split}: expected 1 to 5, found {captions}")


@dataclass(frozen=True)
class ManifestConfig:
    """A user's corpus as a manifest; corpora/manifest.py describes the format."""

    kind: Literal["manifest"]
    path: str
    language: str | None = None  # of the captions, one of LANGUAGES: decides the stop words

    def __post_init__(self) -> None:
        _require_language(self.language)


@dataclass(frozen=True)
class Flickr8kConfig:
    """Flickr8k in the folder `path`; corpora/flickr8k.py shows its layout."""

    language: ClassVar[str] = "en"

    kind: Literal["flickr8k"]
    path: str


@dataclass(frozen=True)
class SpokenCocoConfig:
    """SpokenCOCO in the folder `path`; corpora/spokencoco.py shows its layout."""

    language: ClassVar[str] = "en"

    kind: Literal["spokencoco"]
    path: str
    split: Literal["karpathy", "own"]


@dataclass(frozen=True)
class Columns:
    """The names of a table's columns. The default of `id` is the recording, and of `image_id` the picture."""

    audio: str
    image: str
    text: str | None = None
    split: str | None = None
    speaker: str | None = None
    id: str | None = None
    image_id: str | None = None


@dataclass(frozen=True)
class TableConfig:
    """A user's corpus as a CSV, TSV, JSONL or Parquet file with one row for each utterance."""

    kind: Literal["table"]
    path: str
    columns: Columns
    splits: dict[str, str] = field(default_factory=dict)  # from the table's names to train, dev and test
    language: str | None = None  # of the captions, one of LANGUAGES: decides the stop words

    def __post_init__(self) -> None:
        _require_language(self.language)


CorpusConfig = ScenesConfig | ManifestConfig | Flickr8kConfig | SpokenCocoConfig | TableConfig


@dataclass(frozen=True)
class SpeechEncoderConfig:
    """The speech encoder; `name` is `mfcc`, a folder or a hub repo."""

    name: str
    revision: str | None = None
    normalize_waveform: bool | None = None  # None: as in the encoder's training
    random_seed: int | None = None  # use random weights, for comparison

    def __post_init__(self) -> None:
        if self.random_seed is not None:
            _require_seed("random_seed", self.random_seed)


@dataclass(frozen=True)
class ClipEncoderConfig:
    """CLIP; `name` is `local-dir:FOLDER`, `hf-hub:REPO` or MODEL/TAG, as in open_clip."""

    name: str
    revision: str | None = None
    random_seed: int | None = None

    def __post_init__(self) -> None:
        if self.random_seed is not None:
            _require_seed("random_seed", self.random_seed)


@dataclass(frozen=True)
class FeaturesConfig:
    """The computing and storing of hidden states."""

    precision: Literal["fp16", "bf16", "fp32"] = "fp16"  # of the stored states
    components: int | None = None  # store 8-bit codes along this many principal directions; see features/codes.py
    normalize_states: bool = False  # normalise states before coding, for heads with normalize_states
    online: bool = False  # store nothing: every step encodes its recordings
    compute: Literal["fp16", "bf16", "fp32"] = "fp32"
    shard_megabytes: int = 512
    batch_seconds: float = 120.0  # of audio, padding included; a CPU encodes up to four batches in parallel

    def __post_init__(self) -> None:
        _require(self.shard_megabytes >= 1, f"shard_megabytes: expected at least 1, found {self.shard_megabytes}")
        _require(self.batch_seconds > 0, f"batch_seconds: expected more than 0, found {self.batch_seconds}")
        _require(
            self.components is None or self.components >= 1,
            f"components: expected at least 1, found {self.components}",
        )
        _require(
            not self.online or self.components is None,
            "online: stores nothing, so features.components has no effect; remove it",
        )
        _require(
            not (self.normalize_states and self.components is None),
            "normalize_states: has no effect without components (states are normalised when they are read); remove it",
        )


@dataclass(frozen=True)
class TrainingConfig:
    """The training. The defaults are the published recipe: Adam, linear warm-up, linear decay."""

    steps: int = 50_000
    warmup_steps: int = 5_000
    batch: int = 256
    accumulate: int = 1  # batches for each step; negatives come from the same batch
    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-8
    weight_decay: float = 1e-6
    gradient_clip: float = 4.0
    crop_frames: int = 320  # random crop of longer utterances; the published recipe crops 6.4 s of audio instead
    precision: Literal["fp16", "bf16", "fp32"] = "fp16"
    dev_every: int = 1_000  # steps between two evaluations on the development split

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "crop_frames", "dev_every"):
            _require(getattr(self, name) >= 1, f"{name}: expected at least 1, found {getattr(self, name)}")
        _require(self.batch >= 2, f"batch: expected at least 2, found {self.batch}")
        for name in ("warmup_steps", "final_learning_rate", "weight_decay"):
            _require(getattr(self, name) >= 0, f"{name}: expected 0 or more, found {getattr(self, name)}")
        _require(
            self.warmup_steps < self.steps,
            f"warmup_steps: expected fewer than steps ({self.steps}), found {self.warmup_steps}",
        )
        _require(self.learning_rate > 0, f"learning_rate: expected more than 0, found {self.learning_rate}")
        _require(self.gradient_clip > 0, f"gradient_clip: expected more than 0, found {self.gradient_clip}")


@dataclass(frozen=True)
class Encoders:
    speech: SpeechEncoderConfig
    clip: ClipEncoderConfig


@dataclass(frozen=True)
class Preset:
    corpus: CorpusConfig
    encoders: Encoders
    features: FeaturesConfig
    training: TrainingConfig
    # Exceptions for single architectures: any part of {head, objective, training}.
    arch: dict[str, dict[str, Any]]
    on_error: Literal["fail", "skip"] = "fail"  # a bad row stops the stage, or is left out and counted


@dataclass(frozen=True)
class MiniClipConfig:
    """The small CLIP that ships with the project."""

    seed: int
    pictures: int  # generated once; captions are generated in every step
    steps: int
    batch: int = 256
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    width: int = 128  # of both towers and of their joint space
    patch: int = 16
    image_layers: int = 4
    text_layers: int = 3
    context: int = 77

    def __post_init__(self) -> None:
        _require_seed("seed", self.seed)


@dataclass(frozen=True)
class PretrainingRound:
    clusters: int
    steps: int


@dataclass(frozen=True)
class MiniHubertConfig:
    """The small HuBERT that ships with the project."""

    seed: int
    utterances: int
    voices: int
    rounds: tuple[PretrainingRound, ...]  # the first predicts clusters of MFCCs, the others of a hidden state
    target_state: int = 2  # the hidden state whose clusters the next round predicts
    batch_seconds: float = 80.0
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    width: int = 192
    layers: int = 5
    conv_channels: tuple[int, ...] = (32, 64, 64, 64, 128, 128, 128)

    def __post_init__(self) -> None:
        _require_seed("seed", self.seed)
        for i, round_ in enumerate(self.rounds):
            _require(
                round_.steps > self.warmup_steps,
                f"rounds[{i}].steps: expected more than warmup_steps ({self.warmup_steps}), found {round_.steps}",
            )


@dataclass(frozen=True)
class Pretraining:
    speech: MiniHubertConfig
    clip: MiniClipConfig


@dataclass(frozen=True)
class Run:
    """The presets, architectures and seeds that `dvc repro` runs."""

    presets: tuple[str, ...]
    architectures: tuple[str, ...]
    seeds: tuple[int, ...]  # each from 0 to LARGEST_SEED

    def __post_init__(self) -> None:
        for key, values in vars(self).items():
            _require(values != (), f"{key}: expected at least one")
        for i, seed in enumerate(self.seeds):
            _require_seed(f"seeds[{i}]", seed)


@dataclass(frozen=True)
class Experiment:
    """One architecture in one preset."""

    head: HeadConfig
    objective: ObjectiveConfig
    training: TrainingConfig

    def __post_init__(self) -> None:
        self.architecture  # noqa: B018  checks that the losses fit the head

    @property
    def architecture(self) -> Architecture:
        return Architecture(self.head, self.objective)


@dataclass(frozen=True)
class _ParamsFile:
    run: Run
    pretrain: Pretraining
    arch: dict[str, Architecture]
    presets: dict[str, Preset]


@dataclass(frozen=True)
class Params(_ParamsFile):
    """All of params.yaml, and the experiment of each preset and architecture."""

    where: str
    experiments: dict[str, dict[str, Experiment]]

    def preset(self, name: str) -> Preset:
        return entry(self.presets, name, f"{self.where}: presets")

    def experiment(self, preset: str, arch: str) -> Experiment:
        return entry(entry(self.experiments, preset, f"{self.where}: presets"), arch, f"{self.where}: arch")


def load_params(path: str | Path = "params.yaml", overrides: Sequence[str] = ()) -> Params:
    """Read and check params.yaml.

    An override is KEY=VALUE, as in `dvc exp run -S`: a full key with dots, and a value in YAML.
    """
    path = Path(path)
    data = read_yaml(path)
    for override in overrides:
        data = _override(data, override)
    file: _ParamsFile = parse(_ParamsFile, data, str(path))
    for key, table in (("presets", file.presets), ("architectures", file.arch)):
        for name in getattr(file.run, key):
            entry(table, name, f"{path}: run.{key}")
    experiments = {}
    for name in file.presets:
        _check_preset(file, name, f"{path}: presets.{name}")
        experiments[name] = {arch: _experiment(data, name, arch, str(path)) for arch in file.arch}
    return Params(**vars(file), where=str(path), experiments=experiments)


def _check_preset(file: _ParamsFile, name: str, where: str) -> None:
    """Check a preset against the other parts of params.yaml."""
    preset = file.presets[name]
    for arch in preset.arch:
        entry(file.arch, arch, f"{where}.arch")
    manifest = preset.corpus.path if isinstance(preset.corpus, ManifestConfig) else None
    if manifest is not None and Path(manifest).resolve() == paths.manifest(name).resolve():
        raise UserError(f"{where}.corpus.path: `make-corpus` writes {manifest}; move your manifest to another path")
    for arch in file.run.architectures if name in file.run.presets else ():
        if arch not in preset.arch:
            raise UserError(f"{where}.arch: no {arch!r}, which run.architectures lists; add `{arch}: {{}}`")


def _experiment(data: Mapping[str, Any], preset: str, arch: str, path: str) -> Experiment:
    """Combine an architecture with a preset: its training, and its exceptions for the architecture."""
    where = f"{path}: presets.{preset}.arch.{arch}"
    exceptions = data["presets"][preset]["arch"].get(arch, {})
    check_keys(Experiment, exceptions, where)
    base = {**data["arch"][arch], "training": data["presets"][preset]["training"]}
    experiment: Experiment = parse(Experiment, merged(base, exceptions), where)
    return experiment


def _override(data: Any, override: str) -> Any:
    """Apply an override to the plain data of params.yaml."""
    key, equals, value = override.partition("=")
    if not equals:
        raise UserError(f"override {override!r}: expected KEY=VALUE")
    nested = parse_yaml(value, f"override {key}")
    table, *names = key.split(".")
    if len(names) > 1 and table in ("presets", "arch"):  # an override of a part must not create a new preset
        entry(as_table(data, key).get(table, {}), names[0], f"override {key}: {table}")
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return merged(as_table(data, key), nested)
