"""Whatever is in the file, CLIP is shown what people see."""

import numpy as np
import pytest
from PIL import Image

from sclip.encoders.pictures import as_rgb

RAMP = np.linspace(0, 255, 24).reshape(4, 6).round().astype(np.uint8)


def saved(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    with Image.open(path) as opened:
        return np.asarray(as_rgb(opened))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_scaled_to_eight(suffix, tmp_path):
    found = saved(tmp_path / f"deep.{suffix}", RAMP.astype(np.uint16) * 257)
    assert found.tolist() == np.repeat(RAMP[..., None], 3, -1).tolist()


def test_a_camera_on_its_side(tmp_path):
    orientation = Image.Exif()
    orientation[0x0112] = 6  # to be turned a quarter, clockwise
    found = saved(tmp_path / "side.png", np.repeat(RAMP[..., None], 3, -1), exif=orientation)
    assert found[..., 0].tolist() == np.rot90(RAMP, -1).tolist()


def test_floats_have_no_white(tmp_path):
    with pytest.raises(ValueError, match="nothing says which is white"):
        saved(tmp_path / "floats.tiff", RAMP.astype(np.float32))
