"""Commands that cache what the frozen encoders compute."""

from pathlib import Path

import click

from sclip import paths
from sclip.cli.options import (
    device_option,
    on_error_option,
    preset_or_argument,
    preset_settings,
    problems_of,
    random_encoders_option,
    reads_params,
)
from sclip.cli.output import json_option, print_json
from sclip.errors import Problems, counted, size_text


@click.command("plan", short_help="Estimate the size and the time of a preset's caches.")
@preset_or_argument
@device_option
@random_encoders_option
@json_option
@reads_params
def plan(
    preset: str | None, device: str, random: bool, params_file: Path, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Print how large PRESET's caches will be, about how long computing them takes, and how fast they are read.

    Reads presets.PRESET and the headers of some recordings, and computes for about ten seconds. A temporary file in
    data/PRESET measures the disk. Nothing else is written, except that a hub data set is unpacked into
    data/PRESET/unpacked. Exit status 1 if the disk is too small.
    """
    params, name = preset_settings(params_file, overrides, preset, random)
    from sclip.corpora.make import find_rows
    from sclip.device import choose_device
    from sclip.encoders.open import open_clip_encoder, open_speech
    from sclip.features.plan import as_data, describe_plan, make_plan

    settings = params.preset(name)
    chosen_device = choose_device(device)
    manifest = paths.manifest(name)
    rows, _ = find_rows(settings.corpus, manifest, Problems(skip=True))  # before encoders are downloaded
    speech, clip = open_speech(settings.encoders.speech), open_clip_encoder(settings.encoders.clip)
    result = make_plan(settings, rows, manifest.parent, speech, clip, chosen_device)
    if as_json:
        print_json({"preset": name, "device": chosen_device, **as_data(result)})
    else:
        for line in describe_plan(result, name, manifest.parent, chosen_device):
            click.echo(line)
    if not result.fits:
        raise SystemExit(1)


@click.command("extract-features", short_help="Cache the hidden states of every recording.")
@preset_or_argument
@device_option
@on_error_option
@random_encoders_option
@json_option
@reads_params
def extract_features(
    preset: str | None,
    device: str,
    on_error: str | None,
    random: bool,
    params_file: Path,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Cache the speech encoder's hidden states of every recording.

    Reads data/PRESET/manifest.jsonl and the recordings. Writes data/PRESET/features: shards and index.json. An
    interrupted extraction resumes, and only what changed is computed.
    """
    params, name = preset_settings(params_file, overrides, preset, random)
    from sclip import distributed
    from sclip.device import choose_device
    from sclip.encoders.open import open_speech
    from sclip.features.extract import extract_features

    problems = problems_of(params, name, on_error)
    settings = params.preset(name)
    out = paths.features_folder(name)
    encoder = open_speech(settings.encoders.speech)
    chosen_device = choose_device(device)
    with distributed.process_group(chosen_device), distributed.locked_by_main(out):
        result = extract_features(encoder, settings.features, paths.manifest(name), out, chosen_device, problems)
        if not distributed.is_main():
            return
    problems.report()
    if as_json:
        print_json({"folder": out, **vars(result), "skipped": problems.skipped})
        return
    size = size_text(result.gigabytes * 1e9)
    click.echo(
        f"{out}: {counted(result.utterances, 'utterances')}, {result.hours:.2f} hours, {size}; "
        f"{counted(result.shards_computed, 'shards')} computed, {result.shards_reused} reused; {result.seconds:.0f} s"
    )


@click.command("embed-clip", short_help="Cache CLIP's vectors of pictures and captions.")
@preset_or_argument
@device_option
@on_error_option
@random_encoders_option
@json_option
@reads_params
def embed_clip(
    preset: str | None,
    device: str,
    on_error: str | None,
    random: bool,
    params_file: Path,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Cache CLIP's vectors of every picture and caption.

    Reads data/PRESET/manifest.jsonl and the pictures. Writes data/PRESET/vectors. After a change of the corpus, only
    the new pictures are embedded, and all captions.
    """
    params, name = preset_settings(params_file, overrides, preset, random)
    from sclip.device import choose_device
    from sclip.encoders.open import open_clip_encoder
    from sclip.features.embed import embed_clip
    from sclip.files import locked

    problems = problems_of(params, name, on_error)
    clip, out = open_clip_encoder(params.preset(name).encoders.clip), paths.vectors_folder(name)
    with locked(out):
        result = embed_clip(clip, paths.manifest(name), out, choose_device(device), problems)
    problems.report()
    if as_json:
        print_json({"folder": out, **vars(result), "skipped": problems.skipped})
        return
    old = result.images - result.images_computed
    known = f" ({old:,} of them reused)" if old and not result.reused else ""
    counts = f"{counted(result.images, 'pictures')}{known}, {counted(result.captions, 'captions')}"
    click.echo(f"{out}: {counts}; {'reused' if result.reused else 'computed'}; {result.seconds:.0f} s")
