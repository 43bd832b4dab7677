"""The command line: parse, call one function, print. A user's mistake is one line and exit status 1.

Each command checks its options before it imports what it runs: torch and its like take seconds.
"""

import contextlib
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sclip import __version__, places
from sclip.config import LARGEST_SEED, Params, load_params
from sclip.errors import Problems, UserError
from sclip.parsing import shown

DEVICE = re.compile(r"auto|(cpu|cuda|mps|xpu)(:[0-9]{1,3})?")


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            raise click.ClickException(str(error)) from None
        except OSError as error:  # a disk that is full, a place that cannot be written
            raise click.ClickException(str(error)) from None


@click.group(cls=_Commands)
@click.version_option(__version__)
def main() -> None:
    """SpeechCLIP+: speech in CLIP's image-text space, without transcripts."""


@main.command("import")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--encoders",
    type=click.Path(path_type=Path),
    help="JSON with the encoders' configurations (`hubert`: transformers', `clip`: open_clip's), "
    "for encoders of other than the published sizes.",
)
def import_(checkpoint: Path, out: Path, encoders: Path | None) -> None:
    """Make the model folder OUT from a published SpeechCLIP or SpeechCLIP+ CHECKPOINT.

    Reads the file as data: nothing that it pickles is run. Needs none of the code that wrote it. OUT then holds
    everything, the encoders too, and opens with sclip.load(OUT).
    """
    from sclip.interop.importer import import_checkpoint

    report = import_checkpoint(checkpoint, out, encoders)
    for title, lines in (("read", report.read), ("ignored", report.ignored), ("missing", report.missing)):
        for line in lines:
            click.echo(f"{title:8}{line}")
    click.echo(f"{'wrote':8}{out}")


def _reads_params(command: Callable[..., None]) -> Callable[..., None]:
    """Add --params and -S to a command, and run it in the folder of params.yaml."""

    @functools.wraps(command)
    def run(params_file: Path, **options: Any) -> None:
        if not params_file.is_file():
            raise UserError(f"{params_file}: no such file")
        if params_file.parent.resolve() != Path.cwd():
            params_file = params_file.absolute()
            options = {key: value.absolute() if isinstance(value, Path) else value for key, value in options.items()}
        with contextlib.chdir(params_file.parent):
            command(params_file=params_file, **options)

    decorated: Callable[..., None] = run
    for option in (
        click.option(
            "-S",
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            help="Instead of what params.yaml "
            "says, the key in full: -S presets.scenes.training.steps=100. May be repeated.",
        ),
        click.option(
            "--params",
            "params_file",
            type=click.Path(path_type=Path),
            default=Path("params.yaml"),
            show_default=True,
            help="The settings. The command works in this file's folder: the paths in it, data/, models/ and results/ "
            "are relative to that folder. Paths that you type as arguments are relative to where you are.",
        ),
    ):
        decorated = option(decorated)
    return decorated


def _checked_device(_context: click.Context, _parameter: click.Parameter, name: str) -> str:
    if not DEVICE.fullmatch(name):
        raise UserError(f"--device {name}: expected auto, cpu, cuda, mps or xpu, or one of several, such as cuda:1")
    return name


def _checked_seed(_context: click.Context, _parameter: click.Parameter, seed: int | None) -> int | None:
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"--seed {shown(seed)}: expected 0 to {LARGEST_SEED}")
    return seed


def _folder_or_repo(_context: click.Context, _parameter: click.Parameter, name: str | None) -> Path | str | None:
    """Return a folder that exists as a Path. Any other name may be a hub repo's, which is no path."""
    return Path(name) if name is not None and Path(name).exists() else name


_preset = click.option("--preset", help="A key of `presets` in params.yaml.  [default: the first of run.presets]")
_device = click.option(
    "--device",
    default="auto",
    show_default=True,
    callback=_checked_device,
    help="cpu, cuda, cuda:1, …; auto: a GPU if any.",
)
_arch = click.option("--arch", required=True, help="A key of `arch` in params.yaml, such as cascaded-cif.")
_seed = click.option(
    "--seed",
    type=int,
    callback=_checked_seed,
    help=f"Of weights and batches, 0 to {LARGEST_SEED}.  [default: the first of run.seeds]",
)
_on_error = click.option(
    "--on-error",
    type=click.Choice(["fail", "skip"]),
    help="A row that cannot be used stops the command, or is left out and counted.  [default: the preset's on_error]",
)


def _preset_or_argument(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take its preset as --preset, as the other commands do, or as an argument."""

    @functools.wraps(command)
    def run(argument: str | None, preset: str | None, **options: Any) -> None:
        if argument is not None and preset is not None and argument != preset:
            raise UserError(f"PRESET is {argument} and --preset is {preset}; give one of them")
        command(preset=preset if argument is None else argument, **options)

    return click.argument("argument", metavar="[PRESET]", required=False)(_preset(run))


_random_encoders = click.option(
    "--random-encoders",
    "random",
    is_flag=True,
    help="Both encoders at their real sizes with weights drawn at random, and nothing downloaded: to rehearse a "
    "preset. All that is written says so. For all stages or for none.",
)


def _chosen(
    params_file: Path, overrides: tuple[str, ...], preset: str | None, random: bool = False, arch: str | None = None
) -> tuple[Params, str]:
    """Return the settings and the preset's name, after checking that they have this preset and this architecture."""
    params = load_params(params_file, overrides)
    name = params.run.presets[0] if preset is None else preset
    params.preset(name)
    if arch is not None:
        params.experiment(name, arch)
    if random:
        seeds = (f"presets.{name}.encoders.{encoder}.random_seed=0" for encoder in ("speech", "clip"))
        params = load_params(params_file, (*overrides, *seeds))
    return params, name


@main.command("fetch")
@click.argument("corpus", type=click.Choice(["flickr8k", "spokencoco"]))
@click.argument("folder", type=click.Path(path_type=Path))
def fetch(corpus: str, folder: Path) -> None:
    """Download CORPUS into FOLDER: recordings, captions, splits and pictures.

    Goes on where it was stopped. flickr8k is 5.3 GB of archives, spokencoco 84 GB; unpacking needs as much again.
    A preset finds it by corpus.path: FOLDER.
    """
    from sclip.corpora.fetch import ARCHIVES, fetch

    for line in fetch(ARCHIVES[corpus], folder):
        click.echo(line)


@main.command("make-corpus")
@_preset_or_argument
@_on_error
@_reads_params
def make_corpus(preset: str | None, on_error: str | None, params_file: Path, overrides: tuple[str, ...]) -> None:
    """Make the corpus of PRESET: pictures, captions and recordings.

    Reads presets.PRESET.corpus. Writes data/PRESET/manifest.jsonl, a row an utterance, and, for scenes, the files that
    its rows name.
    """
    params, name = _chosen(params_file, overrides, preset)
    from sclip.corpora.make import make_corpus

    problems = Problems((on_error or params.preset(name).on_error) == "skip")
    count = make_corpus(params.preset(name).corpus, places.manifest(name), problems)
    problems.report()
    click.echo(f"{places.manifest(name)}: {count} utterances")


@main.command("check-corpus")
@_preset_or_argument
@_reads_params
def check_corpus(preset: str | None, params_file: Path, overrides: tuple[str, ...]) -> None:
    """Read every recording and picture of PRESET's corpus once, and say what is there and what is wrong.

    Reads presets.PRESET.corpus and the files that it names (of scenes: what make-corpus made). Writes nothing. Exit
    status 1 if a file is missing or damaged, if a picture is there twice or in two splits, or if there are more or
    fewer of anything than were published.
    """
    params, name = _chosen(params_file, overrides, preset)
    from sclip.corpora.check import check_corpus, report

    check = check_corpus(params.preset(name).corpus, places.manifest(name))
    for line in report(check):
        click.echo(line)
    if check.faults:
        raise SystemExit(1)


@main.command("plan")
@_preset_or_argument
@_device
@_random_encoders
@_reads_params
def plan(preset: str | None, device: str, random: bool, params_file: Path, overrides: tuple[str, ...]) -> None:
    """Say what caching PRESET will read and write, and about how long it will take on this device.

    Reads presets.PRESET, the headers of some recordings, and works for ten seconds. Writes nothing. Exit status 1 if
    the disk is too small.
    """
    params, name = _chosen(params_file, overrides, preset, random)
    from sclip.device import choose_device
    from sclip.encoders.open import open_clip, open_speech
    from sclip.features.plan import describe_plan, make_plan

    chosen, where = params.preset(name), choose_device(device)
    speech, clip = open_speech(chosen.encoders.speech), open_clip(chosen.encoders.clip)
    found = make_plan(chosen, places.manifest(name), speech, clip, where, Problems(skip=True))
    for line in describe_plan(found, name, places.manifest(name).parent, str(where)):
        click.echo(line)
    if not found.fits:
        raise SystemExit(1)


@main.command("extract-features")
@_preset
@_device
@_on_error
@_random_encoders
@_reads_params
def extract_features(
    preset: str | None, device: str, on_error: str | None, random: bool, params_file: Path, overrides: tuple[str, ...]
) -> None:
    """Cache the speech encoder's hidden states of every recording.

    Reads data/PRESET/manifest.jsonl and the recordings. Writes data/PRESET/features: shards, and index.json. Goes on
    where it was stopped, and computes only what changed.
    """
    params, name = _chosen(params_file, overrides, preset, random)
    from sclip import processes
    from sclip.device import choose_device
    from sclip.encoders.open import open_speech
    from sclip.features.extract import extract_features

    problems = Problems((on_error or params.preset(name).on_error) == "skip")
    chosen, out = params.preset(name), places.features_folder(name)
    encoder, where = open_speech(chosen.encoders.speech), choose_device(device)
    with processes.joined(where), processes.alone(out):
        done = extract_features(places.manifest(name), out, encoder, chosen.features, where, problems)
        if not processes.is_first():
            return
    problems.report()
    click.echo(
        f"{out}: {done.utterances} utterances, {done.hours:.2f} hours, {done.gigabytes:.2f} GB; "
        f"{done.shards_computed} shards computed, {done.shards_reused} there already; {done.seconds:.0f} s"
    )


@main.command("verify-features")
@_preset
@_reads_params
def verify_features(preset: str | None, params_file: Path, overrides: tuple[str, ...]) -> None:
    """Check every byte of the cached hidden states.

    Reads data/PRESET/features and manifest.jsonl. Exit status 1 if anything is missing, damaged or left over.
    """
    _, name = _chosen(params_file, overrides, preset)
    from sclip.corpora.manifest import read_manifest
    from sclip.features.verify import verify

    rows = read_manifest(places.manifest(name), Problems(skip=True))
    findings = verify(places.features_folder(name), [row.id for row in rows])
    for finding in findings:
        click.echo(f"{finding.where}: {finding.what}")
    click.echo(f"{places.features_folder(name)}: {len(findings)} faults")
    if findings:
        click.echo("Delete the shards named, or all; extract-features computes what is missing.")
        raise SystemExit(1)


@main.command("embed-clip")
@_preset
@_device
@_on_error
@_random_encoders
@_reads_params
def embed_clip(
    preset: str | None, device: str, on_error: str | None, random: bool, params_file: Path, overrides: tuple[str, ...]
) -> None:
    """Cache CLIP's vectors of every picture and caption.

    Reads data/PRESET/manifest.jsonl and the pictures. Writes data/PRESET/vectors.
    """
    params, name = _chosen(params_file, overrides, preset, random)
    from sclip import processes
    from sclip.device import choose_device
    from sclip.encoders.open import open_clip
    from sclip.features.embed import embed_clip

    problems = Problems((on_error or params.preset(name).on_error) == "skip")
    clip = open_clip(params.preset(name).encoders.clip)
    out = places.vectors_folder(name)
    with processes.alone(out):
        done = embed_clip(places.manifest(name), out, clip, choose_device(device), problems)
    problems.report()
    click.echo(f"{out}: {done.images} pictures, {done.captions} captions")


@main.command("train")
@_arch
@_preset
@_seed
@_device
@_random_encoders
@_reads_params
def train(
    arch: str,
    preset: str | None,
    seed: int | None,
    device: str,
    random: bool,
    params_file: Path,
    overrides: tuple[str, ...],
) -> None:
    """Train the head of an architecture.

    Reads data/PRESET: the manifest, features and vectors. Writes the model folder models/PRESET/ARCH/seed-N, and
    learning curves to results/PRESET/runs/ARCH/seed-N/curves. Stopped at any moment, it goes on when started again, and
    ends as if it had not been.
    """
    params, name = _chosen(params_file, overrides, preset, random, arch)
    from sclip import processes
    from sclip.device import choose_device
    from sclip.training.run import run_training

    number, where = params.run.seeds[0] if seed is None else seed, choose_device(device)
    with processes.joined(where):
        run_training(params, name, arch, number, where, places.curves_folder(name, arch, number))


@main.command("evaluate")
@click.option("--arch", help="A key of `arch` in params.yaml, such as cascaded-cif. Needed unless MODEL is given.")
@click.option(
    "--model",
    "folder",
    callback=_folder_or_repo,
    help="A model folder to evaluate in place of the one that was trained here, such as an imported checkpoint.",
)
@click.option(
    "--exact",
    is_flag=True,
    help="Score exact hidden states, computed from the recordings in fp32 as sclip.load's models do, not the stored "
    "ones. Reads no features; writes below results/PRESET/exact, not runs.",
)
@_preset
@_seed
@_device
@_reads_params
def evaluate(
    arch: str | None,
    folder: Path | str | None,
    exact: bool,
    preset: str | None,
    seed: int | None,
    device: str,
    params_file: Path,
    overrides: tuple[str, ...],
) -> None:
    """Measure a trained head on the test split: retrieval, keywords, word boundaries.

    Reads models/PRESET/ARCH/seed-N and data/PRESET. Writes results/PRESET/runs/ARCH/seed-N: metrics.json,
    with intervals, and examples.json, for the report. With --model reads that folder, and writes
    results/PRESET/runs/ARCH/imported.
    """
    if (arch is None) == (folder is None):
        raise UserError("expected one of --arch and --model")
    params, name = _chosen(params_file, overrides, preset, arch=arch)
    from sclip.device import choose_device
    from sclip.evaluation.run import run_imported, run_trained

    where = choose_device(device)
    if folder is not None:
        told = run_imported(params, name, Path(folder), where, exact)
    else:
        told = run_trained(params, name, str(arch), params.run.seeds[0] if seed is None else seed, where, exact)
    for line in told:
        click.echo(line)


@main.command("table")
@click.option("--paper", "only", is_flag=True, help="The published numbers alone.")
@click.option(
    "--format", "form", type=click.Choice(["markdown", "csv", "latex"]), default="markdown", show_default=True
)
def table(only: bool, form: str) -> None:
    """Print the papers' tables, ours beside the published numbers.

    Reads results/paper.yaml, where each published number and its source stand, and what `evaluate` left in
    results/PRESET/runs. Cells of what was not run are empty.
    """
    from sclip.report.paper import FORMATS, read_paper

    click.echo(FORMATS[form](read_paper(), not only), nl=False)


@main.command("report")
@_preset
@_reads_params
def report(preset: str | None, params_file: Path, overrides: tuple[str, ...]) -> None:
    """Put all of a preset's results side by side.

    Reads results/PRESET/runs: metrics, examples, curves. Writes results/PRESET: table.md, report.html (one page
    that needs no other file) and what `dvc plots` draws.
    """
    params, name = _chosen(params_file, overrides, preset)
    from sclip.report import write_report

    for path in write_report(params, name):
        click.echo(path)


_BENCHMARKS = ("extraction", "training", "cif", "vocabulary", "evaluation")


@main.command("bench")
@_device
@click.option("--only", type=click.Choice(_BENCHMARKS), multiple=True, help="May be repeated.  [default: all]")
@_reads_params
def bench(device: str, only: tuple[str, ...], params_file: Path, overrides: tuple[str, ...]) -> None:
    """Time what is claimed to be fast beside other ways to do the same, on this device.

    On a CPU with the small encoders and `scenes`' sizes, on a GPU with the papers' and weights drawn at random. Writes
    results/bench.json and results/bench.svg.
    """
    params = load_params(params_file, overrides)
    from sclip.bench.run import run_bench
    from sclip.device import choose_device

    for line in run_bench(params, choose_device(device), only or _BENCHMARKS, Path("results")):
        click.echo(line)


@main.command("pretrain")
@click.argument("which", type=click.Choice(["speech", "clip"]))
@click.option("--out", type=click.Path(path_type=Path), help="[default: models/mini-hubert or models/mini-clip]")
@_device
@_reads_params
def pretrain(which: str, out: Path | None, device: str, params_file: Path, overrides: tuple[str, ...]) -> None:
    """Make one of the two small encoders that ship with the project.

    Reads `pretrain` in params.yaml; draws and speaks its own data, disjoint from every corpus's test pictures,
    phrases and voices. Writes models/mini-hubert (speech) or models/mini-clip (clip), card included. Goes on where
    it was stopped.
    """
    params = load_params(params_file, overrides)
    from sclip.device import choose_device
    from sclip.pretrain.run import pretrain

    for path in pretrain(params, which, out, choose_device(device)):
        click.echo(path)
