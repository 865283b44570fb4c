"""Signs of a failed extraction: arrays that are in order one by one, but say nothing about the images.

One such image may be right: a white picture has the same features everywhere. A store of such images only is refused.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data.region_checks import Problem, Regions

SURE = 0.99  # the probability from which a region counts as background


class BlankSigns(NamedTuple):
    """The signs of one image. None: it cannot show this sign, for it has one region or no soft labels."""

    zeros: int  # regions whose features are all 0
    no_features: bool  # all regions are such
    same_features: bool | None  # all regions have the same features
    same_boxes: bool | None  # all regions have the same box
    background: bool | None  # the soft labels of all regions are the background's


EXPECTED = {  # sign → title, expected, array
    "no_features": ("the features of all regions are 0", "features that describe the regions", "features"),
    "same_features": ("in every image all regions have the same features", "features of each region", "features"),
    "same_boxes": ("in every image all regions have the same box", "a box for each region", "norm_bb"),
    "background": (
        "the soft labels of all regions are the background's",
        "classes of the regions in most images",
        "soft_labels",
    ),
}


def blank_signs(regions: Regions) -> BlankSigns:
    """The signs of a failed extraction that an image's regions show."""
    bits = regions.features.view(np.uint16)  # of float16; comparing the numbers is slow
    corners, labels, several = regions.pos[:, :4], regions.soft_labels, len(bits) > 1
    zeros = len(bits) - int(np.count_nonzero((bits & 0x7FFF).any(1)))  # -0 is 0 too
    return BlankSigns(
        zeros=zeros,
        no_features=zeros == len(bits),
        same_features=bool((bits == bits[0]).all()) if several else None,
        same_boxes=bool((corners == corners[0]).all()) if several else None,
        background=None if labels is None else bool((labels[:, 0] >= SURE).all()),
    )


def blank_problem(signs: Sequence[BlankSigns]) -> Problem | None:
    """A `Problem` when all of the images that can show a sign show it."""
    for name, (title, expected, array) in EXPECTED.items():
        values = [getattr(sign, name) for sign in signs if getattr(sign, name) is not None]
        if values and all(values):
            return Problem(title, f"so in all {len(values):,} images that were read", expected, array)
    return None


def blank_counts(signs: Sequence[BlankSigns]) -> str:
    """How many images and regions show each sign, in words, for the summary of a full scan."""
    return (
        f"{sum(sign.zeros for sign in signs):,} regions with features that are all 0; images whose regions all have "
        f"the same features: {sum(bool(sign.same_features) for sign in signs):,}, the same box: "
        f"{sum(bool(sign.same_boxes) for sign in signs):,}, background as their soft label: "
        f"{sum(bool(sign.background) for sign in signs):,}"
    )
