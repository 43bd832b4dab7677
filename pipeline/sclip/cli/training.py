"""The command that trains a head."""

import os
from pathlib import Path

import click

from sclip import paths
from sclip.apps.outputs import check_writable
from sclip.cli.completion import complete_models
from sclip.cli.options import (
    arch_option,
    device_option,
    folder_or_repo,
    preset_or_argument,
    preset_settings,
    random_encoders_option,
    reads_params,
    seed_option,
)
from sclip.cli.output import json_option, print_json


@click.command("train", short_help="Train the head of an architecture.")
@arch_option
@preset_or_argument
@seed_option
@click.option(
    "--start-from",
    metavar="MODEL",
    callback=folder_or_repo,
    shell_complete=complete_models,
    help="Start from the weights of this model folder or hub repo, not from random ones.",
)
@device_option
@random_encoders_option
@json_option
@reads_params
def train(
    arch: str,
    preset: str | None,
    seed: int | None,
    start_from: Path | str | None,
    device: str,
    random: bool,
    params_file: Path,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Train the head of an architecture.

    Reads data/PRESET: the manifest, features and vectors. Writes the model folder models/PRESET/ARCH/seed-N and
    learning curves in results/PRESET/runs/ARCH/seed-N/curves. An interrupted training resumes, and ends with the
    same weights as an uninterrupted training.
    """
    params, name = preset_settings(params_file, overrides, preset, random, arch)
    from sclip import distributed
    from sclip.device import choose_device
    from sclip.training.run import run_training

    chosen_seed = params.run.seeds[0] if seed is None else seed
    chosen_device = choose_device(device)
    out = paths.model_folder(name, arch, chosen_seed)
    curves = paths.curves_folder(name, arch, chosen_seed)
    target = Path(os.path.realpath(out))  # if the model folder is a link
    for folder in (out.parent, target.parent, paths.scratch_folder(name, arch, chosen_seed), curves):
        check_writable(folder, folder)
    with distributed.process_group(chosen_device):
        result = run_training(params, name, arch, chosen_seed, chosen_device, curves, start_from)
        if not distributed.is_main():
            return
    if as_json:
        print_json({"folder": out, **vars(result)})
        return
    recalls = ", ".join(f"{branch} {recall:.2f}" for branch, recall in result.dev.items())
    click.echo(f"{out}: weights of step {result.step}; dev mean R@10: {recalls}; {result.seconds:.0f} s")
