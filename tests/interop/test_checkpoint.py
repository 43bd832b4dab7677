"""Nothing that a checkpoint pickles is ever run; what it lays out is read as data."""

import os
import pickle
import subprocess
import sys
import types
from collections import OrderedDict

import pytest
import torch

from sclip.errors import UserError
from sclip.interop.checkpoint import read_checkpoint


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class StatefulCall(Call):
    """The call's result then gets a state."""

    def __reduce__(self):
        return self.function, self.arguments, {"state": 1}


@pytest.mark.parametrize("kind", [Call, StatefulCall])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "system"), (eval, "eval"), (exec, "exec"), (subprocess.call, "call"), (open, "open")],
)
def test_calls_are_refused_by_name(tmp_path, kind, function, name):
    proof = tmp_path / "it-ran"
    argument = {
        os.system: f"touch {proof}",
        subprocess.call: ["touch", str(proof)],
        open: str(proof),
    }.get(function, f"__import__('os').system('touch {proof}')")
    arguments = (argument, "w") if function is open else (argument,)
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {"x": torch.ones(1)}, "callbacks": [kind(function, *arguments)]}, path)
    with pytest.raises(UserError, match=f"evil.ckpt: refused, nothing was run: .*{name}") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)
    assert not proof.exists()


@pytest.mark.parametrize("opcode", ["NEWOBJ", "INST"])
def test_a_function_in_a_class_s_place_is_not_run(tmp_path, opcode):
    """Pickles written by hand: os.system where a class is instantiated."""
    import zipfile

    proof = tmp_path / "it-ran"
    argument = f"touch {proof}".encode()
    if opcode == "NEWOBJ":
        pickled = b"\x80\x02cposix\nsystem\nX" + len(argument).to_bytes(4, "little") + argument + b"\x85\x81."
    else:
        pickled = b"(X" + len(argument).to_bytes(4, "little") + argument + b"iposix\nsystem\n."
    path = tmp_path / "evil.ckpt"
    torch.save({}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, pickled if name.endswith("data.pkl") else content)
    with pytest.raises(UserError, match=r"evil\.ckpt: "):
        read_checkpoint(path)
    assert not proof.exists()


def test_foreign_objects_are_data(tmp_path, monkeypatch):
    """A class that is importable when the file is written and not when it is read, and would act if it were built."""
    foreign = types.ModuleType("foreign_config")
    source = """
class Namespace:
    def __init__(self, **values): self.__dict__.update(values)
    def __setstate__(self, state): raise RuntimeError("this would run their code")
"""
    exec(source, foreign.__dict__)
    foreign.Namespace.__module__ = "foreign_config"
    monkeypatch.setitem(sys.modules, "foreign_config", foreign)
    config = foreign.Namespace(heads=8, nested=foreign.Namespace(name="x"), many=[foreign.Namespace(a=1)])
    written = {"state_dict": OrderedDict(w=torch.arange(3.0)), "config": config, "by_class": {foreign.Namespace: 2}}
    torch.save(written, tmp_path / "theirs.ckpt")
    monkeypatch.delitem(sys.modules, "foreign_config")
    data = read_checkpoint(tmp_path / "theirs.ckpt")
    assert data["config"] == {"heads": 8, "nested": {"name": "x"}, "many": [{"a": 1}]}
    assert torch.equal(data["state_dict"]["w"], torch.arange(3.0))
    assert list(data["by_class"].values()) == [2]


def test_what_holds_itself_is_refused_and_what_is_shared_is_read_once(tmp_path):
    knot: list = []
    knot.append(knot)
    torch.save({"x": knot}, tmp_path / "knot.ckpt")
    with pytest.raises(UserError, match=r"knot\.ckpt: not a whole checkpoint.*recursion"):
        read_checkpoint(tmp_path / "knot.ckpt")
    shared: list = [1]
    for _ in range(40):
        shared = [shared, shared]  # 2 to the 40th leaves, if each were its own
    torch.save({"x": shared}, tmp_path / "shared.ckpt")
    assert len(read_checkpoint(tmp_path / "shared.ckpt")["x"]) == 2


def test_damaged_files(tmp_path):
    whole = tmp_path / "whole.ckpt"
    torch.save({"state_dict": {"w": torch.randn(1000)}}, whole)
    content = whole.read_bytes()
    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps(Call(os.system, "true")))
    for name, damaged in {
        "half.ckpt": content[: len(content) // 2],
        "end.ckpt": content[:-1],
        "empty.ckpt": b"",
        "text.ckpt": b"<html>404</html>",
        "evil.ckpt": pickle.dumps(Call(os.system, "true")),
    }.items():
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(UserError, match=f"{name}: not a whole checkpoint") as error:
            read_checkpoint(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"none\.ckpt: no such file"):
        read_checkpoint(tmp_path / "none.ckpt")
    torch.save([1, 2], whole)
    with pytest.raises(UserError, match="expected a checkpoint with a state_dict, found a list"):
        read_checkpoint(whole)
