"""The rules of whole sentences. A rule named S says for each picture whether the sentence is true.

rules.py and rules_towers.py explain the other names.
"""

import numpy as np

from examples.nlvr1.grammar import Grammar
from examples.nlvr1.rules import PAINTS, Mask, all_of
from examples.nlvr1.rules_panels import only_paints
from examples.nlvr1.rules_towers import overlap, same_paint
from examples.nlvr1.scene import Scene

PICTURE_AXES = (1, 2)  # axes of a mask: the panels of a picture, and their objects


def objects(g: Grammar) -> None:
    """How many objects there are in the picture."""
    g.add("<there1>", "there is|there|there is as|the is|there are")
    g.add("<there2>", "there are|three are|there is|there")
    g.add("<there>", "<there1>|<there2>")
    count = "<there#> HOW# OBJM#|<there#> HOW# BLOCK#|<there1> ONE1 OBJM1|<there1> ONE1 BLOCK1|HAVE# OBJM#"
    g.add("S", count, lambda w, how, m: how(m.sum(PICTURE_AXES)))
    g.add("S", "<there> OBJM2|<there> BLOCK1|<there> OBJM1", lambda w, m: m.any(PICTURE_AXES))
    g.add("S", "<there#> HOW# BLOCKS#|<there1> ONE1 BLOCKS1", lambda w, how, m: how(m.sum(1)))
    pair = "<there1> HAVE1 OBJ1 and HAVE1 OBJ1|<there2> HOW2 OBJ2 and HAVE1 OBJ1|<there1> HAVE1 OBJ1 and HOW2 OBJ2"
    pair += "|<there2> HOW2 OBJ2 and HOW2 OBJ2"
    g.add("S", pair, lambda w, how, m, other, n: how(m.sum(PICTURE_AXES)) & other(n.sum(PICTURE_AXES)))
    g.add("S", "none of the OBJM2", lambda w, m: ~m.any(PICTURE_AXES))
    g.add("S", "(<a>) OBJ# is/are TOUCH|and there is one OBJ1 TOUCH", lambda w, m, t: (m & t).any(PICTURE_AXES))
    g.add("S", "HAVE# OBJ# is/are TOUCH", lambda w, how, m, t: how((m & t).sum(PICTURE_AXES)))
    g.add("S", "all (the) OBJ2 are TOUCH", lambda w, m, t: ~(m & ~t).any(PICTURE_AXES))
    g.add("S", "the OBJ1 is on top|the OBJ1 is at the top", lambda w, m: (m & w.top()).any(PICTURE_AXES))
    g.add(
        "S",
        "only PAIR items are TOUCH",
        lambda w, pair, t: np.all([_has_paint(w, t, k) == (k in pair) for k in range(3)], 0),
    )
    colors = "(the) items of all three (different) colors are TOUCH"
    g.add("S", colors, lambda w, t: np.all([_has_paint(w, t, k) for k in range(3)], 0))


def _has_paint(w: Scene, mask: Mask, paint: int) -> Mask:
    """Pictures with an object of the mask in this paint."""
    return ((w.paint == paint) & mask).any(PICTURE_AXES)


def panels(g: Grammar) -> None:
    """How many boxes or towers there are of some kind."""
    g.add("BOX#", "(grey) box#|(grey) square#", lambda w: w.height > 0)
    g.add("BOXES#", "BOX# MUST", all_of)
    g.add("TOWERS#", "SIZED#")
    g.add("TOWERS#", "SIZED# MUST", all_of)
    g.add("TOWERS2", "SIZED1 MUST", all_of)
    g.add("PANELS#", "BOXES#|TOWERS#")
    g.add("PANELS2", "BOXES2 and each has PARTS|TOWERS2 and each has PARTS", all_of)
    g.add("S", "<there#> HOW# PANELS#", lambda w, how, m: how(m.sum(1)))
    g.add("S", "<there1> one TOWERS1", lambda w, m: m.sum(1) == 1)
    g.add(
        "<few>",
        "(in) one of the (three)|(at) least one (of the)|(at) least one of|one|has|the|a|only one of the",
    )
    g.add("S", "<there1> one BOXES1|<there1> PANELS1|<few> PANELS1|<few> PANELS2|TOWERS1", lambda w, m: m.any(1))
    g.add("S", "two PANELS2/PANELS1|two of the (three) PANELS2/PANELS1", lambda w, m: m.sum(1) >= 2)
    g.add("S", "exactly/only two PANELS2", lambda w, m: m.sum(1) == 2)
    g.add("S", "<there2> HOW2 PANELS2 and HOW2 PANELS2", lambda w, how, m, other, n: how(m.sum(1)) & other(n.sum(1)))
    g.add("S", "<there2> HOW2 OBJ2 <together>", lambda w, how, m: how(w.longest_run(m)).any(1))
    g.add("<all>", "all (of) (the)|all (the) three|each|every|all there|the three")
    g.add("S", "<all> BOX# MUST|<all> SIZED# MUST", lambda w, b, m: (m | ~b).all(1))
    g.add("<inall>", "in every/each box/tower|in all (the/three) boxes")
    g.add("S", "<there#> HAVE# OBJM# <inall>", lambda w, how, m: how(m.sum(2)).all(1))
    g.add("S", "<there#> HAVE# OBJM# in a/one/the (same) (grey) box", lambda w, how, m: how(m.sum(2)).any(1))
    some = "<there2> HOW2 OBJ2 in (a) (grey) box of which SHARE is/are IS"
    g.add("S", some, lambda w, how, m, share, n: (how(m.sum(2)) & share((m & n).sum(2))).any(1))
    least = "the (grey) box/square with (the) least number of object/objects has/contains PARTS"
    g.add("S", least, lambda w, m: ((w.height == w.height.min(1, keepdims=True)) & m).any(1))


def comparisons(g: Grammar) -> None:
    """Boxes and towers compared with each other."""
    g.add(
        "AGREE", "(the) same height|same in height|(the) same number of blocks/items/objects (each)", lambda w: w.height
    )
    base = "(the) same base (color)|the same color (block) at (the) base|block of same color at base"
    g.add("AGREE", base, lambda w: w.value_in(w.storey(0), w.paint))
    top = "(the) same top (color)|(the) same color (block) on (the) top|same color (block) at the top"
    g.add("AGREE", top, lambda w: w.value_in(w.top(), w.paint))
    g.add("<two>", "two|(at) least two|only two|two of the three")
    g.add(
        "S", "<there2> <two> boxes/towers that/which has/have AGREE|<there2> <two> boxes/towers with AGREE", _two_agree
    )
    g.add(
        "S",
        "<two> tower/towers/boxes has/have/are (the) AGREE|two of the three towers has/have (the) AGREE",
        _two_agree,
    )
    g.add("S", "<all> towers/boxes has/have AGREE", lambda w, v: agreement(v) == 3)
    base = "the base of the (three) towers are (all) the same"
    g.add("S", base, lambda w: agreement(w.value_in(w.storey(0), w.paint)) == 3)
    top = (
        "all the top of the towers have the same color|the same color is on top in all three boxes"
        "|there is only one color on the top in all three boxes"
    )
    g.add("S", top, lambda w: agreement(w.value_in(w.top(), w.paint)) == 3)
    g.add("S", "all the three towers has different top colors", lambda w: agreement(w.value_in(w.top(), w.paint)) == 1)
    unlike = (
        "<there> (at) least two towers that are not the same in height|the number of items in the boxes is different"
        "|there is a different number of items in the boxes|all the boxes do not have the same number of items"
    )
    g.add("S", unlike, lambda w: agreement(w.height) < 3)
    g.add("S", "<there2> three towers that are not the same in height", lambda w: agreement(w.height) < 2)
    for word, k in PAINTS.items():
        base = f"the same base color that is not {word}"
        base = f"<there2> two towers with {base}|two of the three towers has {base}"
        g.add("S", base, lambda w, k=k: agreement(w.value_in(w.storey(0), w.paint), k) >= 2)


def agreement(values: np.ndarray, ignored_value: int = -1) -> np.ndarray:
    """(P, 3) values → (P,) how many panels have the commonest value; `ignored_value` agrees with none."""
    values = np.where(values == ignored_value, -1 - np.arange(3), values)
    return (values[:, :, None] == values[:, None, :]).sum(2).max(1)


def _two_agree(_: Scene, values: np.ndarray) -> Mask:
    return agreement(values) >= 2


def towers(g: Grammar) -> None:
    """The ends of towers."""
    g.add("<ofthe>", "of (a/the/each)|from a|of the three")
    g.add("WHICH", "<ofthe> SIZED1|<ofthe> SIZED2")
    g.add("WHICH", "<ofthe> SIZED1 MUST", all_of)
    g.add("S", "(the) END WHICH is/are PAINT (in color)", lambda w, e, b, m: (overlap(m, e) & b).any(1))
    two = "(the) END WHICH is PAINT and the END is PAINT"
    g.add("S", two, lambda w, e, b, m, f, n: (overlap(m, e) & b & overlap(n, f)).any(1))
    g.add("S", "the END and END WHICH are PAINT", lambda w, e, f, b, m: (overlap(m, e) & overlap(m, f) & b).any(1))
    g.add(
        "S",
        "the END and (the) END WHICH are the (the) same in color",
        lambda w, e, f, b: (same_paint(w, e, f) & b).any(1),
    )
    low = "the first two blocks (from the base) of a/the tower is/are PAINT"
    g.add("S", low, lambda w, m: (overlap(m, w.storey(0)) & overlap(m, w.storey(1))).any(1))
    g.add("S", "the third block of a tower from the base is PAINT", lambda w, m: (m & w.storey(2)).any(PICTURE_AXES))
    g.add("S", "(all) the END of the tower/towers are PAINT", lambda w, e, m: overlap(m, e).all(1))
    g.add("S", "the END of the two towers is/are PAINT", lambda w, e, m: overlap(m, e).sum(1) >= 2)
    g.add("S", "one of the three towers END is PAINT", lambda w, e, m: overlap(m, e).any(1))
    g.add(
        "S", "the color of a two blocks tower is PAIR", lambda w, pair: (only_paints(w, pair) & (w.height == 2)).any(1)
    )
    ends = "<there#> HOW# OBJ# as the END WHICH|<there1> BARE1 OBJ1 as END WHICH"
    g.add("S", ends, lambda w, how, m, e, b: how((overlap(m, e) & b).sum(1)))
    ends = "<there1> HOW1 OBJ1 as the END of HOW# SIZED#"
    g.add("S", ends, lambda w, _, m, e, how, b: how((overlap(m, e) & b).sum(1)))
    g.add("S", "<there#> HOW# OBJ# UPON in a tower MUST", lambda w, how, m, o, b: how((overlap(m, o) & b).sum(1)))


ALL = (objects, panels, comparisons, towers)
