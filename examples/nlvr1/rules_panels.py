"""The rules of what a panel holds: some objects and some others, colours, and what part of a group is like.

PART and PARTS are panels; a GROUP is a mask of objects and the panels that have such a group; else as in
rules.py.
"""

import numpy as np

from examples.nlvr1.grammar import Grammar
from examples.nlvr1.rules import Mask, NumberTest, all_of
from examples.nlvr1.scene import Scene

Group = tuple[Mask, Mask]  # objects, and the panels that have the group
MANY = 4  # objects, at least


def contents(g: Grammar) -> None:
    """Some objects and some others."""
    g.add("PART", "HAVE# OBJT#", lambda w, how, m: how(m.sum(2)))
    g.add("PART", "OBJ2|a OBJ2", lambda w, m: m.any(2))
    g.add("PART", "multiple/many items/objects/blocks|a lot of items", lambda w: w.height >= MANY)
    g.add("PART", "a lot of OBJ2|many OBJ2|multiple OBJ2", lambda w, m: m.sum(2) >= MANY - 1)
    g.add("HALF", "HAVE# PAINT (color)", lambda w, how, m: how(m.sum(2)))
    g.add("PARTS", "PART|PART and other items/objects|PART among other objects")
    g.add("PARTS", "PART and PART|PART PART and PART|PART PART PART and PART|PART PART|PART and PART and PART", all_of)
    g.add("PARTS", "HALF and PART|HALF HALF and PART|HALF and HALF|PART and HALF|PART with PART", all_of)
    g.add("PARTS", "HAVE# ADJ and ADJ KIND#", lambda w, how, m, n, k: how((m & k).sum(2)) & how((n & k).sum(2)))
    g.add(
        "PARTS",
        "HAVE# SHAPE# and HAVE# SHAPE# that are ADJ",
        lambda w, how, m, how2, n, k: how((m & k).sum(2)) & how2((n & k).sum(2)),
    )


def only_paints(w: Scene, pair: tuple[int, int]) -> Mask:
    """Panels with both paints, and no other."""
    has_paint = [(w.paint == k).any(2) for k in range(3)]
    return has_paint[pair[0]] & has_paint[pair[1]] & ~has_paint[3 - sum(pair)]


def has_both_paints(w: Scene, pair: tuple[int, int], mask: Mask) -> Mask:
    """Panels with objects of the mask in both paints."""
    return np.logical_and(*[(mask & (w.paint == k)).any(2) for k in pair])


def only_objects(w: Scene, mask: Mask) -> Mask:
    """Panels in which all objects are of the mask."""
    return (mask.sum(2) == w.height) & (w.height > 0)


def paints(g: Grammar) -> None:
    """Which paints there are."""
    g.add("<in>", "in|in color|only|color|colors|color only")
    g.add("<things>", "blocks|items|objects")
    g.add("PARTS", "only PAIR KIND2|PAIR KIND2 only", lambda w, pair, k: only_paints(w, pair) & only_objects(w, k))
    g.add("PARTS", "only PAIR color/colors|<things> (of) only PAIR (<in>)|<things> of PAIR color only", only_paints)
    g.add("PARTS", "PAIR KIND2", lambda w, pair, k: has_both_paints(w, pair, k))
    g.add(
        "PARTS",
        "<things> of PAIR color/colors|PAIR color <things>",
        lambda w, pair: has_both_paints(w, pair, w.all_objects),
    )
    g.add(
        "PARTS", "HAVE2 <things> of (only) PAIR color/colors", lambda w, how, pair: how(w.height) & only_paints(w, pair)
    )
    g.add("PARTS", "HAVE2 PAIR <things>", lambda w, how, pair: how(w.height) & only_paints(w, pair))
    g.add(
        "PARTS", "only OBJ2|OBJ2 only|only OBJ1|<things> of PAINT color only|only <things> of PAINT color", only_objects
    )


def groups(g: Grammar) -> None:
    """Groups of objects, and how many paints, outlines or sizes they have."""
    g.add(
        "GROUP",
        "(at) most HAVE2 <things>|HAVE2 <things> at most",
        lambda w, how: (w.all_objects, _at_most(how, w.height)),
    )
    g.add("GROUP", "multiple/many items|a lot of items", lambda w: (w.all_objects, w.height >= MANY))
    g.add("GROUP", "PAIR items|only PAIR items", lambda w, pair: (w.all_objects, only_paints(w, pair)))
    g.add("GROUP", "only OBJ2", lambda w, m: (m, only_objects(w, m)))
    g.add("GROUP", "OBJ2", lambda w, m: (m, m.any(2)))
    g.add("GROUP", "HAVE# OBJ#", lambda w, how, m: (m, how(m.sum(2))))
    g.add("VALUES", "(different) color/colors", lambda w: w.paint)
    g.add("VALUES", "(different) shape/shapes|type|kinds", lambda w: w.outline)
    g.add("VALUES", "(different) size", lambda w: w.side // 10 - 1)
    g.add("PALETTE", "(all) (the) three|all (the)", lambda w: 3)
    g.add("PALETTE", "(only) two|at least two", lambda w: 2)
    g.add("PALETTE", "(only) one|(the) same|(a) single", lambda w: 1)
    of = "GROUP of/with/in/having PALETTE VALUES|GROUP which/that are (all) of PALETTE VALUES|GROUP PALETTE VALUES"
    g.add("PARTS", of, lambda w, group, k, v: group[1] & (w.value_count(group[0], v) == k))
    g.add("PARTS", "PALETTE VALUES", lambda w, k, v: w.value_count(w.all_objects, v) == k)
    alike = "HAVE2 <things> with the same VALUES|HAVE2 (the) same VALUES <things>"
    g.add("PARTS", alike, lambda w, how, v: how(w.commonest_count(w.all_objects, v)))
    alike = "GROUP and they are (both) the same VALUES|GROUP and the VALUES is/are the same"
    g.add("PARTS", alike, lambda w, group, v: group[1] & (w.value_count(group[0], v) == 1))
    unlike = "GROUP (of) different VALUES|GROUP and the three items has different VALUES"
    g.add("PARTS", unlike, lambda w, group, v: group[1] & (w.value_count(group[0], v) > 1))
    g.add("PARTS", "GROUP that are not the same", lambda w, group: group[1] & (w.value_count(group[0], w.paint) > 1))
    few = "GROUP but not all three different colors"
    g.add("PARTS", few, lambda w, group: group[1] & (w.value_count(group[0], w.paint) < 3))


def _at_most(how: NumberTest, count: np.ndarray) -> Mask:
    """At most the number that `how` names."""
    return count <= int(np.argmax(how(np.arange(9))))


def group_members(g: Grammar) -> None:
    """What some objects of a group are like."""
    g.add("<them>", "(of the) items/objects|blocks|item|(of the) object|block")
    g.add("LIKE", "IS|TOUCH")
    some = (
        "GROUP of which SHARE (<them>) is/are LIKE|GROUP and SHARE (<them>) is/are LIKE|GROUP SHARE of which is IS"
        "|GROUP where SHARE (<them>) is/are IS|GROUP but SHARE is TOUCH"
    )
    g.add("PARTS", some, lambda w, group, how, m: group[1] & how((group[0] & m).sum(2)))
    two = "GROUP of which SHARE is/are IS and SHARE is/are (of) IS|GROUP which are SHARE ADJ and SHARE ADJ"
    g.add("PARTS", two, _two_shares)
    every = (
        "GROUP and it/they is/are (all/both) LIKE|GROUP all of which are IS|GROUP which/that is/are (both) IS"
        "|GROUP and the color is/are IS|GROUP where the <things> are IS|GROUP where both blocks are IS"
        "|GROUP and color of the items is IS"
    )
    g.add("PARTS", every, lambda w, group, m: group[1] & ((group[0] & ~m).sum(2) == 0))
    g.add("PARTS", "GROUP including OBJ1", lambda w, group, m: group[1] & m.any(2))
    g.add("PARTS", "GROUP including PART|GROUP of which there are PART", lambda w, group, m: group[1] & m)
    same = "GROUP of which SHARE have the same VALUES|GROUP and the SHARE (items/blocks) are the same (in) VALUES"
    g.add("PARTS", same + "|GROUP and the SHARE has/have the same VALUES", _same_value)
    same = "GROUP and the SHARE (items/blocks) are the same"
    g.add("PARTS", same, lambda w, group, how: _same_value(w, group, how, w.paint))


def _two_shares(_: Scene, group: Group, how: NumberTest, m: Mask, how2: NumberTest, n: Mask) -> Mask:
    """Panels with the group, so many of it in one mask and so many in the other."""
    return group[1] & how((group[0] & m).sum(2)) & how2((group[0] & n).sum(2))


def _same_value(w: Scene, group: Group, how: NumberTest, values: np.ndarray) -> Mask:
    """Panels with the group, so many of it with the same value."""
    return group[1] & how(w.commonest_count(group[0], values))


ALL = (contents, paints, groups, group_members)
