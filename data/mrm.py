"""Masked region modelling in its three variants: regression, classification, KL divergence (paper section 3.2)."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from data.batch import Example, Image, Seq
from data.img_store import ImageStore
from data.mask import mask_regions, mask_words
from data.text_image import Masking, TextImage
from data.txt_store import TextStore

MrmTask = Literal["mrfr", "mrc", "mrckl"]


class Mrm(TextImage):
    """Pictures with some regions masked, beside their whole texts.

    Targets: `mrm_index` (m,) int64, the masked regions' places; for `mrfr` also `mrm_row` (m,) int64, the rows of
    their true features; for `mrc` and `mrckl` `soft_labels` (m, C) float16, the detector's class distributions.
    """

    def __init__(
        self,
        texts: TextStore,
        images: ImageStore | None,
        task: MrmTask,
        *,
        wrong_picture: bool = False,
        masking: Masking = "conditional",
        mrm_prob: float = 0.15,
    ):
        self.task = task
        super().__init__(texts, images, wrong_picture=wrong_picture)
        self.masking, self.mrm_prob = masking, mrm_prob

    def example(self, row: Sequence[int], rng: np.random.Generator) -> Example:
        """One sequence: the text, masked too where `masking` is joint, and the masked picture."""
        text, picture = row
        tokens, meta = self.tokens(self.texts.read(text)), self.texts.meta
        (image,) = self.images_of(picture, soft_labels=self.task != "mrfr")
        mask = mask_regions(len(image.feat), rng, self.mrm_prob)
        if self.masking == "joint":
            tokens, _ = mask_words(tokens, meta.mask, meta.v_range, rng)
        return Example(self.id(text), [masked_regions(self.add_special_tokens(tokens), image, mask, task=self.task)])


def masked_regions(
    input_ids: np.ndarray, image: Image, mask: np.ndarray, *, task: str, txt_type_ids: np.ndarray | None = None
) -> Seq:
    """The sequence in which the regions that `mask` (r,) bool hides are to be predicted, with the targets of `task`."""
    places = np.flatnonzero(mask)
    seq = Seq(input_ids=input_ids, images=[image], txt_type_ids=txt_type_ids, img_mask=mask)
    seq.unit_targets["mrm_index"] = len(input_ids) + places
    if task == "mrfr":
        seq.region_targets["mrm_row"] = places
    else:
        assert image.soft_labels is not None
        seq.targets["soft_labels"] = image.soft_labels[mask]
    return seq
