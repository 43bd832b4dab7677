"""What is said of a scene: differently worded captions, none of which has to say everything."""

import numpy as np

from sclip.corpora.scenes.world import Group, Scene

NUMBERS = {1: "a", 2: "two", 3: "three"}
SEEN_FROM_THERE = {
    "beside": "beside",
    "above": "under",
    "under": "above",
    "behind": "in front of",
    "in front of": "behind",
}
OTHER_WORDS = {
    "beside": ("beside", "next to", "near"),
    "above": ("above", "over"),
    "under": ("under", "below"),
    "behind": ("behind",),
    "in front of": ("in front of", "before"),
}
OTHER_SIZES = {"small": ("small", "little", "tiny"), "big": ("big", "large", "huge")}


def captions(scene: Scene, count: int, random: np.random.Generator) -> list[str]:
    """As many as asked for, no two alike."""
    found: list[str] = []
    while len(found) < count:
        caption = _caption(scene, random)
        if caption not in found:
            found.append(caption)
    return found


def _caption(scene: Scene, random: np.random.Generator) -> str:
    a, b, relation = scene.first, scene.second, scene.relation
    if random.random() < 0.5:
        a, b, relation = b, a, SEEN_FROM_THERE[relation]
    first, second = _noun_phrase(a, random), _noun_phrase(b, random)
    said = f"{first} {_one_of(OTHER_WORDS[relation], random)} {second}"
    if random.random() < 0.15:
        said = f"{first} and {second}"
    if scene.third is not None and random.random() < 0.7:
        said = f"{said} {_one_of(('and', 'with'), random)} {_noun_phrase(scene.third, random)}"
    place = f"{'in' if scene.ground == 'water' else 'on'} the {scene.ground}"
    if random.random() < 0.15:
        return f"{place} {_verb(a)} {said}"
    if random.random() < 0.7:
        said = f"{said} {place}"
    opening = _one_of(("", "", "", f"there {_verb(a)} ", "i see ", "a picture of "), random)
    return f"{opening}{said}"


def telegram(scene: Scene, random: np.random.Generator) -> str:
    """The words without the grammar, in any order, as pictures are often labelled; for CLIP's pre-training."""
    groups = [group for group in (scene.first, scene.second, scene.third) if group is not None]
    words = [word for group in groups for word in _words(group, random)] + [scene.ground]
    share = random.uniform(0.3, 1)
    kept = [word for word in words if random.random() < share] or words
    return " ".join(kept[i] for i in random.permutation(len(kept)))


def _words(group: Group, random: np.random.Generator) -> list[str]:
    words = [] if group.count == 1 else [NUMBERS[group.count]]
    words += [] if group.size is None else [_one_of(OTHER_SIZES[group.size], random)]
    words += [] if group.colour is None else [group.colour]
    return [*words, group.thing.one if group.count == 1 else group.thing.many]


def _noun_phrase(group: Group, random: np.random.Generator) -> str:
    words = _words(group, random)
    if group.count > 1:
        return " ".join(words)
    return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])


def _verb(group: Group) -> str:
    return "is" if group.count == 1 else "are"


def _one_of(choices: tuple[str, ...], random: np.random.Generator) -> str:
    return choices[random.integers(len(choices))]
