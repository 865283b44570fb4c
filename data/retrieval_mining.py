"""Mining of hard negatives for retrieval, from scores of random pairs of the whole training set (paper A.2).

Legend: T texts, P images, k candidates for each text; columns as in `data.retrieval`.
"""

import numpy as np

from data.retrieval import Retrieval


def draw_candidates(captions: Retrieval, size: int, rng: np.random.Generator) -> np.ndarray:
    """(T, k) int32 columns: `size` distinct random images for each text, never its own; k < `size` in a small store."""
    return np.stack([captions.other_columns(text, size, rng) for text in range(len(captions))]).astype(np.int32)


def mine_hardest(scores: np.ndarray, columns: np.ndarray, pictures: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Select the `size` negatives with the highest scores for each text, and for each image.

    `scores` (T, k): of each text with the images `columns` (T, k), none of them its own. `pictures`: P. Returns (T,
    size) int32 columns for the texts and (P, size) int32 texts for the images, highest score first, filled with -1.
    """
    texts, candidates = columns.shape
    best = np.argsort(-scores, axis=1, kind="stable")[:, :size]
    for_texts = np.full((texts, size), -1, np.int32)
    for_texts[:, : best.shape[1]] = np.take_along_axis(columns, best, axis=1)
    order = np.lexsort((-scores.ravel(), columns.ravel()))  # by image, highest score first; ties in the order of texts
    picture = columns.ravel()[order]
    rank = np.arange(len(picture)) - np.searchsorted(picture, np.arange(pictures), "left")[picture]
    for_pictures = np.full((pictures, size), -1, np.int32)
    hard = rank < size
    for_pictures[picture[hard], rank[hard]] = order[hard] // candidates
    return for_texts, for_pictures
