"""Pictures for pre-training, with the scenes that they show and captions as tokens, in memory."""

import numpy as np
from numpy.typing import NDArray

from sclip.corpora.rows import SPLITS
from sclip.corpora.scenes.captions import captions, telegram
from sclip.corpora.scenes.pictures import draw
from sclip.corpora.scenes.world import THINGS, Scene, World
from sclip.processes import map_in_processes

CHUNK = 500  # pictures that a process draws at a time
LOOSE = 0.4  # share of the captions that are loose words, not a sentence


def draw_scenes(split: str, count: int, seed: int) -> tuple[list[Scene], NDArray[np.uint8]]:
    """Draw scenes of a split and their pictures (count, SIDE, SIDE, 3).

    Equal arguments give equal scenes and pictures on every machine.
    """
    jobs = [(split, start, min(start + CHUNK, count), seed) for start in range(0, count, CHUNK)]
    chunks = list(map_in_processes(_draw, jobs, "pictures"))
    return [scene for scenes, _ in chunks for scene in scenes], np.concatenate([pixels for _, pixels in chunks])


def _draw(job: tuple[str, int, int, int]) -> tuple[list[Scene], NDArray[np.uint8]]:
    split, start, stop, seed = job
    world, scenes, pixels = World(len(THINGS)), [], []
    for i in range(start, stop):
        # Without the split's number, scene i would resemble scene i of another split.
        random = np.random.default_rng([seed, 0, i, SPLITS.index(split)])
        scenes.append(world.scene(split, random))
        pixels.append(np.asarray(draw(scenes[-1], random)))
    return scenes, np.stack(pixels)


def caption_tokens(scenes: list[Scene], texts: int, seed: int, context: int) -> NDArray[np.int32]:
    """Draw `texts` captions of each scene, as sentences or as loose words: (scenes, texts, longest caption)."""
    jobs = [(scenes[start : start + CHUNK], texts, seed, start, context) for start in range(0, len(scenes), CHUNK)]
    chunks = list(map_in_processes(_tokens, jobs, "captions"))
    longest = max(chunk.shape[2] for chunk in chunks)
    return np.concatenate([np.pad(chunk, ((0, 0), (0, 0), (0, longest - chunk.shape[2]))) for chunk in chunks])


def _tokens(job: tuple[list[Scene], int, int, int, int]) -> NDArray[np.int32]:
    import open_clip

    scenes, texts, seed, first, context = job
    tokenizer = open_clip.SimpleTokenizer(context_length=context)
    drawn = []
    for i, scene in enumerate(scenes, first):
        random = np.random.default_rng([seed, 1, i])
        drawn += [
            telegram(scene, random) if random.random() < LOOSE else captions(scene, 1, random)[0] for _ in range(texts)
        ]
    ids = tokenizer(drawn).numpy().astype(np.int32)  # (scenes · texts, context)
    return ids[:, : int(ids.argmax(1).max()) + 1].reshape(len(scenes), texts, -1)  # the end has the highest id
