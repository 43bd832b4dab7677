"""Pictures as CLIP takes them: upright, opaque, 8 bits of red, green and blue.

Files may come from strangers. Only common formats are opened (Pillow starts Ghostscript for some others), only the
first frame is decoded, and a file of a few bytes that claims an enormous picture is refused before it is decoded.
"""

import threading
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sclip.files import EMPTY, SPECIAL, is_special, missing_file_reason, raise_if_system_error

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MOST_PIXELS = 2**26
# Above this size one picture is decoded at a time, however many threads read: each takes half a gigabyte.
LARGE_PIXELS, _ONE_LARGE = 2**24, threading.Lock()
ORIENTATION = 0x0112  # the Exif tag
# CLIP scales the shorter side to its input size, so a line of pixels would become a picture of gigabytes.
MOST_ELONGATED = 100
FEWER_PIXELS = f"expected at most {MOST_PIXELS / 1e6:.0f} million; scale it down"
UNSUPPORTED = f"not a picture in a supported format ({', '.join(FORMATS)})"
FLAT = "pictures of a single colour"
# Pillow warns of a picture of more than 89 million pixels. This module refuses it, with a message of its own.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def read_rgb(file: str | Path | IO[bytes]) -> Image.Image:
    """Decode a picture file's first frame. Raises OSError or ValueError for a file that cannot be used."""
    if isinstance(file, str | Path) and is_special(Path(file)):
        raise ValueError(SPECIAL)
    try:
        with Image.open(file, formats=FORMATS) as opened:
            large = opened.width * opened.height > LARGE_PIXELS
            with _ONE_LARGE if large else nullcontext():
                return as_rgb(opened)
    except Image.DecompressionBombError:  # Pillow's own limit, which is above ours
        found = 2 * (Image.MAX_IMAGE_PIXELS or MOST_PIXELS)
        raise ValueError(f"more than {found / 1e6:.0f} million pixels; {FEWER_PIXELS}") from None


def as_rgb(picture: Image.Image) -> Image.Image:
    """Convert to what people see: turned upright, transparent parts on white, 16 bits scaled to 8."""
    _check_size(picture)
    if picture.getexif().get(ORIENTATION, 1) != 1:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):  # Pillow's own conversion would cut off all above 255
        pixels = np.asarray(picture) / 257
        if "transparency" in picture.info:
            pixels[np.asarray(picture) == picture.info["transparency"]] = 255
        return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise ValueError("its numbers are floats, and nothing says which is white")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        on_white = Image.new("RGB", picture.size, "white")
        on_white.paste(picture, mask=picture.getchannel("A"))
        return on_white
    return picture.convert("RGB")


def is_flat(picture: Image.Image) -> bool:
    """Return whether an RGB picture has a single colour."""
    return all(low == high for low, high in picture.getextrema())  # type: ignore[misc]


def _check_size(picture: Image.Image) -> None:
    width, height = picture.size
    if width * height > MOST_PIXELS:
        raise ValueError(f"{width} x {height} pixels; {FEWER_PIXELS}")
    if max(width, height) > MOST_ELONGATED * min(width, height):
        raise ValueError(f"{width} x {height} pixels; expected at most {MOST_ELONGATED} times as long as wide; crop it")


def picture_fault(path: Path, error: Exception) -> str:
    """Say why a picture cannot be read, by its file's name, where Pillow names a folder or a buffer in memory.

    An error of the machine is raised again, because it says nothing about the picture.
    """
    raise_if_system_error(path, error)
    if isinstance(error, FileNotFoundError):
        return f"image {path.name}: {missing_file_reason(path)}"
    if path.is_file() and not path.stat().st_size:
        return f"image {path.name}: {EMPTY}"
    if isinstance(error, UnidentifiedImageError):
        reason = UNSUPPORTED
    else:
        reason = getattr(error, "strerror", None) or str(error)
    return f"image {path.name}: cannot be read: {reason}".replace(str(path), path.name)
