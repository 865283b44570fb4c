"""Masked region modelling in its three variants: regression, classification, KL divergence (paper section 3.2)."""

from typing import Literal

import numpy as np

from data.batch import Example, Seq
from data.img_store import ImageStore
from data.mask import mask_regions, mask_words
from data.text_image import Masking, TextImage
from data.txt_store import TextStore


class Mrm(TextImage):
    """Pictures with some regions masked, beside their whole texts."""

    def __init__(
        self,
        texts: TextStore,
        images: ImageStore | None,
        task: Literal["mrfr", "mrc", "mrckl"],
        wrong_picture: bool = False,
        masking: Masking = "conditional",
        mrm_prob: float = 0.15,
    ):
        self.task = task
        super().__init__(texts, images, wrong_picture)
        self.masking, self.mrm_prob = masking, mrm_prob

    def example(self, text: int, picture: int, rng: np.random.Generator) -> Example:
        tokens, meta = self.tokens(self.texts.read(text)), self.texts.meta
        images = self.image(picture, soft_labels=self.task != "mrfr")
        mask = mask_regions(len(images[0].feat), rng, self.mrm_prob)
        if self.masking == "joint":
            tokens, _ = mask_words(tokens, meta.mask, meta.v_range, rng)
        input_ids, masked = self.framed(tokens), np.flatnonzero(mask)
        targets = {"mrm_index": len(input_ids) + masked}
        if self.task == "mrfr":
            targets["mrm_row"] = masked
        else:
            assert images[0].soft_labels is not None
            targets["soft_labels"] = images[0].soft_labels[mask]
        return Example(self.id(text), [Seq(input_ids, images, img_mask=mask, targets=targets)])
