"""Models with more token types or words than the checkpoints that they start from (NLVR2, VCR).

A checkpoint of pre-training has 2 token types and the vocabulary's words. NLVR2 has 3 types; VCR 4 types and 81 more
words (paper A.2). `model.weights` copies the rows that a checkpoint has and fills the new ones as this file says.
"""

from dataclasses import dataclass

from model.uniter import UniterConfig


@dataclass(frozen=True)
class Growth:
    """A weight that a checkpoint may bring with fewer rows, exactly `old_rows`."""

    old_rows: int
    source_row: int | None = None  # the row that the new ones are copies of; None: they stay as initialised


@dataclass(kw_only=True)
class GrownConfig(UniterConfig):
    """Sizes of a model that has more types or words than its checkpoint; made by `grown_config`."""

    old_types: int = 2
    old_words: int = 0
    source_type: int = 0  # the type that new ones start as copies of


def grown_config(config: UniterConfig, types: int, words: int = 0, source_type: int = 0) -> GrownConfig:
    """`config` with `types` token types in all and `words` more words; new types start as copies of `source_type`.

    NLVR2 has 3 types (the third a copy of the picture's, 1); VCR 4 (copies of the text's, 0) and 81 more words.
    """
    new_sizes = {"type_vocab_size": types, "vocab_size": config.vocab_size + words}
    old_sizes = {"old_types": config.type_vocab_size, "old_words": config.vocab_size}
    return GrownConfig(**{**vars(config), **new_sizes, **old_sizes, "source_type": source_type})


def growth(config: UniterConfig) -> dict[str, Growth]:
    """By name, the weights that a checkpoint may bring with fewer rows than a model of these sizes has.

    They are the embeddings and, in pre-training, the bias and the tied decoder of the masked-word head.
    """
    if not isinstance(config, GrownConfig):
        return {}
    words = ("uniter.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight", "cls.predictions.bias")
    types = {"uniter.embeddings.token_type_embeddings.weight": Growth(config.old_types, config.source_type)}
    return types | {name: Growth(config.old_words) for name in words}
