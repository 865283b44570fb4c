"""Visual entailment on the demo world: a picture takes the place of the premise and entails the hypothesis or not.

No picture shows weight, warmth or age. A hypothesis about them can be neutral, depending on a claim about the picture:

    hypothesis                          the claim is true   false
    "a red circle"                      entailment          contradiction
    "a red circle and a heavy thing"    neutral             contradiction
    "a red circle or a heavy thing"     entailment          neutral

Every hypothesis gets one picture for which its claim is true and one for which it is false. Each of the three forms is
a third of all hypotheses. So the three labels are equally frequent, and a model that reads the hypothesis alone is
right at most half of the time.
"""

from typing import Any

import numpy as np

from scripts.demo_world.claims import Claim, make_claim
from scripts.demo_world.gallery import Gallery
from scripts.demo_world.words import article, say
from utils.formats import VE_LABELS

FORMS = {
    "alone": ("entailment", "contradiction"),
    "and": ("neutral", "contradiction"),
    "or": ("entailment", "neutral"),
}
UNSEEN = ("heavy", "warm", "old", "wooden", "soft", "expensive")
SHORT = ("pair", "one", "number")  # claims without a verb, which may come before "and a heavy thing"
TRIES = 20  # claims to try until one is true for some pictures and false for others


def hypotheses(
    gallery: Gallery, captions: dict[int, list[str]], rng: np.random.Generator, n: int, votes: int
) -> list[dict[str, Any]]:
    """Make about `n` lines of SNLI-VE's jsonl, each with `votes` annotators; the first annotator is the author."""
    lines: list[dict[str, Any]] = []
    counts: dict[str, int] = {}
    for k in range(n // 2):
        form = list(FORMS)[k % len(FORMS)]
        for _ in range(TRIES):
            claim = make_claim(gallery, rng)
            pictures = claim.pick(True, rng), claim.pick(False, rng)
            if None not in pictures:
                break
        else:
            continue
        text = _phrase(form, claim, rng)
        for picture, label in zip(pictures, FORMS[form]):
            assert picture is not None
            image_id = gallery.ids[picture]
            number = int(rng.integers(len(captions[image_id])))
            caption_id = (
                f"{image_id}.jpg#{number}"  # SNLI's names, which do not depend on the name of the picture's file
            )
            key = f"{caption_id}r%d{label[0]}"
            counts[key] = counts.get(key, 0) + 1
            ids = {"Flickr30K_ID": str(image_id), "captionID": caption_id, "pairID": key % counts[key]}
            sentences = {"sentence1": captions[image_id][number], "sentence2": text}
            lines.append(ids | sentences | {"gold_label": label, "annotator_labels": _vote(label, rng, votes)})
    return [lines[k] for k in rng.permutation(len(lines))]


def _phrase(form: str, claim: Claim, rng: np.random.Generator) -> str:
    if form == "alone":
        return claim.text
    unseen = UNSEEN[int(rng.integers(len(UNSEEN)))]
    if form == "and" and claim.kind == "pair" and rng.random() < 0.3:
        return article(f"{unseen} {claim.text.split(None, 1)[1]}")
    other = article(f"{unseen} {say('thing', rng)}")
    parts = (claim.text, other) if claim.kind in SHORT and rng.random() < 0.5 else (other, claim.text)
    return f" {form} ".join(parts)


def _vote(label: str, rng: np.random.Generator, votes: int) -> list[str]:
    """The labels of all annotators: the author's, and the same for the others, except that one may differ."""
    labels = [label] * votes
    if votes > 2 and rng.random() < 0.2:
        labels[int(rng.integers(1, votes))] = VE_LABELS[int(rng.integers(len(VE_LABELS)))]
    return labels
