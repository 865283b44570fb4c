"""VCR's second stage of pre-training: masked words and masked regions of its own texts and pictures (paper A.2)."""

from typing import Literal

import numpy as np

from data.batch import Example, Image, Seq
from data.img_store import ImageStore
from data.mask import mask_regions, mask_words
from data.text_image import Masking
from data.txt_store import TextStore
from data.vcr import Part, VcrData, vcr_text


class VcrPretraining(VcrData):
    """A question, its right answer and (`qar`) the right rationale, beside the regions of both pictures as one."""

    def __init__(
        self,
        texts: TextStore,
        gt: ImageStore | None,
        detected: ImageStore | None,
        part: Part,
        task: Literal["mlm", "mrfr", "mrc", "mrckl"],
        wrong_picture: bool = False,
        masking: Masking = "conditional",
        mrm_prob: float = 0.15,
    ):
        self.task = task
        super().__init__(texts, gt, detected, part, wrong_picture=wrong_picture)
        self.masking, self.mrm_prob = masking, mrm_prob

    def example(self, text: int, gt: int, detected: int, rng: np.random.Generator) -> Example:
        meta, words, joint = self.texts.meta, self.task == "mlm", self.masking == "joint"
        image = one_image(self.images((gt, detected), soft_labels=self.task in ("mrc", "mrckl")))
        parts, targets = self._parts(text), {}
        if words or joint:
            parts, places, labels = mask_parts(parts, meta.mask, meta.v_range, rng)
            targets = {"mlm_index": places, "mlm_labels": labels}
        input_ids, types = vcr_text(meta, parts, "own")
        mask = None if words and not joint else mask_regions(len(image.feat), rng, self.mrm_prob)
        if not words:
            assert mask is not None
            targets = region_targets(image, mask, len(input_ids), self.task)
        return Example(self.id(text), [Seq(input_ids, [image], types, img_mask=mask, targets=targets)])

    def _parts(self, text: int) -> list[np.ndarray]:
        record = self.record(text, labelled=True)
        parts = [record["input_ids"], record["input_ids_as"][record["qa_target"]]]
        if self.part == "qar":
            parts.append(record["input_ids_rs"][record["qar_target"]])
        return [np.array(tokens, np.int64) for tokens in parts]


def mask_parts(
    parts: list[np.ndarray], mask_id: int, v_range: tuple[int, int], rng: np.random.Generator
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Mask every part for itself, at least one word in each → masked copies, places (m,) in the sequence, labels (m,).

    A place counts [CLS] and the [SEP] of the parts before.
    """
    masked, places, labels, start = [], [], [], 1
    for tokens in parts:
        copy, chosen = mask_words(tokens, mask_id, v_range, rng)
        masked.append(copy)
        places.append(start + chosen)
        labels.append(tokens[chosen])
        start += len(tokens) + 1
    return masked, np.concatenate(places), np.concatenate(labels)


def region_targets(image: Image, mask: np.ndarray, first: int, task: str) -> dict[str, np.ndarray]:
    """What is to be predicted of the regions that `mask` (r,) hides; `first`: where in the sequence they begin."""
    masked = np.flatnonzero(mask)
    if task == "mrfr":
        return {"mrm_index": first + masked, "mrm_row": masked}
    assert image.soft_labels is not None
    return {"mrm_index": first + masked, "soft_labels": image.soft_labels[mask]}


def one_image(images: list[Image]) -> Image:
    """Several pictures' regions as those of one: `mrm_row` counts from a sequence's first picture."""
    if len(images) == 1:
        return images[0]
    labels = [image.soft_labels for image in images if image.soft_labels is not None]
    return Image(
        tuple(image.key for image in images),
        np.concatenate([image.feat for image in images]),
        np.concatenate([image.pos for image in images]),
        np.concatenate(labels) if labels else None,
    )
