"""Fingerprints of everything that decides a result: plain data, weights, and the code that computes it.

Each cached result has the fingerprint of everything that it depends on. The fingerprint of code covers the syntax
trees of the computing modules and of all modules that they import. So comments and docstrings do not change it, and
nobody has to maintain a list of files.
"""

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

PACKAGE = Path(__file__).parent
# Modules that read, write and schedule, but compute no number of a result. Modules import settings from `config`
# itself, so this one name leaves out all modules of settings. Only pretrain/ imports one of them by its own name,
# because the widths of attention heads in it are not settings, and decide the result.
NOT_COMPUTING = frozenset(
    {
        "concurrency",
        "config",
        "encoders.sizes",
        "encoders.source",
        "errors",
        "files",
        "fingerprints",
        "formats",
        "index_file",
        "parsing",
        "paths",
        "processes",
        "tensors",
    }
)

# The modules that compute each stage's result. Their imports are followed.
FEATURES = ("features.encode", "features.directions", "encoders.speech", "encoders.mfcc")
VECTORS = ("encoders.clip", "features.embed")
TRAINING = ("training.loop",)
PRETRAINING = ("pretrain.run",)
# The same for the stages of dvc.yaml, which also depend on the code of their commands.
STAGES = {
    "make-corpus": ("corpora.make",),
    "extract-features": (*FEATURES, "features.extract"),
    "embed-clip": VECTORS,
    "train": (*TRAINING, "training.run"),
    "evaluate": ("evaluation.run",),
    "report": ("report.run",),
}


def data_fingerprint(data: Any) -> str:
    """Return the SHA-256 of plain data, as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def differing_keys(
    one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield the keys of plain data that have other values, or that only one has, with both values.

    The keys of nested tables are joined by dots. The value of a missing key is None.
    """
    for key in {**one, **other}:
        first, second = one.get(key), other.get(key)
        if isinstance(first, dict) and isinstance(second, dict):
            yield from differing_keys(first, second, f"{prefix}{key}.")
        elif key not in one or key not in other or json.dumps(first) != json.dumps(second):
            yield f"{prefix}{key}", first, second


def module_fingerprint(module: "nn.Module", config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a module's weights and configuration. It does not depend on the file they came from."""
    return tensors_fingerprint(module.state_dict(), config)


def tensors_fingerprint(tensors: Mapping[str, "Tensor"], config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a configuration and of the tensors' names, types, shapes and values."""
    import torch

    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def code_fingerprint(roots: tuple[str, ...]) -> str:
    """Return the SHA-256 of the code of some modules of this package and of the modules that they import from it."""
    digest = hashlib.sha256()
    for name in computing_modules(roots):
        digest.update(f"{name} {_dump(_tree(name))}\n".encode())
    return digest.hexdigest()


def stage_fingerprints() -> dict[str, str]:
    """Return a fingerprint of the code of each stage of dvc.yaml. The report's covers its HTML, CSS and JS, too."""
    found = {stage: code_fingerprint(roots) for stage, roots in STAGES.items()}
    page = sorted(path for path in (PACKAGE / "report").iterdir() if path.suffix in (".html", ".css", ".js"))
    return {**found, "report": data_fingerprint([found["report"], *(path.read_text("utf-8") for path in page)])}


def computing_modules(roots: tuple[str, ...]) -> list[str]:
    """Return the names of some modules and of all that they import from this package, except NOT_COMPUTING."""
    names, waiting = set[str](), list(roots)
    while waiting:
        name = waiting.pop()
        if name not in names:
            names.add(name)
            waiting += [imported for imported in _imports(name) if imported not in NOT_COMPUTING]
    return sorted(names)


def _file(name: str) -> Path:
    return PACKAGE / f"{name.replace('.', '/')}.py"


@cache
def _tree(name: str) -> ast.Module:
    """Return a module's syntax tree, without docstrings. A tree has no comments and no line breaks."""
    tree = ast.parse(_file(name).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def _dump(node: Any) -> str:
    """Return a syntax tree as text that is the same for every version of Python.

    The versions differ in which fields a node has, in how `ast.dump` shows an empty one, and in the empty texts between
    the parts of an f-string.
    """
    if isinstance(node, list):
        return f"[{', '.join(map(_dump, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if value is not None and value != []}
    if isinstance(node, ast.JoinedStr):
        fields["values"] = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
    return f"{type(node).__name__}({', '.join(f'{name}={_dump(value)}' for name, value in fields.items())})"


def _imports(name: str) -> Iterator[str]:
    """Yield the modules of this package that a module imports at run time, also those imported inside functions."""
    for node in _runtime_nodes(_tree(name)):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.split(".")[0] == "sclip":
            module = ".".join(node.module.split(".")[1:])
            for alias in node.names:
                submodule = f"{module}.{alias.name}".strip(".")
                imported = submodule if _file(submodule).is_file() else module
                if imported:
                    yield imported


def _runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield a tree's nodes, without those that are only for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            yield node
            yield from _runtime_nodes(node)
