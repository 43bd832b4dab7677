"""Pre-train mini-clip, a small CLIP of the scenes' pictures and written captions.

The model has open_clip's format and CLIP's tokenizer. Its scenes show only the pairs of things of the training split.
Each picture has several captions, as sentences or as loose words. Loose words teach the text tower to read keywords as
well as sentences, as labels from the web do for other CLIPs.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg
from torch import Tensor

from sclip.config import MiniClipConfig
from sclip.config.pretraining import CLIP_HEAD
from sclip.contrastive import contrastive_loss
from sclip.corpora.scenes.captions import captions, telegram
from sclip.corpora.scenes.pictures import SIDE
from sclip.device import autocast, plain_attention
from sclip.encoders.clip import ClipEncoder, TextTower
from sclip.evaluation.retrieval import first_ranks, recalls
from sclip.pretrain.pictures import caption_tokens, draw_scenes
from sclip.pretrain.progress import Progress

GALLERY = 1_000  # test pictures that are ranked to measure recall


def pretrain_clip(config: MiniClipConfig, device: torch.device, out: Path, scratch: Path) -> dict[str, Any]:
    """Write the model as an open_clip folder, and return the measurements for its card."""
    torch.manual_seed(config.seed)
    model = open_clip.CLIP(**model_config(config)).to(device)
    minutes = _train(model, config, scratch, device) / 60
    encoder = ClipEncoder.from_tensors(model_config(config), model.state_dict(), "mini-clip")
    quality = measure(encoder.to(device), config.seed) | {"minutes": round(minutes, 1)}
    encoder.half().save(out)
    return quality


def _train(model: open_clip.CLIP, config: MiniClipConfig, scratch: Path, device: torch.device) -> float:
    """Train the model, and return the seconds that it took."""
    optimizer = _optimizer(model)
    progress = Progress(scratch / "clip.pt", {"config": repr(config)}, {"model": model, "optimizer": optimizer})
    scenes, pictures = draw_scenes("train", config.pictures, config.seed)
    tokens = torch.from_numpy(caption_tokens(scenes, config.texts, config.seed, config.context)).to(device)
    pixels = torch.from_numpy(pictures).to(device)
    tokenizer = open_clip.SimpleTokenizer(context_length=config.context)
    tower = TextTower(model, tokenizer.sot_token_id, tokenizer.eot_token_id)
    for step in progress.steps(config.steps, "mini-clip"):
        random = np.random.default_rng([config.seed, 1, step])
        chosen = torch.from_numpy(random.integers(len(scenes), size=config.batch)).to(device)
        text = torch.from_numpy(random.integers(config.texts, size=config.batch)).to(device)
        rate = config.learning_rate * _cosine(step, config.steps, config.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        ids = tokens[chosen, text].long()  # (B, longest caption)
        with autocast(device, "bf16"), plain_attention(device):
            images = model.encode_image(normalised(pixels[chosen]))
            sentences = tower.run(tower.table[ids], last=ids.argmax(-1))  # the end token has the highest id
        loss = contrastive_loss(sentences, images, chosen, model.logit_scale.exp())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
    return progress.seconds


def _optimizer(model: open_clip.CLIP) -> torch.optim.AdamW:
    table = model.token_embedding.weight  # not decayed, because captions use few of its rows
    decayed = [p for p in model.parameters() if p.ndim >= 2 and p is not table]
    others = [p for p in model.parameters() if p.ndim < 2 or p is table]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
        fused=table.device.type == "cuda",  # one kernel updates all parameters
    )


def model_config(config: MiniClipConfig) -> dict[str, Any]:
    """Return open_clip's configuration of the model."""
    return {
        "embed_dim": config.width,
        "vision_cfg": {
            "image_size": SIDE,
            "patch_size": config.patch,
            "width": config.width,
            "layers": config.image_layers,
            "head_width": CLIP_HEAD,
        },
        "text_cfg": {
            "context_length": config.context,
            "vocab_size": 49408,
            "width": config.width,
            "heads": config.width // CLIP_HEAD,
            "layers": config.text_layers,
        },
    }


def normalised(pixels: Tensor) -> Tensor:
    """Normalise bytes like open_clip's preprocessing, without resizing: (B, H, W, 3) -> (B, 3, H, W)."""
    defaults = PreprocessCfg()
    x = pixels.permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (defaults.mean, defaults.std))
    return (x - mean) / std


def _cosine(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


@torch.no_grad()
def measure(encoder: ClipEncoder, seed: int) -> dict[str, float]:
    """Measure text-to-image recall on pairs of things that are not in the training data."""
    scenes, pixels = draw_scenes("test", GALLERY, seed)
    random = np.random.default_rng([seed, 2])
    sentences = [captions(scene, 1, random)[0] for scene in scenes]
    words = [telegram(scene, random) for scene in scenes]
    batches = torch.split(normalised(torch.from_numpy(pixels)), 100)
    images = F.normalize(torch.cat([encoder.encode_image(list(b)) for b in batches]), dim=-1)
    ids = torch.arange(GALLERY, device=images.device)
    measurements: dict[str, float] = {}
    for kind, texts in (("captions", sentences), ("loose words", words)):
        vectors = F.normalize(encoder.encode_text(texts), dim=-1)
        ranks, _ = first_ranks(vectors, ids, images, ids)
        measurements |= {f"{kind} R@{k}": value for k, value in recalls(ranks).items()}
    return measurements
