"""The content of scenes: two or three groups of things, their relation and the ground.

A hash decides which pairs of things belong to the training, development and test splits. It does not depend on the seed
of a corpus, so a pair is in the same split of every corpus. The same holds for voices. A model that was trained or
pre-trained on any of these corpora has therefore met no test pair in pictures or captions, and no voice of a test
speaker.
"""

import hashlib
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from sclip.corpora.rows import SPLITS

# Singular, plural and drawing. The most common things come first, because a corpus uses the first ones of the list.
_THINGS = """
dog        dogs         1f415
cat        cats         1f408
tree       trees        1f333
car        cars         1f697
house      houses       1f3e0
apple      apples       1f34e
horse      horses       1f40e
banana     bananas      1f34c
elephant   elephants    1f418
umbrella   umbrellas    2602
guitar     guitars      1f3b8
flower     flowers      1f33c
rabbit     rabbits      1f407
bicycle    bicycles     1f6b2
rocket     rockets      1f680
fish       fish         1f41f
bus        buses        1f68c
crown      crowns       1f451
snake      snakes       1f40d
lemon      lemons       1f34b
pig        pigs         1f416
hammer     hammers      1f528
boat       boats        26f5
mushroom   mushrooms    1f344
butterfly  butterflies  1f98b
clock      clocks       1f570
star       stars        2b50
penguin    penguins     1f427
carrot     carrots      1f955
chair      chairs       1fa91
turtle     turtles      1f422
shoe       shoes        1f45f
pizza      pizzas       1f355
whale      whales       1f433
train      trains       1f686
candle     candles      1f56f
lion       lions        1f981
balloon    balloons     1f388
camera     cameras      1f4f7
duck       ducks        1f986
strawberry strawberries 1f353
book       books        1f4d5
spider     spiders      1f577
truck      trucks       1f69a
violin     violins      1f3bb
bear       bears        1f43b
key        keys         1f511
cactus     cactuses     1f335
monkey     monkeys      1f412
hat        hats         1f3a9
tomato     tomatoes     1f345
drum       drums        1f941
robot      robots       1f916
bird       birds        1f426
bell       bells        1f514
pumpkin    pumpkins     1f383
sheep      sheep        1f411
phone      phones       1f4f1
crab       crabs        1f980
cake       cakes        1f382
tiger      tigers       1f405
lamp       lamps        1f4a1
plane      planes       2708
frog       frogs        1f438
shirt      shirts       1f455
cheese     cheeses      1f9c0
tent       tents        26fa
owl        owls         1f989
scissors   scissors     2702
bed        beds         1f6cf
cherry     cherries     1f352
cow        cows         1f404
trumpet    trumpets     1f3ba
door       doors        1f6aa
octopus    octopuses    1f419
glasses    glasses      1f453
castle     castles      1f3f0
heart      hearts       2764
mouse      mice         1f401
cookie     cookies      1f36a
ghost      ghosts       1f47b
pencil     pencils      270f
camel      camels       1f42a
bottle     bottles      1f37e
"""


@dataclass(frozen=True)
class Thing:
    one: str
    many: str
    drawing: str  # code point of its emoji


THINGS = tuple(Thing(*line.split()) for line in _THINGS.strip().splitlines())

COLOURS = {
    "red": (214, 40, 57),
    "orange": (244, 132, 26),
    "yellow": (250, 208, 60),
    "green": (62, 160, 70),
    "blue": (50, 110, 210),
    "purple": (140, 74, 190),
    "pink": (245, 130, 180),
    "brown": (130, 80, 45),
    "black": (45, 45, 50),
    "white": (240, 240, 240),
}
GROUNDS = {
    "grass": (126, 190, 90),
    "sand": (226, 200, 140),
    "snow": (228, 236, 244),
    "water": (96, 164, 214),
    "road": (128, 128, 134),
    "carpet": (176, 88, 96),
    "table": (176, 132, 88),
    "wall": (206, 186, 206),
}
SIZES = ("small", "big")
RELATIONS = ("beside", "above", "under", "behind", "in front of")
# Share of the pairs in each split.
SHARES = {"train": 0.8, "dev": 0.08, "test": 0.12}


@dataclass(frozen=True)
class Group:
    """One to three equal things."""

    thing: Thing
    count: int = 1
    size: str | None = None
    colour: str | None = None  # None means the colours of the drawing


@dataclass(frozen=True)
class Scene:
    first: Group
    relation: str  # of the first to the second
    second: Group
    ground: str
    third: Group | None = None  # somewhere else


def split_of(a: Thing, b: Thing) -> str:
    """Return the split that a pair of things belongs to."""
    return split_by_hash(" ".join(sorted((a.one, b.one))))


def split_by_hash(name: str) -> str:
    """Return the split of a name, which is the same in every corpus."""
    edges = np.cumsum([SHARES[split] for split in SPLITS])
    return SPLITS[int(np.searchsorted(edges, place_by_hash(name), side="right"))]


def place_by_hash(name: str) -> float:
    """Return a pseudo-random number in 0..1 for a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


class World:
    """The first `nouns` things, and scenes of them."""

    def __init__(self, nouns: int):
        assert 2 <= nouns <= len(THINGS)
        self.things = THINGS[:nouns]
        self.pairs: dict[str, list[tuple[Thing, Thing]]] = {split: [] for split in SPLITS}
        for a, b in combinations(self.things, 2):
            self.pairs[split_of(a, b)].append((a, b))

    def scene(self, split: str, random: np.random.Generator) -> Scene:
        """Draw a scene. Its first two things are a pair of this split; a third forms training pairs with both."""
        pairs = self.pairs[split]
        a, b = pairs[random.integers(len(pairs))]
        if random.random() < 0.5:
            a, b = b, a
        third = None
        if random.random() < 0.25:
            candidates = [c for c in self.things if c not in (a, b) and {split_of(a, c), split_of(b, c)} == {"train"}]
            third = _group(candidates[random.integers(len(candidates))], random) if candidates else None
        relation, ground = RELATIONS[random.integers(len(RELATIONS))], list(GROUNDS)[random.integers(len(GROUNDS))]
        return Scene(_group(a, random), relation, _group(b, random), ground, third)


def _group(thing: Thing, random: np.random.Generator) -> Group:
    count = int(random.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))
    size = SIZES[random.integers(2)] if random.random() < 0.3 else None
    colour = list(COLOURS)[random.integers(len(COLOURS))] if random.random() < 0.25 else None
    return Group(thing, count, size, colour)
