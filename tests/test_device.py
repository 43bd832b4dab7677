import os
import re
import subprocess
import sys

import pytest
import torch

from sclip.device import autocast, choose_device, computes_bf16
from sclip.errors import UserError
from sclip.model.loading import load


def test_auto_is_the_first_gpu_or_else_the_cpu(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert choose_device("auto") == ("cuda:0" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == "cpu"


def test_a_loaded_model_computes_in_exact_fp32():
    """Someone who loads a model with Python calls no command, which would choose a device."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cuda.enable_cudnn_sdp(True)
    load("models/scenes-parallel")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize("has_instructions", [True, False])
def test_bf16_is_used_on_devices_that_have_instructions_for_it(has_instructions, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_instructions)
    capability = (8, 0) if has_instructions else (7, 5)
    monkeypatch.setattr(torch.cuda, "get_device_capability", {torch.device("cuda:1"): capability}.get)
    numbers = torch.ones(2, 2)
    with autocast("cpu", "bf16"):
        assert (numbers @ numbers).dtype == (torch.bfloat16 if has_instructions else torch.float32)
    assert computes_bf16(torch.device("cuda:1")) == has_instructions
    assert computes_bf16(torch.device("xpu"))


def test_the_tests_of_a_gpu_end_with_a_table():
    """Also where modules are skipped as a whole, such as that of MTEB where it is not installed."""
    tests = ["tests/gpu/test_gpu.py", "tests/interop/test_mteb.py", "-k", "intervals"]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", *tests]
    env = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    completed = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stdout[-3000:]
    assert re.search(r"^(passed|skipped) +[0-9.]+ s  test_intervals_are_those_of_the_cpu$", completed.stdout, re.M)


@pytest.mark.parametrize("name", ["gpu", "cuda:99"])
def test_a_device_that_does_not_exist_is_a_user_error(name):
    with pytest.raises(UserError, match=f"--device {name}: "):
        choose_device(name)
