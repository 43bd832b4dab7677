"""Pictures as CLIP takes them: 8 bits of red, green and blue."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


def as_rgb(picture: Image.Image) -> Image.Image:
    """As people see it: upright, and 16 bits scaled to the 8 that pillow would cut them to."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture) / 257).clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise ValueError("its numbers are floats, and nothing says which is white")
    return picture.convert("RGB")


def picture_fault(path: Path, error: Exception) -> str:
    """Say why a picture cannot be read, by its file's name, where Pillow names a folder or a buffer in memory."""
    if isinstance(error, FileNotFoundError):
        return f"image {path.name}: no such file"
    reason = "not a picture in a supported format" if isinstance(error, UnidentifiedImageError) else str(error)
    return f"image {path.name}: cannot be read: {reason}".replace(str(path), path.name)
