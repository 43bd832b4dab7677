"""Test that reading a checkpoint gives plain data and never runs code from the file."""

import os
import pickle
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict

import pytest
import torch

from sclip.errors import UserError
from sclip.interop.checkpoint import read_checkpoint


class Call:
    """Pickles as a function call."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class StatefulCall(Call):
    """Pickles as a function call whose result then gets a state."""

    def __reduce__(self):
        return self.function, self.arguments, {"state": 1}


def write_pickle(path, pickled):
    """Write a checkpoint with a pickle made by hand."""
    torch.save({}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, pickled if name.endswith("data.pkl") else content)


@pytest.mark.parametrize("kind", [Call, StatefulCall])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "system"), (eval, "eval"), (exec, "exec"), (subprocess.call, "call"), (open, "open")],
)
def test_function_calls_are_refused_by_name(tmp_path, kind, function, name):
    proof = tmp_path / "code-ran"
    argument = {
        os.system: f"touch {proof}",
        subprocess.call: ["touch", str(proof)],
        open: str(proof),
    }.get(function, f"__import__('os').system('touch {proof}')")
    arguments = (argument, "w") if function is open else (argument,)
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {"x": torch.ones(1)}, "callbacks": [kind(function, *arguments)]}, path)
    with pytest.raises(UserError, match=f"evil.ckpt: refused, no code was run: .*{name}") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)
    assert not proof.exists()


def test_a_long_name_gives_a_short_error(tmp_path):
    path, name = tmp_path / "evil.ckpt", b"a" * 100_000
    write_pickle(path, b"\x80\x02c" + name + b"\n" + name + b"\n)R.")
    with pytest.raises(UserError, match=r"evil\.ckpt: refused, no code was run: the file asks to call aaa") as error:
        read_checkpoint(path)
    assert len(str(error.value)) < 5000


@pytest.mark.parametrize("opcode", ["NEWOBJ", "INST"])
def test_function_in_place_of_a_class_is_not_called(tmp_path, opcode):
    """Use handwritten pickles that instantiate os.system as if it were a class."""
    proof = tmp_path / "code-ran"
    argument = f"touch {proof}".encode()
    if opcode == "NEWOBJ":
        pickled = b"\x80\x02cposix\nsystem\nX" + len(argument).to_bytes(4, "little") + argument + b"\x85\x81."
    else:
        pickled = b"(X" + len(argument).to_bytes(4, "little") + argument + b"iposix\nsystem\n."
    path = tmp_path / "evil.ckpt"
    write_pickle(path, pickled)
    with pytest.raises(UserError, match=r"evil\.ckpt: "):
        read_checkpoint(path)
    assert not proof.exists()


def test_foreign_objects_become_plain_data(tmp_path, monkeypatch):
    """Write instances of a class that runs code when restored, and read them where the class cannot be imported."""
    foreign = types.ModuleType("foreign_config")
    source = """
class Namespace:
    def __init__(self, **values): self.__dict__.update(values)
    def __setstate__(self, state): raise RuntimeError("this would run code from the file")
"""
    exec(source, foreign.__dict__)
    foreign.Namespace.__module__ = "foreign_config"
    monkeypatch.setitem(sys.modules, "foreign_config", foreign)
    config = foreign.Namespace(heads=8, nested=foreign.Namespace(name="x"), many=[foreign.Namespace(a=1)])
    written = {"state_dict": OrderedDict(w=torch.arange(3.0)), "config": config, "by_class": {foreign.Namespace: 2}}
    torch.save(written, tmp_path / "foreign.ckpt")
    monkeypatch.delitem(sys.modules, "foreign_config")
    data = read_checkpoint(tmp_path / "foreign.ckpt")
    assert data["config"] == {"heads": 8, "nested": {"name": "x"}, "many": [{"a": 1}]}
    assert torch.equal(data["state_dict"]["w"], torch.arange(3.0))
    assert list(data["by_class"].values()) == [2]


def test_cyclic_data_is_refused_and_shared_data_is_converted_once(tmp_path):
    cyclic: list = []
    cyclic.append(cyclic)
    torch.save({"x": cyclic}, tmp_path / "cyclic.ckpt")
    with pytest.raises(UserError, match=r"cyclic\.ckpt: not a complete checkpoint.*recursion"):
        read_checkpoint(tmp_path / "cyclic.ckpt")
    shared: list = [1]
    for _ in range(40):
        shared = [shared, shared]  # 2 to the 40th leaves if shared lists were copied
    torch.save({"x": shared}, tmp_path / "shared.ckpt")
    assert len(read_checkpoint(tmp_path / "shared.ckpt")["x"]) == 2


def test_damaged_files_are_refused(tmp_path):
    intact = tmp_path / "intact.ckpt"
    torch.save({"state_dict": {"w": torch.randn(1000)}}, intact)
    content = intact.read_bytes()
    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps(Call(os.system, "true")))
    for name, damaged in {
        "half.ckpt": content[: len(content) // 2],
        "end.ckpt": content[:-1],
        "empty.ckpt": b"",
        "text.ckpt": b"<html>404</html>",
        "evil.ckpt": pickle.dumps(Call(os.system, "true")),
    }.items():
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(UserError, match=f"{name}: not a complete checkpoint") as error:
            read_checkpoint(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"none\.ckpt: no such file"):
        read_checkpoint(tmp_path / "none.ckpt")
    torch.save([1, 2], intact)
    with pytest.raises(UserError, match="expected a checkpoint with a state_dict, found a list"):
        read_checkpoint(intact)
