"""Commands outside the pipeline: import a checkpoint, measure speed, pre-train the small encoders."""

from pathlib import Path

import click

from sclip.cli.options import device_option, reads_params
from sclip.cli.output import json_option, print_json
from sclip.config import load_params
from sclip.parsing import read_json

BENCHMARKS = (
    "manifest", "extraction", "training", "long-training", "attention", "cif", "vocabulary", "evaluation", "index",
)  # fmt: skip


@click.command("import", short_help="Make a model folder from a published checkpoint.")
@click.argument("checkpoint")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--encoders",
    type=click.Path(path_type=Path),
    help="JSON with the encoders' configurations (`hubert`: transformers', `clip`: open_clip's), for encoders of other "
    "sizes than the published ones.",
)
@json_option
def import_(checkpoint: str, out: Path, encoders: Path | None, as_json: bool) -> None:
    """Make the model folder OUT from a published SpeechCLIP or SpeechCLIP+ CHECKPOINT.

    CHECKPOINT is a file, or one of a hub repo: hf://ORG/REPO/FILE, or hf://ORG/REPO@REVISION/FILE.
    The file is read as data: nothing in it is run, and the code that wrote it is not needed. OUT then holds everything,
    the encoders too, and sclip.load(OUT) opens it.
    """
    from sclip.interop.importer import import_checkpoint

    report = import_checkpoint(checkpoint, out, encoders)
    if as_json:
        print_json({"out": out, **vars(report)})
        return
    for title, lines in (("read", report.read), ("ignored", report.ignored), ("missing", report.missing)):
        for line in lines:
            click.echo(f"{title:8}{line}")
    click.echo(f"{'wrote':8}{out}")


@click.command("bench", short_help="Measure how fast the pipeline is on this device.")
@device_option
@click.option("--only", type=click.Choice(BENCHMARKS), multiple=True, help="May be repeated.  [default: all]")
@json_option
@reads_params
def bench(device: str, only: tuple[str, ...], params_file: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Measure on this device how fast the pipeline is, compared with other ways to do the same thing.

    On a CPU it uses the small encoders and the sizes of `scenes`; on a GPU the papers' sizes and random weights. Writes
    results/bench.json.
    """
    params = load_params(params_file, overrides)
    from sclip.bench.run import describe, run_bench
    from sclip.device import choose_device

    result = run_bench(params, choose_device(device), only or BENCHMARKS, Path("results"))
    if as_json:
        print_json(read_json(result.file))
        return
    for line in describe(result):
        click.echo(line)


@click.command("pretrain", short_help="Pre-train one of the two small encoders.")
@click.argument("which", type=click.Choice(["speech", "clip"]))
@click.option("--out", type=click.Path(path_type=Path), help="[default: models/mini-hubert or models/mini-clip]")
@device_option
@json_option
@reads_params
def pretrain(
    which: str, out: Path | None, device: str, params_file: Path, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Pre-train one of the two small encoders that ship with the project.

    Reads `pretrain` in params.yaml and generates its own data, disjoint from the test pictures, phrases and voices of
    every corpus. Writes models/mini-hubert (speech) or models/mini-clip (clip). An interrupted pre-training resumes.
    """
    params = load_params(params_file, overrides)
    from sclip.device import choose_device
    from sclip.pretrain.run import pretrain

    folder = pretrain(params, which, out, choose_device(device))
    if as_json:
        print_json({"folder": folder})
    else:
        click.echo(folder)
