"""The rules of numbers, of things and of the walls they touch.

Parts by name: HOW, HAVE and SHARE are tests of a number; OBJ, KIND, PAINT … masks of objects; PAIR two paints.
The wordings are those of the training sentences, mistakes included.
In a lambda `w` is the scene and `how` a test of a number. The other letters are the meanings of the wording's parts, in
order: mostly masks.
"""

from collections.abc import Callable

import numpy as np

from examples.nlvr1.grammar import Grammar
from examples.nlvr1.scene import Scene

NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7}
PAINTS = {"black": 0, "blue": 1, "yellow": 2}
SHAPES = {"circle": 0, "square": 1, "triangle": 2}
SIZES = {"small": 10, "medium": 20, "big": 30}
Mask = np.ndarray
NumberTest = Callable[[np.ndarray], np.ndarray]  # counts -> bool of the same shape


def all_of(_: Scene, *parts: Mask) -> Mask:
    """All of the parts."""
    return np.logical_and.reduce(parts)


def numbers(g: Grammar) -> None:
    """Tests of a number. A bare number is exact: so it was understood."""
    for word, k in NUMBERS.items():
        g.add("NUM", word, lambda w, k=k: k)
    g.add("NUMBER", "NUM")
    g.add("NUMBER", "one", lambda w: 1)
    g.add("EXACT1", "exactly one/a|only one|just one|exactly on", lambda w: lambda c: c == 1)
    g.add("EXACT2", "exactly/only NUM", lambda w, k: lambda c: c == k)
    g.add("LEAST1", "(at) least one/a", lambda w: lambda c: c >= 1)
    g.add("LEAST2", "(at) least NUM|NUM or more", lambda w, k: lambda c: c >= k)
    g.add("LEAST2", "more than NUMBER", lambda w, k: lambda c: c > k)
    g.add("MOST2", "at most NUM|not more than NUM", lambda w, k: lambda c: c <= k)
    g.add("MOST2", "less than NUM", lambda w, k: lambda c: c < k)
    g.add("MOST1", "at most one|not more than one", lambda w: lambda c: c <= 1)
    g.add("BARE1", "a|an|as|the", lambda w: lambda c: c >= 1)
    g.add("BARE1", "single|a single", lambda w: lambda c: c == 1)
    g.add("BARE2", "NUM", lambda w, k: lambda c: c == k)
    g.add("ONE1", "one|a one|on", lambda w: lambda c: c == 1)
    g.add("ONE2", "one", lambda w: lambda c: c == 1)
    g.add("NO#", "no", lambda w: lambda c: c == 0)
    g.add("HOW#", "EXACT#|LEAST#|MOST#|BARE#|NO#")
    g.add("HAVE#", "HOW#|ONE#")
    g.add("SHARE", "a|the only", lambda w: lambda c: c >= 1)
    g.add("SHARE", "ONE1|EXACT1|LEAST1|BARE2|EXACT2|LEAST2|the SHARE")


def things(g: Grammar) -> None:
    """Masks of objects by what they are."""
    for word, k in PAINTS.items():
        g.add("PAINT", word, lambda w, k=k: w.paint == k)
        for other, j in PAINTS.items():
            if j != k:
                g.add("PAIR", f"{word} and {other}", lambda w, k=k, j=j: (k, j))
    for word, k in SHAPES.items():
        g.add("SHAPE#", f"{word}#", lambda w, k=k: w.outline == k)
        g.add("BARESHAPE", word, lambda w, k=k: w.outline == k)
    for word, k in SIZES.items():
        g.add("SIZE", word, lambda w, k=k: w.side == k)
    g.add("ADJ", "PAINT (color)")
    g.add("SHAPE#", "BARESHAPE item#/object#/shape#")
    g.add("THING#", "item#|object#|block#", lambda w: w.all_objects)
    g.add("KIND#", "THING#|SHAPE#")
    g.add("OBJ#", "KIND#")
    g.add("OBJ#", "ADJ KIND#|SIZE KIND#|SIZE ADJ KIND#|KIND# of SIZE size|ADJ KIND# of SIZE size", all_of)
    g.add("OBJ1", "ADJ one|other OBJ1|another OBJ1")
    g.add("OBJ1", "KIND2|ADJ KIND2", all_of)
    g.add("OBJ1", "PAINT or PAINT KIND1", lambda w, m, n, k: (m | n) & k)
    g.add("OBJ2", "KIND1|ADJ KIND1", all_of)
    g.add("IS", "PAINT (in) (color)|of PAINT (color)|a OBJ1|OBJ2|SHAPE1")
    g.add("IS", "not IS|not the color PAINT", lambda w, m: w.all_objects & ~m)
    g.add("WHO", "which/that is/are IS")
    g.add("WHERE", "TOUCH|that/which is/are TOUCH|is/are TOUCH")
    g.add("OBJT#", "OBJ#")
    g.add("OBJT#", "OBJ# WHERE|OBJ# WHERE WHO", all_of)
    g.add("OBJM#", "OBJT#")
    g.add("OBJM#", "OBJ# WHO|OBJ# WHO WHERE|OBJ# TOUCH and the shape is IS", all_of)


def walls(g: Grammar) -> None:
    """Masks of objects by what they touch."""
    g.add("<box>", "(the/a) box|(the) square|(the) boxes|(the) tower|any/each box")
    g.add("<ofbox>", "of <box>|in <box>")
    g.add("<art>", "the|a|an|any|its|the any")
    g.add("<touch>", "touching|closely touching|attached/attach to|attached with|most touching|in|touching with")
    g.add("<with>", "with its side|with its top|with its base|with its corner")
    floor = "(<art>) base/bottom (<ofbox>)|(<art>) bottom base/edge/wall/side (<ofbox>)"
    roof = "(<art>) roof/top (<ofbox>)|(<art>) top wall/edge/side (<ofbox>)"
    g.add("WALL", "(<art>) edge/wall/side/line (<ofbox>)|base or edge", lambda w: w.wall())
    g.add("WALL", floor, lambda w: w.touches["floor"])
    g.add("WALL", roof, lambda w: w.touches["roof"])
    for hand in ("left", "right"):
        wall = f"(<art>) {hand} wall/edge/side (<ofbox>)|(<art>) {hand} side edge/wall"
        g.add("WALL", wall, lambda w, h=hand: w.touches[h])
    corner = "(<art>) corner (<ofbox>)|a box corner|the different corner <ofbox>|(the) tower corner"
    g.add("WALL", corner, lambda w: w.corner())
    for hand in ("left", "right"):
        g.add("WALL", f"(<art>) {hand} corner (<ofbox>)", lambda w, h=hand: w.touches[h] & w.corner())
        for end, name in (("bottom", "floor"), ("top", "roof")):
            wording = f"(<art>) {end} {hand} corner (<ofbox>)"
            g.add("WALL", wording, lambda w, h=hand, n=name: w.touches[h] & w.touches[n])
    g.add("TOUCH", "<touch> WALL|<touch> WALL <with>")
    g.add("TOUCH", "not <touch> WALL", lambda w, m: w.all_objects & ~m)
    g.add("TOUCH", "nearly touching (<art>) wall/edge/side/line/corner", lambda w: w.near_wall())


ALL = (numbers, things, walls)
