import dataclasses
import hashlib
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from sclip.config import ScenesConfig, Splits
from sclip.corpora.manifest import read_manifest
from sclip.corpora.rows import SPLITS
from sclip.corpora.scenes.captions import captions, telegram
from sclip.corpora.scenes.corpus import make_scenes
from sclip.corpora.scenes.pictures import SIDE, draw
from sclip.corpora.scenes.speakers import voices
from sclip.corpora.scenes.world import THINGS, Group, Scene, World, split_of
from sclip.errors import Problems, UserError

SMALL = ScenesConfig(
    kind="scenes",
    seed=3,
    pictures=Splits(train=6, dev=2, test=4),
    captions=Splits(train=2, dev=1, test=1),
    voices=Splits(train=3, dev=1, test=2),
    nouns=30,
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    manifest = folder / "small" / "manifest.jsonl"
    make_scenes(SMALL, manifest)
    return manifest


def hashes(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.md5(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*.*"))}


def test_equal_configurations_give_equal_bytes(manifest, tmp_path):
    make_scenes(SMALL, tmp_path / "small" / "manifest.jsonl")
    assert hashes(tmp_path) == hashes(manifest.parent.parent)
    make_scenes(dataclasses.replace(SMALL, seed=4), tmp_path / "other" / "manifest.jsonl")
    assert len(list(tmp_path.glob("scenes-*"))) == 2


def test_presets_of_one_configuration_share_files(manifest, tmp_path):
    folder = shutil.copytree(manifest.parent.parent, tmp_path / "data")
    before = hashes(folder)
    picture = next(folder.rglob("*.png"))
    written = picture.stat().st_mtime_ns
    make_scenes(SMALL, folder / "again" / "manifest.jsonl")
    assert picture.stat().st_mtime_ns == written
    new = set(hashes(folder)) - set(before)
    assert new == {"again/manifest.jsonl", "again/manifest.digest.json"}


def test_a_damaged_list_of_the_files_is_not_used(tmp_path):
    """What is left of it would give a manifest with fewer or other rows, and with a digest that matches."""
    config = dataclasses.replace(SMALL, pictures=Splits(train=1, dev=1, test=1))
    make_scenes(config, tmp_path / "small/manifest.jsonl")
    before = hashes(tmp_path)
    (rows,) = tmp_path.glob("scenes-*/rows.jsonl")
    content, digest = rows.read_bytes(), rows.with_name("rows.digest.json")
    first_row = content[: content.index(b"\n") + 1]
    for damaged in (first_row, b"", content.replace(b"train", b"tra)n", 1), content[:-9], b"\xff" + content[1:]):
        rows.write_bytes(damaged)
        make_scenes(config, tmp_path / "small/manifest.jsonl")
        assert hashes(tmp_path) == before
    digest.unlink()  # the process was killed before it wrote this file
    rows.write_bytes(first_row)
    make_scenes(config, tmp_path / "small/manifest.jsonl")
    assert hashes(tmp_path) == before


def test_rows_match_their_files(manifest):
    rows = read_manifest(manifest, Problems())
    assert [sum(row.split == split for row in rows) for split in SPLITS] == [12, 2, 4]
    for row in rows:
        with Image.open(row.image) as picture:
            assert picture.size == (SIDE, SIDE)
        samples, rate = soundfile.read(row.audio)
        assert rate == 16_000
        assert [word for word, _, _ in row.words] == row.text.split()
        assert row.words[-1][2] < len(samples) / rate
        loud = [np.abs(samples[int(s * rate) : int(e * rate)]).max() for _, s, e in row.words]
        assert min(loud) > 0.01
    speakers = {split: {row.speaker for row in rows if row.split == split} for split in SPLITS}
    assert not any(speakers[a] & speakers[b] for a, b in combinations(SPLITS, 2))


def test_splits_share_no_pair_and_no_voice():
    world = World(len(THINGS))
    for split in SPLITS:
        for i in range(300):
            scene = world.scene(split, np.random.default_rng([0, i]))
            assert split_of(scene.first.thing, scene.second.thing) == split
            if scene.third is not None:
                others = {split_of(scene.third.thing, g.thing) for g in (scene.first, scene.second)}
                assert others == {"train"}
    assert sum(map(len, world.pairs.values())) == len(THINGS) * (len(THINGS) - 1) // 2
    assert not any(set(voices(a)) & set(voices(b)) for a, b in combinations(SPLITS, 2))


def test_captions_describe_the_scene():
    dog, tree = THINGS[0], THINGS[2]
    scene = Scene(Group(dog, 2, "small"), "above", Group(tree, 1, None, "red"), "grass")
    texts = captions(scene, 5, np.random.default_rng(0))
    assert len(set(texts)) == 5
    for caption in texts:
        words = caption.split()
        assert "dogs" in words
        assert "tree" in words
        assert "red" in words
        over = {"above", "over"} & set(words)
        under = {"under", "below"} & set(words)
        dog_first = words.index("dogs") < words.index("tree")
        assert not (over and not dog_first)
        assert not (under and dog_first)
    assert set(telegram(scene, np.random.default_rng(1)).split()) <= {
        *("two", "small", "little", "tiny", "dogs", "red", "tree", "grass")
    }


def test_pictures_show_the_relation():
    dog, tree = THINGS[0], THINGS[2]
    for relation, sign in (("above", -1), ("under", 1)):
        scene = Scene(Group(dog, 1, None, "red"), relation, Group(tree, 1, None, "blue"), "snow")
        pixels = np.asarray(draw(scene, np.random.default_rng(5))).astype(int)
        red = (pixels[..., 0] - pixels[..., 2] > 80).nonzero()[0].mean()
        blue = (pixels[..., 2] - pixels[..., 0] > 80).nonzero()[0].mean()
        assert np.sign(red - blue) == sign


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nouns": 1000}, r"scenes: nouns: expected 3 to \d+, found 1000"),
        ({"voices": Splits(1, 1, 1000)}, r"scenes: voices.test: expected 1 to \d+, found 1000"),
        ({"nouns": 3}, "scenes: nouns: 3 things make no pair"),
    ],
)
def test_an_impossible_configuration_is_a_user_error(change, message, tmp_path):
    with pytest.raises(UserError, match=message):
        make_scenes(dataclasses.replace(SMALL, **change), tmp_path / "x" / "manifest.jsonl")
