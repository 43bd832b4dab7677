import pytest
import torch

from sclip.device import choose_device
from sclip.errors import UserError


def test_auto_is_the_first_gpu_or_else_the_cpu(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert choose_device("auto") == ("cuda:0" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == "cpu"


@pytest.mark.parametrize("name", ["gpu", "cuda:99"])
def test_a_device_that_does_not_exist_is_a_user_error(name):
    with pytest.raises(UserError, match=f"--device {name}: "):
        choose_device(name)
