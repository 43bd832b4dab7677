"""Commands outside the pipeline: import a checkpoint, measure speed, pre-train the small encoders."""

from pathlib import Path

import click

from sclip.cli.options import device_option, reads_params
from sclip.config import load_params

BENCHMARKS = ("extraction", "training", "long-training", "cif", "vocabulary", "evaluation", "index")


@click.command("import")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--encoders",
    type=click.Path(path_type=Path),
    help="JSON with the encoders' configurations (`hubert`: transformers', `clip`: open_clip's), for encoders of other "
    "sizes than the published ones.",
)
def import_(checkpoint: Path, out: Path, encoders: Path | None) -> None:
    """Make the model folder OUT from a published SpeechCLIP or SpeechCLIP+ CHECKPOINT.

    The file is read as data: nothing in it is run, and the code that wrote it is not needed. OUT then holds everything,
    the encoders too, and sclip.load(OUT) opens it.
    """
    from sclip.interop.importer import import_checkpoint

    report = import_checkpoint(checkpoint, out, encoders)
    for title, lines in (("read", report.read), ("ignored", report.ignored), ("missing", report.missing)):
        for line in lines:
            click.echo(f"{title:8}{line}")
    click.echo(f"{'wrote':8}{out}")


@click.command("bench")
@device_option
@click.option("--only", type=click.Choice(BENCHMARKS), multiple=True, help="May be repeated.  [default: all]")
@reads_params
def bench(device: str, only: tuple[str, ...], params_file: Path, overrides: tuple[str, ...]) -> None:
    """Measure on this device how fast the pipeline is, compared with other ways to do the same.

    On a CPU it uses the small encoders and the sizes of `scenes`; on a GPU the papers' sizes and random weights. Writes
    results/bench.json.
    """
    params = load_params(params_file, overrides)
    from sclip.bench.run import describe, run_bench
    from sclip.device import choose_device

    result = run_bench(params, choose_device(device), only or BENCHMARKS, Path("results"))
    for line in describe(result):
        click.echo(line)


@click.command("pretrain")
@click.argument("which", type=click.Choice(["speech", "clip"]))
@click.option("--out", type=click.Path(path_type=Path), help="[default: models/mini-hubert or models/mini-clip]")
@device_option
@reads_params
def pretrain(which: str, out: Path | None, device: str, params_file: Path, overrides: tuple[str, ...]) -> None:
    """Pre-train one of the two small encoders that ship with the project.

    Reads `pretrain` in params.yaml and generates its own data, disjoint from the test pictures, phrases and voices of
    every corpus. Writes models/mini-hubert (speech) or models/mini-clip (clip). An interrupted pre-training resumes.
    """
    params = load_params(params_file, overrides)
    from sclip.device import choose_device
    from sclip.pretrain.run import pretrain

    click.echo(pretrain(params, which, out, choose_device(device)).folder)
