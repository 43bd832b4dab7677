"""Captions of a scene, in different words. A caption may leave out parts of the scene."""

import numpy as np

from sclip.corpora.scenes.world import Group, Scene

NUMBERS = {1: "a", 2: "two", 3: "three"}
INVERSE_RELATIONS = {
    "beside": "beside",
    "above": "under",
    "under": "above",
    "behind": "in front of",
    "in front of": "behind",
}
RELATION_WORDS = {
    "beside": ("beside", "next to", "near"),
    "above": ("above", "over"),
    "under": ("under", "below"),
    "behind": ("behind",),
    "in front of": ("in front of", "before"),
}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "big": ("big", "large", "huge")}


def captions(scene: Scene, count: int, random: np.random.Generator) -> list[str]:
    """Draw `count` different captions."""
    chosen: list[str] = []
    while len(chosen) < count:
        caption = _caption(scene, random)
        if caption not in chosen:
            chosen.append(caption)
    return chosen


def _caption(scene: Scene, random: np.random.Generator) -> str:
    a, b, relation = scene.first, scene.second, scene.relation
    if random.random() < 0.5:
        a, b, relation = b, a, INVERSE_RELATIONS[relation]
    first, second = _noun_phrase(a, random), _noun_phrase(b, random)
    text = f"{first} {_one_of(RELATION_WORDS[relation], random)} {second}"
    if random.random() < 0.15:
        text = f"{first} and {second}"
    if scene.third is not None and random.random() < 0.7:
        text = f"{text} {_one_of(('and', 'with'), random)} {_noun_phrase(scene.third, random)}"
    place = f"{'in' if scene.ground == 'water' else 'on'} the {scene.ground}"
    if random.random() < 0.15:
        return f"{place} {_verb(a)} {text}"
    if random.random() < 0.7:
        text = f"{text} {place}"
    opening = _one_of(("", "", "", f"there {_verb(a)} ", "i see ", "a picture of "), random)
    return f"{opening}{text}"


def telegram(scene: Scene, random: np.random.Generator) -> str:
    """Draw some words of a scene in random order, like the labels of many pictures, to pre-train CLIP with."""
    groups = [group for group in (scene.first, scene.second, scene.third) if group is not None]
    words = [word for group in groups for word in _words(group, random)] + [scene.ground]
    share = random.uniform(0.3, 1)
    chosen = [word for word in words if random.random() < share] or words
    return " ".join(chosen[i] for i in random.permutation(len(chosen)))


def _words(group: Group, random: np.random.Generator) -> list[str]:
    words = [] if group.count == 1 else [NUMBERS[group.count]]
    words += [] if group.size is None else [_one_of(SIZE_WORDS[group.size], random)]
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
