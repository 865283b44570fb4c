"""Models with more token types or words than the checkpoint that they start from (NLVR2, VCR).

A checkpoint of pre-training has 2 token types and the words of the vocabulary. NLVR2 has 3 types, VCR 4 (paper A.2:
"the 'modality embedding' is extended"). VCR also has 81 more words, the release's tags for persons and objects.
`model.weights` copies the rows that the checkpoint has, and fills the new rows by the rules in this file.
"""

from dataclasses import dataclass

from model.uniter import UniterConfig


@dataclass(frozen=True)
class Growth:
    """How a weight grows while it is loaded from a checkpoint that has fewer rows."""

    old_rows: int  # the number of rows that the checkpoint must have
    source_row: int | None = None  # new rows are copies of this row; None: they keep their random values


@dataclass(kw_only=True)
class GrownConfig(UniterConfig):
    """The sizes of a model with more types or words than its checkpoint. `grown_config` makes it."""

    old_types: int = 2  # token types of the checkpoint
    old_words: int = 0  # words of the checkpoint
    source_type: int = 0  # new types start as copies of this type


def grown_config(config: UniterConfig, types: int, words: int = 0, source_type: int = 0) -> GrownConfig:
    """`config` with at least `types` token types and `words` additional words; new types are copies of `source_type`.

    NLVR2: 3 types, the new one a copy of the image type 1. VCR: 4 types, copies of the text type 0, and 81 words.
    """
    new_sizes = {"type_vocab_size": max(types, config.type_vocab_size), "vocab_size": config.vocab_size + words}
    old_sizes = {"old_types": config.type_vocab_size, "old_words": config.vocab_size}
    return GrownConfig(**{**vars(config), **new_sizes, **old_sizes, "source_type": source_type})


def growth(config: UniterConfig) -> dict[str, Growth]:
    """The weights of a model of these sizes that may grow while they are loaded, by name; {} unless `config` is grown.

    They are the word and type embeddings and, in pre-training, the bias and the tied decoder of the masked-word head.
    """
    if not isinstance(config, GrownConfig):
        return {}
    words = ("uniter.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight", "cls.predictions.bias")
    types = {"uniter.embeddings.token_type_embeddings.weight": Growth(config.old_types, config.source_type)}
    return types | {name: Growth(config.old_words) for name in words}
