"""The settings of params.yaml as types. Other packages import them from here."""

from sclip.config.architecture import (
    BRANCHES,
    LOSSES,
    Architecture,
    AttentionConfig,
    CifConfig,
    HeadConfig,
    KeywordConfig,
    ObjectiveConfig,
)
from sclip.config.checks import LARGEST_SEED, require_folder_name
from sclip.config.corpora import (
    LANGUAGES,
    Columns,
    CorpusConfig,
    Flickr8kConfig,
    HubConfig,
    ManifestConfig,
    PairsConfig,
    PlacesConfig,
    ScenesConfig,
    SpeechCocoConfig,
    Splits,
    SpokenCocoConfig,
    TableConfig,
)
from sclip.config.encoders import ClipEncoderConfig, Encoders, SpeechEncoderConfig
from sclip.config.features import FeaturesConfig
from sclip.config.params import Experiment, Params, Preset, load_params
from sclip.config.pretraining import MiniClipConfig, MiniHubertConfig, Pretraining, PretrainingRound
from sclip.config.training import TrainingConfig

__all__ = [
    "BRANCHES",
    "LANGUAGES",
    "LARGEST_SEED",
    "LOSSES",
    "Architecture",
    "AttentionConfig",
    "CifConfig",
    "ClipEncoderConfig",
    "Columns",
    "CorpusConfig",
    "Encoders",
    "Experiment",
    "FeaturesConfig",
    "Flickr8kConfig",
    "HeadConfig",
    "HubConfig",
    "KeywordConfig",
    "ManifestConfig",
    "MiniClipConfig",
    "MiniHubertConfig",
    "ObjectiveConfig",
    "PairsConfig",
    "Params",
    "PlacesConfig",
    "Preset",
    "Pretraining",
    "PretrainingRound",
    "ScenesConfig",
    "SpeechCocoConfig",
    "SpeechEncoderConfig",
    "Splits",
    "SpokenCocoConfig",
    "TableConfig",
    "TrainingConfig",
    "load_params",
    "require_folder_name",
]
