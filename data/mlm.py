"""Data of masked language modelling (MLM; paper section 3.2, equation 1)."""

from collections.abc import Sequence

import numpy as np

from data.batch import Example, Seq
from data.img_store import ImageStore
from data.mask import mask_regions, mask_words
from data.text_image import Masking, TextImage
from data.txt_store import TextStore
from utils.errors import InputError


class Mlm(TextImage):
    """Texts with masked words, with all regions of their images, or without an image (paper table 3, line 2).

    Targets, by sequence: `mlm_index` (m,) int64, the positions of the masked tokens in the sequence; `mlm_labels` (m,)
    int64, the word pieces that they replaced.
    """

    task = "mlm"
    needs_pictures = False

    def __init__(
        self,
        texts: TextStore,
        images: ImageStore | None,
        *,
        wrong_picture: bool = False,
        masking: Masking = "conditional",
        mrm_prob: float = 0.15,
    ):
        """`masking`: mask words only ("conditional"), or also regions, with probability `mrm_prob` ("joint"; paper
        table 3, line 12). See `TextImage` for the others.

        `InputError` also when every text is empty."""
        super().__init__(texts, images, wrong_picture=wrong_picture)
        self.masking, self.mrm_prob = masking, mrm_prob
        if not texts.lens.any():
            raise InputError(
                "every text of the store is empty, so there is no word to mask",
                file=texts.path,
                key=f"tasks: {self.task}",
                found=f"0 word pieces in all {len(texts):,} texts",
                expected="texts with word pieces",
                remedy="give another text store, or leave out the task mlm",
            )

    def example(self, row: Sequence[int], rng: np.random.Generator) -> Example:
        """Build one sequence of the masked text and its image, whose regions are masked too when `masking` is joint."""
        text, picture = row
        tokens, meta = self.tokens(self.texts.read(text)), self.texts.meta
        masked, places = mask_words(tokens, meta.mask, meta.v_range, rng)
        images = self.images_of(picture)
        joint = self.masking == "joint" and images
        seq = Seq(
            input_ids=self.add_special_tokens(masked),
            images=images,
            img_mask=mask_regions(len(images[0].feat), rng, self.mrm_prob) if joint else None,
            targets={"mlm_labels": tokens[places]},
            unit_targets={"mlm_index": places + 1},  # + 1: [CLS]
        )
        return Example(self.id(text), [seq])
