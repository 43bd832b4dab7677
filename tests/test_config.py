"""A mistake in params.yaml stops with the key's whole name."""

import dataclasses
import json
import re
import shutil

import pytest
import yaml
from dvc.utils.hydra import apply_overrides
from shipped import PARAMS, ROOT

from sclip.config import Architecture, ManifestConfig, SpeechEncoderConfig, TableConfig, TrainingConfig, load_params
from sclip.config.params import BASES, RECIPES
from sclip.errors import UserError
from sclip.parsing import parse

HYBRID = """
head:
  utterance: true
  attention: {heads: 8}
  keywords: {cif: {kernel: 3}}
objective: {parallel: 1, cascaded: 1, quantity: 0.25}
"""


def changed(path: str, value) -> dict:
    data = yaml.safe_load(HYBRID)
    *parents, last = path.split(".")
    table = data
    for key in parents:
        table = table[key]
    table[last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("head.atention", {}, "arch: head.atention: no such key; did you mean 'attention'?"),
        ("head.keywords.cif.kernal", 3, "arch: head.keywords.cif.kernal: no such key; did you mean 'kernel'?"),
        ("head.attention.heads", "8", "arch: head.attention.heads: expected a whole number, found '8'"),
        ("head.attention.heads", 8.0, "arch: head.attention.heads: expected a whole number, found 8.0"),
        ("head.attention.heads", True, "arch: head.attention.heads: expected a whole number, found True"),
        ("head.attention", {}, "arch: head.attention.heads: missing; expected a whole number"),
        ("head.utterance", 1, "arch: head.utterance: expected true or false, found 1"),
        ("head.keywords.hidden", 1024, "arch: head.keywords.hidden: expected a list, found 1024"),
        ("head.keywords.hidden", [1024, "x"], "arch: head.keywords.hidden[1]: expected a whole number, found 'x'"),
        ("head.keywords.cif.kernel", 4, "arch: head.keywords.cif.kernel: expected an odd width, found 4"),
        ("head.keywords.cif.layers", 10**6, "arch: head.keywords.cif.layers: expected 1 to 20, found 1000000"),
        ("head.keywords.hidden", [10**9], "arch: head.keywords.hidden[0]: expected 1 to 16384, found 1000000000"),
        ("head.attention.feed_forward", 1e300, "arch: head.attention.feed_forward: expected 0 to 64, found 1e+300"),
        ("head.keywords.slots", 8, "arch: head.keywords: expected one of slots and cif"),
        ("objective.parallel", "1", "arch: objective.parallel: expected a number, found '1'"),
        (
            "head.keywords",
            None,
            "arch: objective.cascaded: the head has no such output; add head.keywords",
        ),
        ("head", [], "arch: head: expected a table, found []"),
    ],
)
def test_invalid_values_are_reported_with_the_whole_key(path, value, message):
    with pytest.raises(UserError) as error:
        parse(Architecture, changed(path, value), "arch")
    assert str(error.value) == message


def test_round_trip():
    architecture = parse(Architecture, yaml.safe_load(HYBRID), "arch")
    assert architecture.objective.parallel == 1.0
    assert architecture.head.keywords.cif.kernel == 3
    again = json.loads(json.dumps(dataclasses.asdict(architecture)))
    assert parse(Architecture, again, "again") == architecture


def test_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("arch: [")
    with pytest.raises(UserError, match="not YAML"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("recipes: {mine: {parallel: {head: {}}}}")
    with pytest.raises(UserError, match=r"params\.yaml: recipes\.mine\.parallel\.head\.attention: missing"):
        load_params(tmp_path / "params.yaml")
    with pytest.raises(UserError, match=r"override presets\.mine\.training\.steps: presets: no 'mine'"):
        load_params(tmp_path / "params.yaml", ["presets.mine.training.steps=3"])
    (tmp_path / "params.yaml").write_bytes("# Bäume".encode("latin-1"))
    with pytest.raises(UserError, match=r"params\.yaml: not UTF-8"):
        load_params(tmp_path / "params.yaml")
    for presets in ("", " [1]"):
        (tmp_path / "params.yaml").write_text(f"presets:{presets}\nrun: {{}}\n")
        with pytest.raises(UserError, match=r"override presets\.mine\.training\.steps: presets: expected a table"):
            load_params(tmp_path / "params.yaml", ["presets.mine.training.steps=3"])
    for override, message in (
        (
            "presets.scene.training.steps=3",
            r"override presets\.scene\.training\.steps: presets: no 'scene'; did you mean 's",
        ),
        ("presets.scenes.corpus.kind=5", r"presets\.scenes\.corpus\.kind: expected text, found 5"),
        ("presets={2024: {base: none}}", "presets: expected a name in quotation marks, found 2024"),
        ("run.seeds=[]", r"run\.seeds: expected at least one"),
        ("run.seeds=[1, 0, 0]", r"run\.seeds: 0 is listed more than once"),
        ("run.presets=[scenes, scenes]", r"run\.presets: 'scenes' is listed more than once"),
        ("run.architectures=[hybrid, hybrid]", r"run\.architectures: 'hybrid' is listed more than once"),
        ("presets.scenes.features.components=-5", r"features\.components: expected at least 1, found -5"),
    ):
        with pytest.raises(UserError, match=message):
            load_params(PARAMS, [override])


def test_a_preset_inherits_what_it_does_not_set_from_its_base():
    params = load_params(PARAMS, ["presets.scenes.training.steps=777", "presets.scenes.arch.hybrid.training.batch=77"])
    scenes, mfcc = params.preset("scenes"), params.preset("scenes-mfcc")
    assert mfcc.training.steps == 777
    assert params.experiment("scenes-mfcc", "hybrid").training.batch == 77
    assert mfcc.corpus == scenes.corpus
    assert mfcc.encoders.speech == SpeechEncoderConfig("mfcc")  # another name replaces the whole table
    assert mfcc.encoders.clip == scenes.encoders.clip
    assert (mfcc.features.components, mfcc.features.compute) == (None, scenes.features.compute)
    published = params.experiment("scenes-published", "hybrid")
    assert published.training.steps == 777
    assert published.training.batch == params.preset("scenes").training.batch  # exceptions belong to their recipe
    large = load_params(PARAMS).experiment("flickr8k-large-sclip", "cascaded-cif")
    assert large.training.batch == 256
    assert not large.head.keywords.norm_counts_padding


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["presets.scenes-mfcc.base=scenez"],
            r"presets\.scenes-mfcc\.base: expected one of scenes, .*, found 'scenez'",
        ),
        (["presets.scenes-mfcc.base=scenes-random-clip"], r"base: expected one of scenes, .*, found 'scenes-random"),
        (["presets.scenes.base=scenes-study"], r"base: expected none, because other presets inherit from scenes"),
        (["presets.scenes.recipe=sklip"], r"presets\.scenes\.recipe: no 'sklip'; did you mean 'sclip'\?"),
        (["presets.scenes.arch.hybird={}"], r"presets\.scenes\.arch: recipes\.sclip: no 'hybird'; did you mean"),
        (["run.architectures=[hybird]"], r"recipes\.published, for run\.architectures: no 'hybird'; did you"),
        (
            ["run.presets=[short]", "presets={short: {base: scenes, recipe: sclip, corpus: {}}}"],
            r"presets\.short: no key 'encoders'; dvc\.yaml follows this key .* add `encoders: \{\}`",
        ),
    ],
)
def test_a_wrong_base_or_recipe_is_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        load_params(PARAMS, overrides)


def test_dvc_follows_the_presets_that_others_inherit_from():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for stage in ("make-corpus", "extract-features", "embed-clip", "train", "evaluate"):
        followed = stages[stage]["params"]
        assert "presets.${item.preset}.base" in followed
        for key in (key for key in followed if key.startswith("presets.${item.preset}.")):
            section = key.removeprefix("presets.${item.preset}.")
            if section not in ("base", "recipe"):
                assert {f"presets.{base}.{section}" for base in BASES} <= set(followed)


def test_dvc_runs_only_what_dvc_yaml_follows(tmp_path):
    params = yaml.safe_load(PARAMS.read_text())
    params["recipes"]["mine"] = params["recipes"]["sclip"]
    params["presets"]["scenes"]["recipe"] = "mine"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(UserError, match=r"presets\.scenes\.recipe: dvc\.yaml follows the recipes published and sclip"):
        load_params(tmp_path / "params.yaml")
    assert load_params(tmp_path / "params.yaml", ["run.presets=[scenes-mfcc]"]).preset("scenes").recipe == "mine"
    assert load_params(PARAMS, ["+presets.scenes-mfcc.training.steps=77"]).preset("scenes-mfcc").training.steps == 77


def test_all_keys_that_dvc_needs_for_an_architecture_are_named_at_once():
    """Of a new architecture that has its tables in both recipes."""
    recipes = [f"recipes.{name}.mine={json.dumps(yaml.safe_load(HYBRID))}" for name in RECIPES]
    message = (
        r"presets\.scenes\.arch, presets\.scenes-study\.arch, .*, presets\.spokencoco-large\.arch: no 'mine', "
        r"which run\.architectures lists and dvc\.yaml follows; add `mine: \{\}` to each"
    )
    with pytest.raises(UserError, match=message):
        load_params(PARAMS, [*recipes, "run.architectures=[mine]"])
    added = [f"presets.{name}.arch={{mine: {{}}}}" for name in BASES[1:]]
    with pytest.raises(UserError, match=r"yaml: presets\.scenes\.arch: no 'mine', .*; add `mine: \{\}`$"):
        load_params(PARAMS, [*recipes, *added, "run.architectures=[mine]"])


def test_a_mistake_in_a_base_is_not_that_of_a_preset_above_it(tmp_path):
    own = "  own:\n    base: scenes\n    recipe: sclip\n    corpus: {nouns: 50}\n"
    (tmp_path / "params.yaml").write_text(PARAMS.read_text().replace("\npresets:\n", f"\npresets:\n{own}", 1))
    assert list(load_params(tmp_path / "params.yaml").presets)[:2] == ["own", "scenes"]
    for key, message in (("corpus.seed", "expected 0 to"), ("training.batch", "expected at least 2")):
        with pytest.raises(UserError, match=rf"presets\.scenes\.{key.replace('.', chr(92) + '.')}: {message}"):
            load_params(tmp_path / "params.yaml", [f"presets.scenes.{key}=-1"])


@pytest.mark.parametrize(
    "key",
    [
        "run.seeds[0]",
        "presets.scenes.corpus.seed",
        "presets.scenes.encoders.speech.random_seed",
        "presets.scenes.encoders.clip.random_seed",
        "pretrain.speech.seed",
        "pretrain.clip.seed",
    ],
)
def test_seeds_outside_the_range_are_refused(key):
    override = (lambda seed: f"run.seeds=[{seed}]") if key.endswith("[0]") else (lambda seed: f"{key}={seed}")
    load_params(PARAMS, [override(0), override(2**32 - 1)])
    for seed in (-1, 2**32):
        with pytest.raises(UserError, match=f"{re.escape(key)}: expected 0 to 4294967295, found {seed}"):
            load_params(PARAMS, [override(seed)])
    with pytest.raises(UserError, match=f"{re.escape(key)}: expected a whole number up to .*, found 1000"):
        load_params(PARAMS, [override(10**400)])


def test_a_file_that_repeats_itself_without_end_is_refused(tmp_path):
    lines = ["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))]
    (tmp_path / "params.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"params\.yaml: more than 100,000 values"):
        load_params(tmp_path / "params.yaml")
    with pytest.raises(UserError, match=r"override run\.seeds: nested too deeply"):
        load_params(PARAMS, [f"run.seeds={'[' * 2000}"])


def test_overrides_reach_any_depth_and_leave_the_rest():
    plain = load_params(PARAMS)
    changed = load_params(PARAMS, ["presets.scenes.arch.parallel.training.steps=77", "run.seeds=[3, 4]"])
    assert changed.run.seeds == (3, 4)
    before, after = plain.experiment("scenes", "parallel"), changed.experiment("scenes", "parallel")
    assert after == dataclasses.replace(before, training=dataclasses.replace(before.training, steps=77))
    assert changed.presets.keys() == plain.presets.keys()


def test_a_table_as_an_override_is_merged_as_dvc_does_and_a_list_replaces(tmp_path):
    overrides = ["presets.scenes.training={steps: 77}", "run.seeds=[3]", "presets.scenes.features={components: null}"]
    shutil.copy(PARAMS, tmp_path)
    apply_overrides(tmp_path / "params.yaml", overrides)  # of DVC
    by_dvc, ours = load_params(tmp_path / "params.yaml"), load_params(PARAMS, overrides)
    assert (ours.run, ours.presets) == (by_dvc.run, by_dvc.presets)
    before = load_params(PARAMS).preset("scenes")
    assert ours.preset("scenes").training == dataclasses.replace(before.training, steps=77)
    assert before.arch["hybrid-cif"]
    with pytest.raises(
        UserError, match=r"override presets\.scenes\.arch\.hybrid-cif=\{\}: an empty table changes nothing"
    ):
        load_params(PARAMS, ["presets.scenes.arch.hybrid-cif={}"])
    load_params(PARAMS, ["presets.scenes-study.arch.parallel={}"])  # where none or an empty one is


def test_only_languages_with_stop_words_are_accepted():
    """Published corpora are English; of others it may be said, if evaluation knows its stop words."""
    params = load_params(PARAMS)
    assert {params.preset(name).corpus.language for name in params.presets} == {"en"}
    fields = {"kind": "manifest", "path": "mine.jsonl"}
    assert parse(ManifestConfig, fields, "corpus").language is None
    assert parse(ManifestConfig, fields | {"language": "en"}, "corpus").language == "en"
    table = {"kind": "table", "path": "mine.tsv", "columns": {"audio": "a", "image": "b"}}
    for kind, data in ((ManifestConfig, fields), (TableConfig, table)):
        with pytest.raises(UserError) as error:
            parse(kind, data | {"language": "de"}, "corpus")
        message = "corpus: language: expected one of en, found 'de'; leave it out to use no stop words"
        assert str(error.value) == message
    with pytest.raises(UserError, match=r"presets\.scenes\.corpus\.language: no such key"):
        load_params(PARAMS, ["presets.scenes.corpus.language=en"])


def test_a_preset_is_not_called_as_the_folder_of_checkpoints(tmp_path):
    """Models are in models/PRESET/ARCH, and checkpoints in models/unfinished/PRESET/ARCH."""
    data = yaml.safe_load(PARAMS.read_text())
    preset = next(name for name in data["presets"] if name not in BASES)
    for name in ("unfinished-2", "unfinished"):
        renamed = data | {"presets": data["presets"] | {name: data["presets"][preset]}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(renamed))
    load_params(tmp_path / "unfinished-2.yaml")
    with pytest.raises(UserError, match=r"presets: unfinished: models/unfinished has checkpoints; choose another name"):
        load_params(tmp_path / "unfinished.yaml")


def test_a_description_of_a_training_counts_the_utterances_of_its_steps():
    training = TrainingConfig(steps=2000, warmup_steps=200, learning_rate=1e-3, batch=256)
    assert training.describe(100_000).startswith("2,000 steps of 256 utterances, fp16, learning rate 0.001, ")
    assert training.describe(40).startswith("2,000 steps of 40 utterances, ")
