"""Data of VCR's second stage of pre-training: masked words and regions of VCR's texts and images (paper A.2)."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from data.batch import Example, Image, Seq
from data.img_store import ImageStore
from data.mask import mask_regions, mask_words
from data.mrm import masked_regions, require_soft_labels
from data.text_image import Masking
from data.txt_store import TextStore
from data.vcr import Part, VcrData, vcr_text

VcrPretrainTask = Literal["mlm", "mrfr", "mrc", "mrckl"]


class VcrPretraining(VcrData):
    """Questions with the right answer and, for "qar", the right rationale, and the regions of both images as one image.

    Targets, by sequence: for `task` "mlm" `mlm_index` (m,) and `mlm_labels` (m,) int64, as in `data.mlm.Mlm`; else
    `mrm_index` (m,) int64 with `mrm_row` (m,) int64 ("mrfr") or `soft_labels` (m, C) float16, as in `data.mrm.Mrm`.
    """

    def __init__(
        self,
        texts: TextStore,
        gt: ImageStore | None,
        detected: ImageStore | None,
        *,
        part: Part,
        task: VcrPretrainTask,
        wrong_picture: bool = False,
        masking: Masking = "conditional",
        mrm_prob: float = 0.15,
    ):
        """`masking`: mask what `task` predicts ("conditional"), or words and regions ("joint"). `mrm_prob`: the
        probability that a region is masked. See `VcrData` for the others."""
        self.task = task
        super().__init__(texts, gt, detected, part=part, wrong_picture=wrong_picture, require_labels=True)
        self.masking, self.mrm_prob = masking, mrm_prob
        require_soft_labels(task, gt, detected)

    def example(self, row: Sequence[int], rng: np.random.Generator) -> Example:
        """Build one sequence with masked words or regions, or both when `masking` is joint."""
        text, *pictures = row
        meta, words, joint = self.texts.meta, self.task == "mlm", self.masking == "joint"
        image = one_image(self.images(pictures, soft_labels=self.task in ("mrc", "mrckl")))
        parts, labels, places = self._parts(text), np.empty(0, np.int64), np.empty(0, np.int64)
        if words or joint:
            parts, places, labels = mask_parts(parts, meta.mask, meta.v_range, rng)
        input_ids, types = vcr_text(meta, parts, "own")
        mask = mask_regions(len(image.feat), rng, self.mrm_prob) if joint or not words else None
        if words:
            seq = Seq(input_ids=input_ids, images=[image], txt_type_ids=types, img_mask=mask)
            seq.targets["mlm_labels"], seq.unit_targets["mlm_index"] = labels, places
        else:
            assert mask is not None
            seq = masked_regions(input_ids, image, mask, task=self.task, txt_type_ids=types)
        return Example(self.id(text), [seq])

    def _parts(self, text: int) -> list[np.ndarray]:
        """The word pieces of the question, the right answer and, for "qar", the right rationale."""
        record = self.record(text, require_labels=True)
        parts = [record["input_ids"], record["input_ids_as"][record["qa_target"]]]
        if self.part == "qar":
            parts.append(record["input_ids_rs"][record["qar_target"]])
        return [np.array(tokens, np.int64) for tokens in parts]


def mask_parts(
    parts: list[np.ndarray], mask_id: int, v_range: tuple[int, int], rng: np.random.Generator
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Mask each part separately, at least one word in each.

    Returns the masked copies, the positions (m,) of the masked tokens in the sequence of `vcr_text`, and the word
    pieces (m,) that they replaced.
    """
    masked_parts, places, labels, start = [], [], [], 1
    for tokens in parts:
        masked_tokens, masked_places = mask_words(tokens, mask_id, v_range, rng)
        masked_parts.append(masked_tokens)
        places.append(start + masked_places)
        labels.append(tokens[masked_places])
        start += len(tokens) + 1
    return masked_parts, np.concatenate(places), np.concatenate(labels)


def one_image(images: list[Image]) -> Image:
    """Join the regions of several images into one image, because region targets need sequences of one image."""
    if len(images) == 1:
        return images[0]
    labels = [image.soft_labels for image in images if image.soft_labels is not None]
    return Image(
        key=tuple(image.key for image in images),
        feat=np.concatenate([image.feat for image in images]),
        pos=np.concatenate([image.pos for image in images]),
        soft_labels=np.concatenate(labels) if labels else None,
    )
