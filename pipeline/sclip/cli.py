"""The command line: parse, call one function, print. A user's mistake is one line and exit status 1."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sclip import __version__, places
from sclip.config import Params, load_params
from sclip.errors import Problems, UserError


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


def _file_of_params(command: Callable[..., None]) -> Callable[..., None]:
    """--params and -S, which every stage has."""
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
            help="What the numbers are read from.",
        ),
    ):
        command = option(command)
    return command


_preset = click.option("--preset", help="A key of `presets` in params.yaml.  [default: the first of run.presets]")
_device = click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, …; auto: a GPU if any.")
_arch = click.option("--arch", required=True, help="A key of `arch` in params.yaml, such as cascaded-cif.")
_seed = click.option("--seed", type=int, help="Of weights and batches.  [default: the first of run.seeds]")
_on_error = click.option(
    "--on-error",
    type=click.Choice(["fail", "skip"]),
    help="A row that cannot be used stops the command, or is left out and counted.  [default: the preset's on_error]",
)


_random_encoders = click.option(
    "--random-encoders",
    "random",
    is_flag=True,
    help="Both encoders at their real sizes with weights drawn at random, and nothing downloaded: to rehearse a "
    "preset. All that is written says so. For all stages or for none.",
)


def _chosen(
    params_file: Path, overrides: tuple[str, ...], preset: str | None, random: bool = False
) -> tuple[Params, str]:
    params = load_params(params_file, overrides)
    name = params.run.presets[0] if preset is None else preset
    params.preset(name)
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
@click.argument("preset", required=False)
@_on_error
@_file_of_params
def make_corpus(preset: str | None, on_error: str | None, params_file: Path, overrides: tuple[str, ...]) -> None:
    """Make the corpus of PRESET: pictures, captions and recordings.

    Reads presets.PRESET.corpus. Writes data/PRESET/manifest.jsonl, a row an utterance, and, for scenes, the files that
    its rows name. PRESET: by default the first of run.presets.
    """
    from sclip.corpora.make import make_corpus

    params, name = _chosen(params_file, overrides, preset)
    problems = Problems((on_error or params.preset(name).on_error) == "skip")
    count = make_corpus(params.preset(name).corpus, places.manifest(name), problems)
    problems.report()
    click.echo(f"{places.manifest(name)}: {count} utterances")


@main.command("check-corpus")
@click.argument("preset", required=False)
@_file_of_params
def check_corpus(preset: str | None, params_file: Path, overrides: tuple[str, ...]) -> None:
    """Read every recording and picture of PRESET's corpus once, and say what is there and what is wrong.

    Reads presets.PRESET.corpus and the files that it names (of scenes: what make-corpus made). Writes nothing. Exit
    status 1 if a file is missing or damaged, if a picture is there twice or in two splits, or if there are more or
    fewer of anything than were published.
    """
    from sclip.corpora.check import check_corpus, report

    params, name = _chosen(params_file, overrides, preset)
    check = check_corpus(params.preset(name).corpus, places.manifest(name))
    for line in report(check):
        click.echo(line)
    if check.faults:
        raise SystemExit(1)


@main.command("plan")
@click.argument("preset", required=False)
@_device
@_random_encoders
@_file_of_params
def plan(preset: str | None, device: str, random: bool, params_file: Path, overrides: tuple[str, ...]) -> None:
    """Say what caching PRESET will read and write, and about how long it will take on this device.

    Reads presets.PRESET, the headers of some recordings, and works for ten seconds. Writes nothing. Exit status 1 if
    the disk is too small.
    """
    from sclip.device import choose_device
    from sclip.encoders.open import open_clip, open_speech
    from sclip.features.plan import describe_plan, make_plan

    params, name = _chosen(params_file, overrides, preset, random)
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
@_file_of_params
def extract_features(
    preset: str | None, device: str, on_error: str | None, random: bool, params_file: Path, overrides: tuple[str, ...]
) -> None:
    """Cache the speech encoder's hidden states of every recording.

    Reads data/PRESET/manifest.jsonl and the recordings. Writes data/PRESET/features: shards, and index.json. Goes on
    where it was stopped, and computes only what changed.
    """
    from sclip import processes
    from sclip.device import choose_device
    from sclip.encoders.open import open_speech
    from sclip.features.extract import extract_features

    params, name = _chosen(params_file, overrides, preset, random)
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
@_file_of_params
def verify_features(preset: str | None, params_file: Path, overrides: tuple[str, ...]) -> None:
    """Check every byte of the cached hidden states.

    Reads data/PRESET/features and manifest.jsonl. Exit status 1 if anything is missing, damaged or left over.
    """
    from sclip.corpora.manifest import read_manifest
    from sclip.features.verify import verify

    _, name = _chosen(params_file, overrides, preset)
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
@_file_of_params
def embed_clip(
    preset: str | None, device: str, on_error: str | None, random: bool, params_file: Path, overrides: tuple[str, ...]
) -> None:
    """Cache CLIP's vectors of every picture and caption.

    Reads data/PRESET/manifest.jsonl and the pictures. Writes data/PRESET/vectors.
    """
    from sclip import processes
    from sclip.device import choose_device
    from sclip.encoders.open import open_clip
    from sclip.features.embed import embed_clip

    params, name = _chosen(params_file, overrides, preset, random)
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
@_file_of_params
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
    from sclip import processes
    from sclip.device import choose_device
    from sclip.training.run import run_training

    params, name = _chosen(params_file, overrides, preset, random)
    number, where = params.run.seeds[0] if seed is None else seed, choose_device(device)
    with processes.joined(where):
        run_training(params, name, arch, number, where, places.curves_folder(name, arch, number))


@main.command("evaluate")
@click.option("--arch", help="A key of `arch` in params.yaml, such as cascaded-cif. Needed unless MODEL is given.")
@click.option(
    "--model",
    "folder",
    type=click.Path(path_type=Path),
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
@_file_of_params
def evaluate(
    arch: str | None,
    folder: Path | None,
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
    from sclip.device import choose_device
    from sclip.evaluation.run import run_imported, run_trained

    if (arch is None) == (folder is None):
        raise UserError("expected one of --arch and --model")
    params, name = _chosen(params_file, overrides, preset)
    where = choose_device(device)
    if folder is not None:
        told = run_imported(params, name, folder, where, exact)
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
@_file_of_params
def report(preset: str | None, params_file: Path, overrides: tuple[str, ...]) -> None:
    """Put all of a preset's results side by side.

    Reads results/PRESET/runs: metrics, examples, curves. Writes results/PRESET: table.md, report.html (one page
    that needs no other file) and what `dvc plots` draws.
    """
    from sclip.report import write_report

    params, name = _chosen(params_file, overrides, preset)
    for path in write_report(params, name):
        click.echo(path)


_BENCHMARKS = ("extraction", "training", "cif", "vocabulary", "evaluation")


@main.command("bench")
@_device
@click.option("--only", type=click.Choice(_BENCHMARKS), multiple=True, help="May be repeated.  [default: all]")
@_file_of_params
def bench(device: str, only: tuple[str, ...], params_file: Path, overrides: tuple[str, ...]) -> None:
    """Time what is claimed to be fast beside other ways to do the same, on this device.

    On a CPU with the small encoders and `scenes`' sizes, on a GPU with the papers' and weights drawn at random. Writes
    results/bench.json and results/bench.svg.
    """
    from sclip.bench.run import run_bench
    from sclip.device import choose_device

    params, where = load_params(params_file, overrides), choose_device(device)
    for line in run_bench(params, where, only or _BENCHMARKS, Path("results")):
        click.echo(line)


@main.command("pretrain")
@click.argument("which", type=click.Choice(["speech", "clip"]))
@click.option("--out", type=click.Path(path_type=Path), help="[default: models/mini-hubert or models/mini-clip]")
@_device
@_file_of_params
def pretrain(which: str, out: Path | None, device: str, params_file: Path, overrides: tuple[str, ...]) -> None:
    """Make one of the two small encoders that ship with the project.

    Reads `pretrain` in params.yaml; draws and speaks its own data, disjoint from every corpus's test pictures,
    phrases and voices. Writes models/mini-hubert (speech) or models/mini-clip (clip), card included. Goes on where
    it was stopped.
    """
    from sclip.device import choose_device
    from sclip.pretrain.run import pretrain

    for path in pretrain(load_params(params_file, overrides), which, out, choose_device(device)):
        click.echo(path)
