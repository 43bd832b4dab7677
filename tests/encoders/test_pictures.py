"""Whatever is in the file, CLIP is shown what people see."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from sclip.encoders import pictures
from sclip.encoders.pictures import as_rgb, is_flat, read_rgb

RAMP = np.linspace(0, 255, 24).reshape(4, 6).round().astype(np.uint8)


def saved(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return np.asarray(read_rgb(path))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_scaled_to_eight(suffix, tmp_path):
    found = saved(tmp_path / f"deep.{suffix}", RAMP.astype(np.uint16) * 257)
    assert found.tolist() == np.repeat(RAMP[..., None], 3, -1).tolist()


def test_pictures_are_rotated_as_their_exif_data_says(tmp_path):
    orientation = Image.Exif()
    orientation[0x0112] = 6  # to be turned a quarter, clockwise
    found = saved(tmp_path / "side.png", np.repeat(RAMP[..., None], 3, -1), exif=orientation)
    assert found[..., 0].tolist() == np.rot90(RAMP, -1).tolist()


def test_pictures_of_floats_are_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing says which is white"):
        saved(tmp_path / "floats.tiff", RAMP.astype(np.float32))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparent_parts_become_white(mode, tmp_path):
    """A drawing in black whose colours are black everywhere: without its transparency it would be one black area."""
    alpha = np.zeros((8, 8), np.uint8)
    alpha[2:6, 2:6] = 255
    drawing = Image.fromarray(np.dstack([np.zeros((8, 8, 3), np.uint8), alpha]))
    if mode == "P":
        drawing = Image.fromarray(np.where(alpha > 0, 1, 0).astype(np.uint8)).convert("P")
        drawing.putpalette([0, 0, 0] * 256)
        drawing.save(tmp_path / "drawing.png", transparency=0)
    else:
        drawing.convert(mode).save(tmp_path / ("drawing.png" if mode != "PA" else "drawing.tiff"))
    found = read_rgb(next(tmp_path.iterdir()))
    assert np.asarray(found).tolist() == np.repeat(255 - alpha[..., None], 3, -1).tolist()
    assert not is_flat(found)


def test_half_transparent_parts_are_mixed_with_white():
    half = Image.new("RGBA", (4, 4), (100, 0, 255, 51))
    assert as_rgb(half).getpixel((0, 0)) == (224, 204, 255)  # a fifth of the colour, four fifths of white


def test_opaque_pictures_are_unchanged(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    assert np.array_equal(saved(tmp_path / "opaque.png", pixels), pixels)


def test_other_formats_are_not_opened(tmp_path):
    """Pillow would start Ghostscript for the first, and it reads the others with code that few have tested."""
    for name in ("drawing.eps", "picture.ico", "picture.tga"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
        with pytest.raises(OSError, match="cannot identify"):
            read_rgb(tmp_path / name)


@pytest.mark.parametrize(
    ("size", "message"), [((9000, 9000), "expected at most 67 million"), ((2, 60_000), "100 times as long as wide")]
)
def test_small_files_of_enormous_pictures_are_refused_undecoded(tmp_path, monkeypatch, size, message):
    Image.new("P", size).save(tmp_path / "bomb.gif")
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded it"))
    with pytest.raises(ValueError, match=message):
        read_rgb(tmp_path / "bomb.gif")


BOMB = """
import sys
from PIL import Image
from sclip.encoders.pictures import read_rgb
for side in (9_000, 12_000, 20_000):
    Image.new("1", (side, side)).save("bomb.png")
    try:
        read_rgb("bomb.png")
    except ValueError as error:
        print(error)
"""


def test_pillow_says_nothing_of_enormous_pictures(tmp_path):
    """Pillow warns above 89 million pixels and has an error of its own above 179 million."""
    result = subprocess.run([sys.executable, "-c", BOMB], cwd=tmp_path, capture_output=True, text=True)
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "9000 x 9000 pixels; expected at most 67 million; scale it down",
        "12000 x 12000 pixels; expected at most 67 million; scale it down",
        "more than 179 million pixels; expected at most 67 million; scale it down",
    ]


def test_a_transparent_colour_of_sixteen_bits_becomes_white(tmp_path):
    deep = RAMP.astype(np.uint16) * 257
    found = saved(tmp_path / "deep.png", deep, transparency=int(deep[1, 2]))
    expected = np.repeat(RAMP[..., None], 3, -1)
    expected[1, 2] = 255
    assert found.tolist() == expected.tolist()


def test_one_large_picture_is_decoded_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "LARGE_PIXELS", 100)
    Image.new("RGB", (20, 20), "red").save(tmp_path / "large.png")
    at_work, most, convert = [], [], pictures.as_rgb

    def slow(picture):
        at_work.append(1)
        most.append(len(at_work))
        time.sleep(0.02)
        at_work.pop()
        return convert(picture)

    monkeypatch.setattr(pictures, "as_rgb", slow)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_rgb, [tmp_path / "large.png"] * 4))
    assert most == [1] * 4
