"""Recall of image-text retrieval: R@1, R@5 and R@10 of the right image for a text, and of a right text for an image.

Legend: T texts, I images. A score matrix may have 125 million entries (COCO: 5,000 images, 25,010 texts), so ranks are
counted block by block, without sorting.

Ties count against the model: a right item that shares its score with n wrong ones ranks behind all n. So equal scores
give no recall, whatever the order of rows and columns.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from utils.errors import InputError

BLOCK_ROWS = 1024  # rows of the matrix that are ranked at a time
KS = (1, 5, 10)


def rank_of_first(scores: np.ndarray) -> np.ndarray:
    """The rank (T,), from 0, of the right item in each row of `scores` (T, N). The right item is in column 0."""
    scores = np.asarray(scores, np.float32)
    check_finite_block(scores, 0)
    return (scores >= scores[:, :1]).sum(1) - 1


def recall(ranks: np.ndarray, prefix: str) -> dict[str, float]:
    """Recalls `{prefix}_r1`, `_r5`, `_r10`, from 0 to 1: shares of `ranks` (from 0) below k. `_r_mean`: their mean."""
    shares = {f"{prefix}_r{k}": float((ranks < k).mean()) for k in KS}
    return shares | {f"{prefix}_r_mean": sum(shares.values()) / len(KS)}


def retrieval_recalls(scores: np.ndarray, txt_images: np.ndarray) -> dict[str, float]:
    """All recalls, from 0 to 1, under the release's names: `img_…` is image retrieval, `txt_…` text retrieval.

    `scores` (T, I); `txt_images` (T,): the column of each text's own image. Each text is one query, and so is each
    image that has a text. The rank of an image is that of its best text among the texts of other images. Raises
    `InputError` for shapes and columns that do not fit and for scores that are not finite.
    """
    txt_images = np.asarray(txt_images, np.int64)
    check_columns(scores, txt_images)
    img_ranks, txt_ranks = match_ranks(scores, txt_images)
    recalls = recall(txt_ranks, "txt") | recall(img_ranks, "img")
    return recalls | {"r_mean": (recalls["txt_r_mean"] + recalls["img_r_mean"]) / 2}


def match_ranks(scores: np.ndarray, txt_images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks from 0: (T,) of each text's image among all images, and of each image's best text among other texts.

    The second array has an entry for each image that has a text, in the order of the columns.
    """
    texts, images = scores.shape
    match_scores = np.asarray(scores[np.arange(texts), txt_images], np.float32)  # (T,) with each text's own image
    check_finite_block(match_scores[:, None], 0)
    best_scores = np.full(images, np.inf, np.float32)  # (I,) best score of its own texts; infinity without a text
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
    # An image's own texts do not count against it.
    txt_ranks -= np.bincount(txt_images[match_scores >= best_scores[txt_images]], minlength=images)
    return img_ranks, txt_ranks[has_text]


def check_columns(scores: np.ndarray, txt_images: np.ndarray) -> None:
    """Raise `InputError` unless `scores` (T, I) has a row for each text, and a column for each text's image."""
    if scores.ndim != 2 or scores.shape[0] != len(txt_images) or not scores.size:
        raise InputError("scores do not fit the texts", found=scores.shape, expected=f"({len(txt_images)}, images)")
    if txt_images.min() < 0 or txt_images.max() >= scores.shape[1]:
        raise InputError(
            "the image of a text is not among the scored images",
            found=f"columns {txt_images.min()} to {txt_images.max()}",
            expected=f"columns 0 to {scores.shape[1] - 1}",
        )


def check_finite_block(block: np.ndarray, start: int) -> None:
    """Raise `InputError` for the first row with NaN or infinity. `start`: the number of the block's first row."""
    bad_rows = np.flatnonzero(~np.isfinite(block).all(axis=1))
    if len(bad_rows):
        raise InputError(
            "scores are not finite",
            key=f"row {start + bad_rows[0]}",
            found="NaN or infinity",
            expected="finite numbers",
            remedy="the checkpoint or the precision may be the cause: try --precision fp32",
        )


def picture_columns(
    txt_ids: Sequence[str], img_ids: Sequence[str], txt2img: Mapping[str, str], file: object = None
) -> np.ndarray:
    """The column (T,) in `img_ids` of each text's image, which `txt2img` names. `file` is for the error.

    Raises `InputError` for a text that has no image, or whose image is not in `img_ids`.
    """
    column_by_id = {id_: column for column, id_ in enumerate(img_ids)}
    unknown_ids = [id_ for id_ in txt_ids if txt2img.get(id_) not in column_by_id]
    if unknown_ids:
        raise InputError(
            "a scored text has no image, or an image that was not scored",
            file=file,
            key=unknown_ids[0],
            found=f"{len(unknown_ids)} of {len(txt_ids)} texts; the image of this one: {txt2img.get(unknown_ids[0])}",
            expected="a scored image for every text",
            remedy="check that scores and annotations belong to the same split",
        )
    return np.array([column_by_id[txt2img[id_]] for id_ in txt_ids], np.int64)
