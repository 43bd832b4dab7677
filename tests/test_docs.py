"""The documentation names only files, commands, options and modules that exist, and its examples run."""

import glob
import itertools
import json
import pkgutil
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import miniature
import numpy as np
import pytest
import soundfile
import yaml
from click import Context, Group
from dvc.cli import parse_args as parse_dvc
from PIL import Image
from project import TINY, run_sclip, write_encoders
from shipped import PARAMS
from stored_corpus import write_corpus
from torch.distributed.run import get_args_parser

from sclip.cli import main
from sclip.config import load_params
from sclip.corpora.manifest import write_manifest
from sclip.fingerprints import PACKAGE

ROOT = Path(__file__).parents[1]
PAGES = [
    page
    for pattern in (
        "*.md",
        "docs/*.md",
        "data/README.md",
        "data/examples/README.md",
        "models/README.md",
        "models/mini-*/README.md",
    )
    for page in sorted(ROOT.glob(pattern))
]
SCRIPTS = [ROOT / "docs/slurm.sh"]
PAGES_WITH_A_PRESET = ("README.md", "docs/development.md")
FORMATS = {"features", "vectors", "model", "metrics"}  # file formats, such as `sclip model 2`


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
        line = re.sub(r"^ *(?:resumable +)?everywhere ", "sclip ", line)  # the function in docs/slurm.sh
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
        while isinstance(command, Group) and arguments:
            name, *arguments = arguments
            command = command.commands[name]
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word for word in arguments if word.startswith("-") and word != "-"} <= options, (name, arguments)


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


@all_pages
def test_every_code_block_is_of_a_kind_that_is_tested(page):
    fences = re.findall(r"^ *```(.*)$", page.read_text(), re.MULTILINE)
    tested = {"sh", "python"} | ({"yaml"} if page_name(page) in PAGES_WITH_A_PRESET else set())
    assert set(fences[::2]) <= tested
    assert not any(fences[1::2])


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=page_name)
def test_python_examples_run(page, tmp_path, monkeypatch, capsys):
    """An example loads the trained model that ships, and some files by their names; noise takes their places."""
    code = "\n".join(blocks(page, "python"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(ROOT / "models")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/examples").symlink_to(ROOT / "data/examples")
    for i, file in enumerate(re.findall(r'"([\w.]+\.(?:wav|flac))"', code)):
        soundfile.write(file, np.random.default_rng(i).standard_normal(8_000) / 10, 16_000)
    for i, file in enumerate(re.findall(r'"([\w.]+\.jpg)"', code)):
        Image.new("RGB", (32, 24), (i, 99, 200)).save(file)
    exec(code, {})
    assert capsys.readouterr().out


def params_with_preset_of(page: str) -> str:
    (preset,) = blocks(ROOT / page, "yaml")
    params = yaml.safe_load(PARAMS.read_text())
    params["presets"] |= yaml.safe_load(preset)
    return yaml.safe_dump(params)


def test_readme_preset_is_valid(tmp_path):
    (tmp_path / "params.yaml").write_text(params_with_preset_of("README.md"))
    overrides = ["run.presets=[mine]", "run.architectures=[parallel, cascaded-cif]"]
    assert load_params(tmp_path / "params.yaml", overrides).preset("mine").on_error == "skip"


def test_small_preset_of_the_developers_page_is_valid(tmp_path):
    (tmp_path / "params.yaml").write_text(params_with_preset_of("docs/development.md"))
    params = load_params(tmp_path / "params.yaml")
    assert [params.experiment("tiny", arch).training.batch for arch in ("parallel", "cascaded-cif")] == [16, 16]


# The commands of shell blocks that only have their arguments checked: all of a program, or a single one.
NOT_RUN = {
    "make": "installs from the network, or takes minutes",
    "dvc": "needs a repository with the results of all stages; test_stages.py runs DVC in one",
    "torchrun": "needs a GPU for each process; test_distributed.py runs several processes",
    "sclip fetch flickr8k data/flickr8k": "downloads 5 GB",
    "sclip search examples.index data/examples/dog.wav --engine faiss": "needs the extra faiss",
    "sclip transcribe openai/whisper-small --language en --preset flickr8k-base": (
        "downloads Whisper; features/test_transcripts.py runs a small one"
    ),
    "arecord": "needs a microphone",
    **dict.fromkeys(
        (
            "sclip train --arch cascaded-cif --seed 1 --device cuda",
            "sclip bench --device cuda",
            "sclip pretrain speech --device cuda --out models/mini-hubert-new",
            "sclip pretrain clip --device cuda --out models/mini-clip-new",
        ),
        "needs a GPU",
    ),
    **dict.fromkeys(
        (
            "sclip demo",
            "sclip demo --images photos --model my/model --open",
            "sclip demo --model models/scenes-hybrid-cif --model my/model",
        ),
        "serves a page until Ctrl-C, and needs Gradio; tests/browser does this",
    ),
    "sclip import CHECKPOINT.ckpt models/hybrid-cif": "needs a published checkpoint",
    "sclip evaluate --model models/hybrid-cif --preset flickr8k-base": "needs an imported checkpoint",
    **{
        f"sclip {command} --arch cascaded-cif --seed 100 -S recipes.sclip.cascaded-cif.objective.visual_words=0": (
            "needs the data of make repro"
        )
        for command in ("train", "evaluate")
    },
    "sclip compare results/scenes/runs/cascaded/seed-0 results/scenes/runs/cascaded-cif/seed-0": (
        "needs the results of make repro; report/test_comparison.py compares others"
    ),
    "sclip train mine --arch parallel --start-from models/flickr8k-base/parallel/seed-0": (
        "needs a model of flickr8k-base; training/test_run.py starts from another"
    ),
    "awk": "needs the data of make repro; test_a_part_of_a_manifest_has_a_tenth_of_the_training_rows runs it",
    "pip": "installs from the network",
    "uv": "installs from the network",
    "cd": "has no arguments to check",
    "export": "sets a variable of the shell",
    "sclip push models/scenes/hybrid-cif/seed-0 me/scenes-hybrid-cif --license mit": "uploads; see apps/test_hub.py",
    "sclip import hf://speechclip/models/base/flickr/parallel/CHECKPOINT.ckpt models/published-parallel": "downloads",
    "sclip benchmark mteb SpokenCOCOA2IRetrieval SpokenCOCOI2ARetrieval --model models/published-parallel": (
        "downloads the tasks' data; interop/test_mteb.py runs a local task"
    ),
}


def test_a_part_of_a_manifest_has_a_tenth_of_the_training_rows(tmp_path):
    (command,) = re.findall(r"^awk .*", (ROOT / "docs/experiments.md").read_text(), re.MULTILINE)
    splits = [*["train"] * 25, *["dev"] * 3, *["test"] * 2]
    files = {"audio": "a.wav", "image": "a.jpg", "text": 'the words of a row: "split": "test"'}
    rows = [{"id": f"u{i}", "split": split, "image_id": f"p{i}", **files} for i, split in enumerate(splits)]
    (tmp_path / "data/scenes").mkdir(parents=True)
    write_manifest(tmp_path / "data/scenes/manifest.jsonl", rows)
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    kept = [json.loads(line)["id"] for line in (tmp_path / "data/scenes/tenth.jsonl").read_text().splitlines()]
    assert kept == ["u0", "u10", "u20", "u25", "u26", "u27", "u28", "u29"]


def shell_commands(page: Path) -> list[list[str]]:
    """Return the words of each command in a page's shell blocks."""
    lines = re.split(r"\n|&&", "\n".join(blocks(page, "sh")).replace("\\\n", " "))
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def is_run(words: list[str]) -> bool:
    return not {words[0], " ".join(words)} & NOT_RUN.keys()


def expanded(words: list[str]) -> list[str]:
    """Replace patterns by the files they match, as a shell does."""
    return [file for word in words for file in (sorted(glob.glob(word)) if "*" in word else [word])]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Write a project with small encoders and corpora in the places that the documentation names."""
    folder = tmp_path_factory.mktemp("docs")
    write_corpus(folder / "data/scenes-study-published", encoders=write_encoders(folder))
    miniature.flickr8k(folder / "data/flickr8k")
    table = [("wav", "jpg", "caption", "part", "who")]
    for part in ("train", "validation", "test"):
        miniature.wav(folder / f"mine/{part}.wav")
        miniature.jpg(folder / f"mine/{part}.jpg")
        table.append((f"{part}.wav", f"{part}.jpg", "a brown dog", part, "somebody"))
    (folder / "mine/captions.tsv").write_text("\n".join(map("\t".join, table)))
    params = yaml.safe_load(params_with_preset_of("README.md"))
    for preset in ("mine", "flickr8k-base", "scenes-study-published"):
        params["presets"][preset] |= {key: TINY[key] for key in ("encoders", "training")}
        params["presets"][preset]["features"] = TINY["features"] | {"components": None}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "tests").symlink_to(ROOT / "tests")
    (folder / "models").mkdir(exist_ok=True)
    for shipped in (*ROOT.glob("models/mini-*"), ROOT / "models/scenes-hybrid-cif", ROOT / "data/examples"):
        (folder / shipped.relative_to(ROOT)).symlink_to(shipped)
    (folder / "captions.txt").write_text("a brown dog")
    (folder / "results").mkdir()
    shutil.copy(ROOT / "results/paper.yaml", folder / "results")
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if any(map(is_run, shell_commands(page)))], ids=page_name)
def test_shell_examples_run(page, project, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setattr("sclip.corpora.flickr8k.PUBLISHED", None)  # the small copy has fewer pictures
    for limit in ("SPEECH_SECONDS", "PICTURE_SECONDS"):
        monkeypatch.setattr(f"sclip.features.plan.{limit}", 0.05)
    for program, *arguments in map(expanded, filter(is_run, shell_commands(page))):
        assert program == "sclip", f"{program}: run it here, or add it to NOT_RUN with the reason"
        assert run_sclip(*arguments)


def test_shell_examples_that_are_not_run_have_valid_arguments():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    seen = set()
    for program, *arguments in itertools.chain.from_iterable(map(shell_commands, PAGES)):
        if is_run([program, *arguments]):
            continue
        seen |= {program, shlex.join([program, *arguments])}
        if program == "dvc":
            parsed = parse_dvc(arguments)
            assert {target.partition("@")[0] for target in getattr(parsed, "targets", None) or []} <= stages.keys()
            load_params(PARAMS, getattr(parsed, "set_param", None) or [])
        if program == "torchrun":
            parsed = get_args_parser().parse_args(arguments)
            assert parsed.module
            program, arguments = parsed.training_script, parsed.training_script_args
        if program == "sclip":
            name, *options = arguments
            main.get_command(Context(main), name).make_context(name, options)
    assert seen >= NOT_RUN.keys()
