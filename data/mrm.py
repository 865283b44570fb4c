"""Data of masked region modelling (MRM; paper section 3.2, equation 4): regression, classification, KL divergence."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from data.batch import Example, Image, Seq
from data.img_store import ImageStore
from data.mask import mask_regions, mask_words
from data.text_image import Masking, TextImage
from data.txt_store import TextStore
from utils.formats import IMG_LABEL_DIM

MrmTask = Literal["mrfr", "mrc", "mrckl"]


class Mrm(TextImage):
    """Images with masked regions, with all words of their texts.

    Targets, by sequence: `mrm_index` (m,) int64, the positions of the masked regions in the sequence. For `mrfr` also
    `mrm_row` (m,) int64, the rows of their true features. For `mrc` and `mrckl` also `soft_labels` (m, C) float16, the
    detector's class probabilities for them.
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
        words_first: bool = False,
    ):
        """`task`: the variant. `masking`: mask regions only ("conditional"), or also words ("joint"; paper table 3,
        line 12). `mrm_prob`: the probability that a region is masked. `words_first`: draw the masks of words before
        those of regions, so that the image does not change them (evaluation). See `TextImage` for the others."""
        self.task = task
        super().__init__(texts, images, wrong_picture=wrong_picture)
        self.masking, self.mrm_prob, self.words_first = masking, mrm_prob, words_first
        require_soft_labels(task, images)

    def example(self, row: Sequence[int], rng: np.random.Generator) -> Example:
        """Build one sequence of the text, masked too when `masking` is joint, and the masked image."""
        text, picture = row
        tokens, meta = self.tokens(self.texts.read(text)), self.texts.meta
        (image,) = self.images_of(picture, soft_labels=self.task != "mrfr")
        joint = self.masking == "joint"
        if joint and self.words_first:
            tokens, _ = mask_words(tokens, meta.mask, meta.v_range, rng)
        mask = mask_regions(len(image.feat), rng, self.mrm_prob)
        if joint and not self.words_first:
            tokens, _ = mask_words(tokens, meta.mask, meta.v_range, rng)
        return Example(self.id(text), [masked_regions(self.add_special_tokens(tokens), image, mask, task=self.task)])


def require_soft_labels(task: str, *stores: ImageStore | None) -> None:
    """`InputError` when `task` reads soft labels and those of an image store are not the model's classes."""
    for images in stores:
        if task in ("mrc", "mrckl") and isinstance(images, ImageStore):
            images.check_soft_labels(IMG_LABEL_DIM)


def masked_regions(
    input_ids: np.ndarray, image: Image, mask: np.ndarray, *, task: str, txt_type_ids: np.ndarray | None = None
) -> Seq:
    """Build the sequence of a text and an image, its regions masked by `mask` (r,) bool, with the targets of `task`.

    `input_ids` and `txt_type_ids` (t,) int64 include [CLS] and [SEP]. The targets are those of `Mrm`.
    """
    places = np.flatnonzero(mask)
    seq = Seq(input_ids=input_ids, images=[image], txt_type_ids=txt_type_ids, img_mask=mask)
    seq.unit_targets["mrm_index"] = len(input_ids) + places
    if task == "mrfr":
        seq.region_targets["mrm_row"] = places
    else:
        assert image.soft_labels is not None
        seq.targets["soft_labels"] = image.soft_labels[mask]
    return seq
