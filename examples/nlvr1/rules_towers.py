"""The rules of towers: where in a tower a block is and on what, and what a tower is like.

PLACE, END, UPON are masks of places; BLOCK of blocks, or panels; FACT and MUST are panels; names else as in rules.py.
"""

import numpy as np

from examples.nlvr1.grammar import Grammar
from examples.nlvr1.rules import Mask, all_of
from examples.nlvr1.rules_panels import only_paints
from examples.nlvr1.scene import Scene


def places(g: Grammar) -> None:
    """Masks of places in a tower."""
    g.add("<of>", "of a tower|of the tower|of it|of tower")
    g.add("<the>", "the|its")
    g.add("PLACE", "(<the>) base/bottom (<of>)", lambda w: w.storey(0))
    g.add("PLACE", "<the> top (<of>)|top", lambda w: w.top())
    g.add("PLACE", "(<the>) middle (<of>)", lambda w: w.middle())
    g.add("ATPLACE", "at PLACE|on PLACE|in PLACE|as PLACE (block)|right on PLACE")
    g.add("ATPLACE", "on top", lambda w: w.top() & ~w.storey(0))
    g.add("ATPLACE", "as the top most block", lambda w: w.top())
    g.add("ATPLACE", "as a middle block", lambda w: w.middle())
    g.add("ATPLACE", "(in) between two blocks", lambda w: w.over(w.all_objects) & w.under(w.all_objects))
    g.add("ATPLACE", "(in) between two OBJ2|between the two OBJ2|between a OBJ2", lambda w, m: w.over(m) & w.under(m))
    g.add(
        "ATPLACE",
        "in between two blocks of (the) same color|between two items of (the) same color",
        _between_same_paint,
    )
    unlike = "between (the) two blocks that is not PAINT"
    g.add("ATPLACE", unlike, lambda w, m: w.over(w.all_objects & ~m) & w.under(w.all_objects & ~m))
    g.add("ATPLACE", "above (the/a) base block|above the base of a tower", lambda w: w.over(w.storey(0)))
    g.add("ATPLACE", "below/beneath the top block|beneath the item on top", lambda w: w.under(w.top()))
    g.add("TWICE", "at PLACE and (at) PLACE|both on PLACE and on PLACE", lambda w, a, b: (a, b))
    g.add("END", "base/bottom (block)", lambda w: w.storey(0))
    g.add("END", "top (block)", lambda w: w.top())
    g.add("END", "middle (block)", lambda w: w.middle())
    g.add("END", "second block (from the base)", lambda w: w.storey(1))
    g.add("END", "third block (from the base)", lambda w: w.storey(2))


def _between_same_paint(w: Scene) -> Mask:
    """Blocks between two of one paint."""
    return np.any([w.over(m) & w.under(m) for m in (w.paint == k for k in range(3))], 0)


def neighbours(g: Grammar) -> None:
    """Masks of blocks by what is over and under them, and panels by such blocks."""
    g.add("<on>", "on|over|(right) on top of|attached on top of|above|above of")
    g.add("<under>", "under|below|beneath|underneath|right beneath")
    g.add("<a>", "a|the|another|an")
    g.add("UPON", "<on> (<a>) OBJ1", lambda w, m: w.over(m))
    g.add("UPON", "above two OBJ2", lambda w, m: w.over(m & w.over(m)))
    g.add("UPON", "<under> (<a>) OBJ1|with (<a>) OBJ1 on top (of it)", lambda w, m: w.under(m))
    g.add("UPON", "attached/attach to (<a>) OBJ1|attached with (<a>) OBJ1|touching (<a>) OBJ1", _neighbours_of)
    g.add("UPON", "<on> a different color block", lambda w: np.any([w.over(m) for m in _under_other_paints(w)], 0))
    g.add(
        "UPON",
        "attached to PAIR blocks",
        lambda w, p: _neighbours_of(w, w.paint == p[0]) & _neighbours_of(w, w.paint == p[1]),
    )
    g.add("BLOCK#", "OBJ# UPON|OBJ# that is UPON|OBJ# ATPLACE|OBJ# which is/are ATPLACE", all_of)
    g.add("BLOCKS#", "OBJ# TWICE", lambda w, m, ends: (m & ends[0]).any(2) & (m & ends[1]).any(2))
    g.add("PART", "HAVE# BLOCK#", lambda w, how, m: how(m.sum(2)))
    g.add("PART", "HAVE# BLOCKS#", lambda w, how, m: how(m))
    g.add("PART", "BLOCK#", lambda w, m: m.any(2))
    g.add(
        "<together>",
        "stacked together|attached/attach with each other|touching each other|attached|stacked on top of each other"
        "|on top of each other|attached together|touching another",
    )
    g.add("PART", "HAVE2 OBJ2 (that are) <together>", lambda w, how, m: how(w.longest_run(m)))
    apart = "HAVE2 OBJ2 not touching each other|HAVE2 OBJ2 that are not attach with each other"
    g.add("PART", apart, lambda w, how, m: how(m.sum(2)) & (w.longest_run(m) < 2))
    alike = "HAVE2 blocks <together> of the same color|HAVE2 (the) same color blocks <together>"
    g.add("PART", alike, lambda w, how: how(np.max([w.longest_run(w.paint == k) for k in range(3)], 0)))
    touching = "a PAINT and PAINT square/block/item (are) touching each other"
    g.add("PARTS", touching, lambda w, m, n: (m & _neighbours_of(w, n)).any(2))


def _neighbours_of(w: Scene, mask: Mask) -> Mask:
    """Blocks right over or under one of the mask."""
    return w.over(mask) | w.under(mask)


def _under_other_paints(w: Scene) -> list[Mask]:
    """By paint, the blocks of another paint right under a block of it."""
    return [w.under(w.paint == k) & (w.paint != k) & w.all_objects for k in range(3)]


def ends(g: Grammar) -> None:
    """Panels by the paints at the ends of their tower."""
    g.add("PART", "(a) PAINT END|PAINT at the END", lambda w, m, e: (m & e).any(2))
    two = "(a) PAINT END and PAINT END|PAINT at the END and PAINT at the END"
    g.add("PARTS", two, lambda w, m, e, n, f: overlap(m, e) & overlap(n, f))
    g.add("FACT", "the END is/are PAINT (in color)|(a) PAINT is END", lambda w, m, n: overlap(m, n))
    two = "the END and END (block) is/are PAINT|the END and END (blocks) is/are both PAINT"
    g.add("FACT", two, lambda w, e, f, m: overlap(m, e) & overlap(m, f))
    g.add("FACT", "the color of the END and END is PAINT", lambda w, e, f, m: overlap(m, e) & overlap(m, f))
    g.add("FACT", "the END is PAINT and the END is PAINT", lambda w, e, m, f, n: overlap(m, e) & overlap(n, f))
    g.add("FACT", "the END and (the) END (blocks) are the same (in) (color)", same_paint)
    unlike = "the END and (the) END are not the same (in) (color)|the END and (the) END (blocks) are different in color"
    g.add("FACT", unlike, lambda w, e, f: ~same_paint(w, e, f) & f.any(2))
    low = "two of the same color blocks are at the bottom"
    g.add("FACT", low, lambda w: same_paint(w, w.storey(0), w.storey(1)))
    unlike = "<having> PARTS and a different color block at the top"
    g.add("MUST", unlike, lambda w, p: p & ~same_paint(w, w.storey(0), w.top()))


def overlap(mask: Mask, other: Mask) -> Mask:
    """Panels with an object that is in both masks."""
    return (mask & other).any(2)


def same_paint(w: Scene, place: Mask, other: Mask) -> Mask:
    """Panels with one paint in both places."""
    paint, other_paint = w.value_in(place, w.paint), w.value_in(other, w.paint)
    return (paint == other_paint) & (paint >= 0)


def facts(g: Grammar) -> None:
    """What is said of a panel after what it holds."""
    g.add("FACT", "the color is/are PAINT|the blocks are PAINT", lambda w, m: (w.all_objects & ~m).sum(2) == 0)
    g.add("FACT", "(the) color (of the items) is PAIR|the <things> are PAIR (in color)", only_paints)
    g.add("FACT", "(<a>) OBJ1 (is) UPON|a OBJ1 is ATPLACE|(<a>) OBJ1 is TOUCH|the OBJ1 is ATPLACE", _overlap)
    top = "(a/the) PAINT (one) (is) on top|(a/the) PAINT item is on top"
    g.add("FACT", top, lambda w, m: (m & w.top() & ~w.storey(0)).any(2))
    g.add("FACT", "(a/the) PAINT one/item (is) TOUCH|(at) least one OBJ1 is TOUCH", _overlap)
    g.add("FACT", "(a) PAINT one above it|a PAINT one right on top of it|a PAINT item on top", lambda w, m: m.any(2))
    g.add("FACT", "none of the OBJ2 are TOUCH", lambda w, m, t: ~(m & t).any(2))
    g.add("FACT", "only one is TOUCH", lambda w, m: m.sum(2) == 1)
    g.add("FACT", "the only OBJ1/PAINT is a OBJ1", lambda w, m, n: (m.sum(2) == 1) & (m & n).any(2))
    g.add("FACT", "the (two/three) PAINT (items) are OBJ2", lambda w, m, n: m.any(2) & ((m & ~n).sum(2) == 0))
    alike = "both blocks are (of) (the) same color"
    g.add("FACT", alike, lambda w: (w.height == 2) & (w.value_count(w.all_objects, w.paint) == 1))
    g.add("FACT", "only two blocks are the same color", lambda w: w.commonest_count(w.all_objects, w.paint) == 2)
    g.add("FACT", "there is/are PARTS|it has PARTS|only have/has PARTS")
    g.add("FACT", "the SHARE (block/blocks) is/are PAINT", lambda w, how, m: how(m.sum(2)))


def _overlap(_: Scene, mask: Mask, other: Mask) -> Mask:
    return overlap(mask, other)


def demands(g: Grammar) -> None:
    """What is said of a box or a tower."""
    g.add("SIZED#", "NUM block/blocks tower#", lambda w, n: w.height == n)
    g.add("SIZED#", "one/single block tower#", lambda w: w.height == 1)
    g.add("SIZED#", "tower#", lambda w: w.height > 0)
    g.add("SIZED#", "PAINT tower#", lambda w, m: (w.all_objects & ~m).sum(2) == 0)
    g.add(
        "<having>",
        "with|having|has|have|contains|contain|containing|and|and with|and has|with has|with contain|made of"
        "|that/which has/have/contain/contains|that is made of",
    )
    g.add("<which>", "where|which|that|and|and which|with")
    g.add("MUST", "<having> PARTS (in it)|<having> PARTS each|that is PARTS|<which> FACT")
    g.add("MUST", "<having> PARTS MUST", all_of)
    g.add("MUST", "without (a) OBJ1|not having a OBJ1|which has no OBJ1", lambda w, m: ~m.any(2))
    g.add("MUST", "<having> (the) exactly (same) set of items", lambda w: w.height > 0)
    pile = "<having> a OBJ1 TOUCH and/with a OBJ1 on top (of it)"
    g.add("MUST", pile, lambda w, m, t, n: (m & t & w.under(n)).any(2))
    pile = "<having> a OBJ1 TOUCH and HAVE2 OBJ2 on top of it"
    g.add("MUST", pile, lambda w, m, t, how, n: (m & t).any(2) & how((n & ~t).sum(2)))
    pile = "<having> a OBJ1 on top and HAVE2 OBJ2 beneath it"
    g.add("MUST", pile, lambda w, m, how, n: (m & w.top()).any(2) & how((n & ~w.top()).sum(2)))
    pile = "<having> a OBJ1 TOUCH and another one on top of it (all)"
    g.add("MUST", pile, lambda w, m, t: (m & t & w.under(w.all_objects)).any(2))
    pile = "<having> a OBJ1 TOUCH and another OBJ1 on top of it"
    g.add("MUST", pile, lambda w, m, t, n: (m & t & w.under(n)).any(2))
    g.add("MUST", "<having> a OBJ1 and only OBJ2 on top of it", lambda w, m, n: (m & w.under(n)).any(2))
    pile = "<having> a OBJ1 on top and (a) OBJ1 (right) beneath/under it"
    g.add("MUST", pile, lambda w, m, n: (m & w.top() & w.over(n)).any(2))


ALL = (places, neighbours, ends, facts, demands)
