"""Small encoders and models in the real ones' formats, drawn at random."""

import itertools
from collections import Counter
from collections.abc import Iterable

import open_clip
import torch
from shipped import PARAMS
from transformers import HubertConfig, HubertModel, Wav2Vec2BertConfig, Wav2Vec2BertModel

from sclip.config import load_params
from sclip.encoders.clip import ClipEncoder
from sclip.encoders.source import Source
from sclip.encoders.speech import SpeechEncoder
from sclip.heads.vocabulary import Vocabulary
from sclip.model.speechclip import SpeechCLIP

RECIPES = load_params(PARAMS).recipes
ARCHITECTURES = RECIPES["published"]
WITH_VISUAL_WORDS = {f"sclip {arch}": RECIPES["sclip"][arch] for arch in ("cascaded", "hybrid-cif")}
CAPTIONS = ["a brown dog runs along the beach", "two children play in the snow", "a dog jumps over a red fence"]
SPEECH_CONFIG = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
W2V_BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "left_max_position_embeddings": 6,
    "right_max_position_embeddings": 3,
}
CLIP_CONFIG = {
    "embed_dim": 20,
    "quick_gelu": True,
    "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 2},
}


def speech_encoder(**config) -> SpeechEncoder:
    return SpeechEncoder(HubertModel(HubertConfig(**SPEECH_CONFIG | config)), Source("random"))


def w2v_bert(position: str = "relative_key") -> Wav2Vec2BertModel:
    torch.manual_seed(0)
    return Wav2Vec2BertModel(Wav2Vec2BertConfig(**W2V_BERT, position_embeddings_type=position)).eval()


def clip_encoder() -> ClipEncoder:
    tensors = open_clip.CLIP(**CLIP_CONFIG).state_dict()
    return ClipEncoder.from_tensors(CLIP_CONFIG, tensors, "random")


def small_vocabulary(clip: ClipEncoder) -> Vocabulary:
    return vocabulary_of(CAPTIONS, clip)


def vocabulary_of(captions: Iterable[str], clip: ClipEncoder) -> Vocabulary:
    return Vocabulary.from_counts(Counter(itertools.chain.from_iterable(clip.token_ids(captions))), clip)


def model(arch: str, seed: int = 0) -> SpeechCLIP:
    torch.manual_seed(seed)
    clip = clip_encoder()
    vocabulary = small_vocabulary(clip)
    architecture = (ARCHITECTURES | WITH_VISUAL_WORDS)[arch]
    return SpeechCLIP(
        arch,
        architecture,
        speech_encoder(),
        clip,
        vocabulary if architecture.head.keywords else None,
        encoders_inside=True,
    )


def recordings(*lengths: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, generator=generator) / 10 for length in lengths]
