"""Commands that connect a model with others: the hub, and other people's benchmarks."""

from pathlib import Path

import click

from sclip.cli.completion import complete_models
from sclip.cli.options import branch_option, device_option, model_option
from sclip.cli.output import json_option, print_json


@click.command("push", short_help="Upload a model folder to the hub, with a card.")
@click.argument("model", shell_complete=complete_models)
@click.argument("repo")
@click.option("--private", is_flag=True, help="Make a private repo, if it does not exist yet.")
@click.option("--revision", help="The branch to push to. It is made if it does not exist.  [default: main]")
@click.option("--license", "licence", help="The licence of the trained weights, as the hub names it, such as mit.")
@click.option(
    "--metrics",
    type=click.Path(path_type=Path),
    help="The model's metrics.json, for the card's results.  [default: that of a model which was trained here]",
)
@json_option
def push(
    model: str,
    repo: str,
    private: bool,
    revision: str | None,
    licence: str | None,
    metrics: Path | None,
    as_json: bool,
) -> None:
    """Upload MODEL, a model folder, to the hub repo REPO (ORG/NAME), with a card.

    The card has the results, the encoders, the corpus, the licence of each part and a snippet to use the model.
    Encoders that nobody else can download, such as those in a folder, are uploaded too. Needs a token with write
    access: use `hf auth login` or set HF_TOKEN.
    """
    from sclip.apps.hub import push

    result = push(model, repo, private=private, revision=revision, licence=licence, metrics=metrics)
    if as_json:
        print_json(result)
        return
    click.echo(f"{result.url}: commit {result.commit}")
    for part, size in result.encoder_bytes.items():
        click.echo(f"  {part}/: the encoder is inside, {size / 1e6:,.1f} MB")
    click.echo(f"  results on the card: {result.metrics or 'none; give --metrics, or evaluate the model here first'}")


@click.group("benchmark", short_help="Run other people's benchmarks on a model.")
def benchmark() -> None:
    """Run other people's benchmarks on a model, with their own code."""


@benchmark.command("mteb", short_help="Evaluate a model with MTEB.")
@model_option(default=None, required=True)
@click.argument("tasks", nargs=-1, required=True)
@branch_option()
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("results/mteb"),
    show_default=True,
    help="Where MTEB keeps its result files; what is there is not computed again.",
)
@device_option
@json_option
def benchmark_mteb(
    model: str,
    tasks: tuple[str, ...],
    branch: str | None,
    batch_size: int,
    out: Path,
    device: str,
    as_json: bool,
) -> None:
    """Evaluate a model with MTEB on some of its tasks. MTEB downloads their data.

    TASKS are MTEB's names, such as SpokenCOCOA2IRetrieval. MTEB's hit_rate_at_K is R@K of `sclip evaluate`. Needs
    pip install 'mteb[audio,image]'.
    """
    from sclip.device import choose_device
    from sclip.interop.mteb import SHOWN_SCORES, run_mteb

    result = run_mteb(model, tasks, out, choose_device(device), branch, batch_size)
    if as_json:
        print_json(result)
        return
    for row in result.tasks:
        shown = [(key, row.scores[key]) for key in SHOWN_SCORES if key in row.scores]
        numbers = ", ".join(f"{key} {100 * value:.2f}" for key, value in [(row.metric, row.main_score), *shown])
        click.echo(f"{row.task}, {row.split}: {numbers}")
    click.echo(result.folder)
