"""Opening of a run's stores: each is opened once and checked first, and all must share one vocabulary."""

import os
from pathlib import Path
from typing import Any, Protocol, overload

from data.img_store import ImageStore
from data.txt_store import Meta, TextStore, meta_of
from utils.errors import InputError
from utils.files import read_json, write_json
from utils.formats import TEXT_KEYS
from utils.run_config import RunConfig

GT_VARIANT = {"conf_th": -1, "num_bb": 100}  # all ground-truth boxes of VCR and RE, under the release's fixed number


class ModelSizes(Protocol):
    """The sizes in the model's config that stores are checked against."""

    vocab_size: int
    max_position_embeddings: int
    img_dim: int | None  # the feature width of the image stores; None: that of the first


class Stores:
    """The text and image stores of one run. Each is checked when it is opened; all texts must share one vocabulary."""

    def __init__(self, config: RunConfig, model_config: ModelSizes):
        """`config`: the run's options, which choose the variant of a store (DESIGN section 4). `model_config`: the
        sizes that stores must fit."""
        self.config, self.model_config = config, model_config
        self.img_dim = model_config.img_dim  # the feature width, for which the model is made
        self._width_source: str | Path = config.model_config  # where `img_dim` is from
        self._images: dict[Any, ImageStore] = {}  # by real path and variant
        self.vocabularies: list[tuple[Path, Meta]] = []  # of all text stores, which must agree with each other

    def texts(self, path: str, train: bool = False, *, lengths: str | None = None, n_special: int = 2) -> TextStore:
        """Open and check a text store.

        `train`: leave out texts of more than `max_txt_len` word pieces; evaluation keeps all. `lengths`: the file of
        text lengths, see `TextStore`. `n_special`: how many [CLS] and [SEP] a sequence has. `InputError` when the
        vocabulary is not the model's or the other stores', or a text has more tokens than the model has positions.
        """
        store = TextStore(path, self.config.max_txt_len if train else None, lengths)
        vocab_size, positions = self.model_config.vocab_size, self.model_config.max_position_embeddings
        if store.meta.v_range[1] != vocab_size:
            raise InputError(
                "the text store was made with another vocabulary than the model's",
                file=Path(path) / "meta.json",
                key="v_range",
                found=f"{store.meta.v_range[1]} word pieces",
                expected=f"{vocab_size}, the model's vocab_size",
                remedy="prepare the texts with the vocab.txt that the model was trained with",
            )
        if not len(store):
            raise InputError(
                "every text of the store is longer than max_txt_len, so there is nothing to train on",
                file=path,
                key="max_txt_len",
                found=f"{self.config.max_txt_len} word pieces",
                expected="at least the length of the shortest text",
                remedy="raise max_txt_len, or give another text store",
            )
        if int(store.lens.max()) + n_special > positions:
            raise InputError(
                "a text has more tokens than the model has positions",
                file=path,
                key=store.id(int(store.lens.argmax())),
                found=f"{int(store.lens.max())} word pieces and {n_special} special tokens",
                expected=f"at most {positions} tokens in all",
                remedy="in training lower max_txt_len; else shorten the text or use a model with more positions",
            )
        for source, meta in self.vocabularies:
            check_same_vocabulary(store.meta, Path(path), meta, source)
        self.vocabularies.append((Path(path), store.meta))
        store.check()
        return store

    @overload
    def images(self, path: str, **variant: Any) -> ImageStore: ...

    @overload
    def images(self, path: None, **variant: Any) -> None: ...

    @overload
    def images(self, path: str | None, **variant: Any) -> ImageStore | None: ...

    def images(self, path: str | None, **variant: Any) -> ImageStore | None:
        """Open and check an image store: its files, their sizes and a sample of its records. None when `path` is None.

        `variant`: arguments of `ImageStore` that override the run's options, such as `GT_VARIANT`.
        """
        if path is None:
            return None
        c = self.config
        options: dict[str, Any] = {
            "conf_th": c.conf_th,
            "max_bb": c.max_bb,
            "min_bb": c.min_bb,
            "num_bb": c.num_bb,
            "compressed": c.compressed_db,
            "blind": c.blind,
        }
        options |= variant
        key = (os.path.realpath(path), *sorted(options.items()))
        if key not in self._images:
            self._images[key] = ImageStore(path, **options)
        store = self._images[key]
        self._check_width(store)
        store.check()
        return store

    def _check_width(self, store: ImageStore) -> None:
        """`InputError` unless the store's features are as wide as those of the run's other stores."""
        if self.img_dim is None:
            self.img_dim, self._width_source = store.img_dim, store.folder
        if store.img_dim != self.img_dim:
            raise InputError(
                "the features of an image store have another width than the run's",
                file=store.folder,
                key="features",
                found=f"{store.img_dim} numbers a region",
                expected=f"{self.img_dim}, as in {self._width_source}",
                remedy="use image stores of one extractor, the one that the checkpoint was trained with",
            )

    def write_vocabulary(self, path: Path) -> None:
        """Write the vocabulary's special ids, `v_range` and hash to the JSON file `path`, for `check_against`.

        Also how text was made fit for it. A value that one store does not give is another store's.
        """
        metas = [meta for _, meta in self.vocabularies]
        assert metas
        names = {"CLS": "cls", "SEP": "sep", "MASK": "mask", "UNK": "unk", "v_range": "v_range"}
        names |= {key: key for key in ("vocab_sha256", *TEXT_KEYS)}
        values = {key: [getattr(meta, name) for meta in metas] for key, name in names.items()}
        write_json(path, {key: next((v for v in column if v is not None), None) for key, column in values.items()})

    def check_against(self, checkpoint: str | None) -> None:
        """`InputError` when the run that wrote `checkpoint` used another vocabulary, by its `log/vocab.json`.

        Nothing is checked when that file does not exist.
        """
        if checkpoint is None:
            return
        file = Path(checkpoint).parent.parent / "log" / "vocab.json"
        if file.exists():
            meta = meta_of(file, read_json(file))
            for path, own_meta in self.vocabularies:
                check_same_vocabulary(own_meta, path, meta, file)


def check_same_vocabulary(meta: Meta, path: Path, expected: Meta, source: Path) -> None:
    """`InputError` unless two vocabularies have the same special ids, `v_range` and, where both are known, hash.

    A store of cased text and one of lower-cased text have different vocabularies too, where both say so.
    `path`: the text store of `meta`. `source`: where `expected` is from, for the message.
    """
    for key in ("cls", "sep", "mask", "v_range", "vocab_sha256", *TEXT_KEYS):
        ours, theirs = getattr(meta, key), getattr(expected, key)
        if ours is not None and theirs is not None and ours != theirs:
            raise InputError(
                "two vocabularies must be the same, but they differ",
                file=path if path.suffix == ".json" else path / "meta.json",
                key=key.upper() if key in ("cls", "sep", "mask") else key,
                found=ours,
                expected=f"{theirs}, as in {source}",
                remedy="prepare all texts with one vocab.txt, the one the checkpoint was trained with"
                + (", and with one --do_lower_case or --no-do_lower_case" if key in TEXT_KEYS else ""),
            )
