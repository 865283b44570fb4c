"""Mining of hard negatives for retrieval: every so many steps the whole training set is scored anew (paper A.2).

Legend: T texts, P pictures, k candidates of a text; columns as in `data.retrieval`.
"""

import numpy as np

from data.retrieval import Retrieval


def draw_candidates(captions: Retrieval, size: int, rng: np.random.Generator) -> np.ndarray:
    """(T, k) int32 columns: for every text `size` random pictures that are not its own, or all others if fewer."""
    return np.stack([captions.other_columns(text, size, rng) for text in range(len(captions))]).astype(np.int32)


def mine_hardest(scores: np.ndarray, columns: np.ndarray, pictures: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """What the model takes for right and is not: of scored pairs that do not match, the `size` best for each side.

    `scores` (T, k) of every text with the pictures in `columns` (T, k), of `pictures` = P in all → (T, size) columns
    for each text, (P, size) texts for each picture, both int32, highest score first, -1 where there are no more.
    """
    texts, candidates = columns.shape
    best = np.argsort(-scores, axis=1, kind="stable")[:, :size]
    for_texts = np.full((texts, size), -1, np.int32)
    for_texts[:, : best.shape[1]] = np.take_along_axis(columns, best, axis=1)
    order = np.lexsort((-scores.ravel(), columns.ravel()))  # by picture, highest first; ties in the texts' order
    picture = columns.ravel()[order]
    rank = np.arange(len(picture)) - np.searchsorted(picture, np.arange(pictures), "left")[picture]
    for_pictures = np.full((pictures, size), -1, np.int32)
    hard = rank < size
    for_pictures[picture[hard], rank[hard]] = order[hard] // candidates
    return for_texts, for_pictures
