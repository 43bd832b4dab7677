"""Where to compute."""

import torch

from sclip.errors import UserError


def choose_device(name: str) -> str:
    """`auto`: the first GPU if there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return name
