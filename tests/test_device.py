import pytest

from sclip.device import choose_device
from sclip.errors import UserError


def test_devices():
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") in ("cpu", "cuda")
    with pytest.raises(UserError, match="--device gpu: "):
        choose_device("gpu")
    with pytest.raises(UserError, match="--device cuda:99: "):
        choose_device("cuda:99")
