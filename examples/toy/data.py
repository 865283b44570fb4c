"""The dataset of the toy task: captions whose last word is hidden, and their images."""

from collections.abc import Sequence

import numpy as np

from data.batch import Example, Seq
from data.text_image import TextImage


class LastWord(TextImage):
    """Captions and their images; [MASK] replaces the last token of each caption.

    Targets, one for each sequence, (1,) int64: `mask_index`, the unit that is [MASK]; `labels`, the hidden token.
    """

    task = "toy"

    def example(self, row: Sequence[int], rng: np.random.Generator) -> Example:
        """One sequence: a caption with a hidden last word, and its image."""
        text, image = row
        tokens = self.tokens(self.texts.read(text))
        seq = Seq(
            input_ids=self.add_special_tokens(np.append(tokens[:-1], self.texts.meta.mask)),
            images=self.images_of(image),
            targets={"labels": tokens[-1:]},
            unit_targets={"mask_index": np.array([len(tokens)])},  # unit 0 is [CLS]
        )
        return Example(self.id(text), [seq])
