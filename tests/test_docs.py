"""The documentation names only files, commands, options and modules that exist, and its examples run."""

import itertools
import pkgutil
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click import Context
from PIL import Image
from small import model

from sclip.cli import main
from sclip.config import load_params
from sclip.fingerprints import PACKAGE

ROOT = Path(__file__).parents[1]
PAGES = [
    page
    for pattern in ("*.md", "docs/*.md", "data/README.md", "models/README.md", "models/mini-*/README.md")
    for page in sorted(ROOT.glob(pattern))
]
SCRIPTS = [ROOT / "docs/slurm.sh"]
FORMATS = {"features", "vectors", "model"}  # file formats, such as `sclip model 2`


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


all_pages = pytest.mark.parametrize("page", PAGES, ids=page_name)


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def inline_code(page: Path) -> list[str]:
    """Return the texts between single backticks."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def sclip_commands(code: str) -> list[list[str]]:
    """Return the words after each `sclip` of a shell script or a line of code, placeholders left out."""
    commands = []
    for line in re.split(r"\n|&&|\|\|", code.replace("\\\n", " ")):
        line = re.sub(r"^ *everywhere ", "sclip ", line)  # the function in docs/slurm.sh
        for rest in re.findall(r"(?:^|[ /])sclip (.*)", line):
            commands.append(shlex.split(rest, comments=True))
    return [words for words in commands if words and words[0] not in {"COMMAND", "$@"}]


@all_pages
def test_relative_links_lead_to_a_file_and_a_heading(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", [*PAGES, *SCRIPTS], ids=page_name)
def test_commands_and_options_exist(page):
    codes = [page.read_text()] if page in SCRIPTS else [*blocks(page, "sh"), *inline_code(page)]
    for name, *arguments in itertools.chain.from_iterable(map(sclip_commands, codes)):
        if name in FORMATS or name in {"--help", "--version"}:
            continue
        command = main.get_command(Context(main), name)
        assert command is not None, name
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word for word in arguments if word.startswith("-")} <= options, (name, arguments)


@all_pages
def test_make_targets_exist(page):
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    codes = [*blocks(page, "sh"), *inline_code(page)]
    for target in re.findall(r"^make ([a-z]+)", "\n".join(codes), re.MULTILINE):
        assert target in targets


@all_pages
def test_source_files_exist(page):
    """Source files are named from the top of the repository, or from pipeline/sclip."""
    for code in inline_code(page):
        for name in re.findall(r"^(?:[\w.-]+/)*[\w-]+\.py$|^(?:pipeline|tests|docs|\.ci)/[\w./-]*$", code):
            assert (ROOT / name).exists() or (PACKAGE / name).exists(), name
        if page.name == "development.md" and re.fullmatch(r"[a-z]+/", code):
            assert (ROOT / code).is_dir() or (PACKAGE / code).is_dir(), code


@all_pages
def test_python_names_exist(page):
    for code in inline_code(page):
        for name in re.findall(r"\bsclip(?:\.[A-Za-z]\w*)+", code):
            pkgutil.resolve_name(name)


@pytest.mark.parametrize("name", ["README.md", "docs/architectures.md"])
def test_python_examples_run(name, tmp_path, monkeypatch, capsys):
    """An example loads a trained model and some files by their names; small ones take their places."""
    (code,) = blocks(ROOT / name, "python")
    (folder,) = re.findall(r'sclip\.load\("(.*?)"\)', code)
    monkeypatch.chdir(tmp_path)
    model(Path(folder).parts[2]).save(folder)
    for i, file in enumerate(re.findall(r'"([\w.]+\.(?:wav|flac))"', code)):
        soundfile.write(file, np.random.default_rng(i).standard_normal(8_000) / 10, 16_000)
    for i, file in enumerate(re.findall(r'"([\w.]+\.jpg)"', code)):
        Image.new("RGB", (32, 24), (i, 99, 200)).save(file)
    exec(code, {})
    assert capsys.readouterr().out


def test_readme_preset_is_valid(tmp_path):
    (preset,) = blocks(ROOT / "README.md", "yaml")
    params = (ROOT / "params.yaml").read_text().replace("\npresets:\n", f"\npresets:\n{preset}\n", 1)
    (tmp_path / "params.yaml").write_text(params)
    overrides = ["run.presets=[mine]", "run.architectures=[parallel, cascaded-cif]"]
    assert load_params(tmp_path / "params.yaml", overrides).preset("mine").on_error == "skip"
