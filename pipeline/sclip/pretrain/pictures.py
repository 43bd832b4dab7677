"""Pictures for pre-training, with the scenes that they show, in memory."""

import numpy as np
from numpy.typing import NDArray

from sclip.concurrency import map_in_processes
from sclip.corpora.scenes.pictures import draw
from sclip.corpora.scenes.world import THINGS, Scene, World

CHUNK = 500  # pictures that a process draws at a time


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
        random = np.random.default_rng([seed, 0, i])
        scenes.append(world.scene(split, random))
        pixels.append(np.asarray(draw(scenes[-1], random)))
    return scenes, np.stack(pixels)
