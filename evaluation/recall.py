"""Image-text retrieval: recall of the right picture for a text, and of a right text for a picture.

T texts, I pictures. A matrix of scores may have 125 million entries (COCO's 5,000 pictures and 25,010 texts): ranks
are counted, not sorted, a block of rows at a time.

Ties count against the model: a right one that shares its score with n wrong ones ranks behind all n. So equal scores
earn nothing, whatever the order of rows and columns.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from utils.errors import InputError

BLOCK_ROWS = 1024  # rows of the matrix at a time
KS = (1, 5, 10)


def rank_of_first(scores: np.ndarray) -> np.ndarray:
    """(T,) the rank, from 0, of each row's first score among the row `scores` (T, N): the right one comes first."""
    scores = np.asarray(scores, np.float32)
    check_finite_block(scores, 0)
    return (scores >= scores[:, :1]).sum(1) - 1


def recall(ranks: np.ndarray, prefix: str) -> dict[str, float]:
    """`{prefix}_r1`, `_r5`, `_r10`: shares of `ranks` (from 0) below k; and their mean, `{prefix}_r_mean`."""
    shares = {f"{prefix}_r{k}": float((ranks < k).mean()) for k in KS}
    return shares | {f"{prefix}_r_mean": sum(shares.values()) / len(KS)}


def retrieval_recalls(scores: np.ndarray, txt_images: np.ndarray) -> dict[str, float]:
    """Recalls as fractions, under the release's names: `img_…` finds pictures, `txt_…` finds texts.

    `scores` (T, I); `txt_images` (T,) is the column of each text's own picture. Each text and each picture that has
    a text is one query; a picture's rank is that of the best of its own texts among all the others'.
    """
    txt_images = np.asarray(txt_images, np.int64)
    check_columns(scores, txt_images)
    img_ranks, txt_ranks = match_ranks(scores, txt_images)
    recalls = recall(txt_ranks, "txt") | recall(img_ranks, "img")
    return recalls | {"r_mean": (recalls["txt_r_mean"] + recalls["img_r_mean"]) / 2}


def match_ranks(scores: np.ndarray, txt_images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks from 0: (T,) of each text's picture among pictures; of each picture's best text among other texts.

    The second has an entry for each picture that has a text, in column order.
    """
    texts, images = scores.shape
    match_scores = np.asarray(scores[np.arange(texts), txt_images], np.float32)  # (T,) of each text's own picture
    check_finite_block(match_scores[:, None], 0)
    best_scores = np.full(images, np.inf, np.float32)  # (I,) of own texts; no text: no score reaches it
    has_text = np.bincount(txt_images, minlength=images) > 0
    best_scores[has_text] = -np.inf
    np.maximum.at(best_scores, txt_images, match_scores)
    img_ranks, txt_ranks = np.empty(texts, np.int64), np.zeros(images, np.int64)
    for start in range(0, texts, BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        block = np.asarray(scores[rows], np.float32)
        check_finite_block(block, start)
        img_ranks[rows] = (block >= match_scores[rows, None]).sum(1) - 1
        txt_ranks += (block >= best_scores).sum(0)
    # A picture's own texts are no rivals.
    txt_ranks -= np.bincount(txt_images[match_scores >= best_scores[txt_images]], minlength=images)
    return img_ranks, txt_ranks[has_text]


def check_columns(scores: np.ndarray, txt_images: np.ndarray) -> None:
    """`InputError` unless every row has its picture's column."""
    if scores.ndim != 2 or scores.shape[0] != len(txt_images) or not scores.size:
        raise InputError("scores do not fit the texts", found=scores.shape, expected=f"({len(txt_images)}, pictures)")
    if txt_images.min() < 0 or txt_images.max() >= scores.shape[1]:
        raise InputError("a text's picture is not among the scored ones", found=f"columns 0..{scores.shape[1] - 1}")


def check_finite_block(block: np.ndarray, start: int) -> None:
    """`InputError` naming the first row that holds NaN or infinity; `start` is the number of the block's first."""
    bad_rows = np.flatnonzero(~np.isfinite(block).all(axis=1))
    if len(bad_rows):
        raise InputError("scores that are not finite", key=f"row {start + bad_rows[0]}", expected="finite numbers")


def picture_columns(
    txt_ids: Sequence[str], img_ids: Sequence[str], txt2img: Mapping[str, str], file: object = None
) -> np.ndarray:
    """(T,) the column, in `img_ids`, of each text's picture by `txt2img`; `InputError` names what is not there."""
    column_by_id = {id_: column for column, id_ in enumerate(img_ids)}
    unknown_ids = [id_ for id_ in txt_ids if txt2img.get(id_) not in column_by_id]
    if unknown_ids:
        raise InputError(
            "a scored text has no picture, or one that was not scored",
            file=file,
            key=unknown_ids[0],
            found=f"{len(unknown_ids)} of {len(txt_ids)} texts; this one's picture: {txt2img.get(unknown_ids[0])}",
            expected="for every text one of the scored pictures",
            remedy="check that scores and annotations are of one split",
        )
    return np.array([column_by_id[txt2img[id_]] for id_ in txt_ids], np.int64)
