"""Options that name text and image stores under the release's keys: of each split in finetuning, of each corpus."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from utils.errors import InputError
from utils.options import MOST, option

PATH: dict[str, Any] = {"path": True, "training_only": True}


@dataclasses.dataclass(kw_only=True)
class DataEntry:
    """One corpus of pre-training: its text stores, the image store of each, and the tasks to train on them."""

    name: str  # used in the log: loss/TASK_NAME
    db: list[str] = option(path=True)  # text stores
    img: list[str | None] | None = option(None, path=True)  # null: text without images
    tasks: list[str] = option([])  # such as mlm, itm
    # How often each task is drawn, relative to the others; null: equally often.
    mix_ratio: list[int] | None = option(None, at_least=0, at_most=MOST)


@dataclasses.dataclass(kw_only=True)
class ListedStoreOptions:
    """Stores of a task with several training stores: VQA, VCR, retrieval."""

    train_txt_dbs: list[str] = option([], **PATH, help="text LMDBs of the training split (required for training)")
    train_img_dbs: list[str] = option([], **PATH, help="image LMDBs of the training split, one for each text LMDB")
    val_txt_db: str | None = option(None, **PATH, help="text LMDB of the validation split; None: do not validate")
    val_img_db: str | None = option(None, **PATH, help="image LMDB of the validation split")
    test_txt_db: str | None = option(None, **PATH, help="text LMDB of a test split with labels; None: do not test")
    test_img_db: str | None = option(None, **PATH, help="image LMDB of the test split")

    def db_pairs(self, split: str) -> list[tuple[str, str]]:
        """The (text LMDB, image LMDB) paths of a split: "train", "val" or "test".

        Empty where the options name no stores for it. Raises `InputError` where a text LMDB has no image LMDB, and for
        "train" also where no stores are named.
        """
        if split == "train":
            if not self.train_txt_dbs and not self.train_img_dbs:
                raise no_training_data("train_txt_dbs, train_img_dbs")
            check_paired({"train_txt_dbs": self.train_txt_dbs, "train_img_dbs": self.train_img_dbs})
            return list(zip(self.train_txt_dbs, self.train_img_dbs))
        return one_pair(self, split)


@dataclasses.dataclass(kw_only=True)
class SplitStoreOptions:
    """Stores of a task with one training store: NLVR2, visual entailment, referring expressions."""

    train_txt_db: str | None = option(None, **PATH, help="text LMDB of the training split (required for training)")
    train_img_db: str | None = option(None, **PATH, help="image LMDB of the training split")
    val_txt_db: str | None = option(None, **PATH, help="text LMDB of the validation split; None: do not validate")
    val_img_db: str | None = option(None, **PATH, help="image LMDB of the validation split")
    test_txt_db: str | None = option(None, **PATH, help="text LMDB of a test split with labels; None: do not test")
    test_img_db: str | None = option(None, **PATH, help="image LMDB of the test split")

    def db_pairs(self, split: str) -> list[tuple[str, str]]:
        """The (text LMDB, image LMDB) paths of a split: "train", "val" or "test".

        Empty where the options name no stores for it. Raises `InputError` where only one of the two is named, and for
        "train" also where none is.
        """
        pairs = one_pair(self, split)
        if split == "train" and not pairs:
            raise no_training_data("train_txt_db, train_img_db")
        return pairs


def no_training_data(keys: str) -> InputError:
    """The error where neither of two options, `keys`, names training data."""
    return InputError(
        "no training data was given",
        key=keys,
        found="neither is set",
        expected="a text LMDB and its image LMDB",
        remedy="set both, in the JSON file given with --config or as flags",
    )


def one_pair(config: ListedStoreOptions | SplitStoreOptions, split: str) -> list[tuple[str, str]]:
    """The values of `{split}_txt_db` and `{split}_img_db` as one pair, or []; `InputError` if only one is set."""
    texts, images = getattr(config, f"{split}_txt_db"), getattr(config, f"{split}_img_db")
    if (texts is None) != (images is None):
        raise InputError(
            "a split needs both a text LMDB and an image LMDB, and one is missing",
            key=f"{split}_txt_db, {split}_img_db",
            found=f"{texts} and {images}",
            expected="a path for both, or for neither",
            remedy=f"set {split}_img_db" if images is None else f"set {split}_txt_db",
        )
    return [] if texts is None else [(texts, images)]


def check_paired(lists: Mapping[str, Sequence[Any]]) -> None:
    """`InputError` unless two options (name to list) have the same number of entries, at least one."""
    (first_name, first), (second_name, second) = lists.items()
    if not first and not second:
        raise InputError(
            f"{first_name} and {second_name} are empty",
            key=f"{first_name}, {second_name}",
            found="no entries",
            expected="at least one entry in each",
            remedy="add an entry to each",
        )
    if len(first) != len(second):
        raise InputError(
            "two options must have the same number of entries",
            key=f"{first_name}, {second_name}",
            found=f"{len(first)} and {len(second)} entries",
            expected="the same number in both",
            remedy=f"give one entry of {second_name} for each entry of {first_name}",
        )


def check_lists(sources: Sequence[DataEntry]) -> None:
    """`InputError` unless the lists of each dataset fit: an image store for a text store, a ratio for a task."""
    for source in sources:
        if "@" in source.name:
            raise InputError(
                "the name of a dataset has an @, which marks controls in scores",
                key="name",
                found=source.name,
                remedy="choose another name",
            )
        images: list[Any] = source.img or [None] * len(source.db)
        ratios: list[Any] = source.mix_ratio or [1] * len(source.tasks)
        check_paired({f"db of {source.name}": source.db, f"img of {source.name}": images})
        check_paired({f"tasks of {source.name}": source.tasks, f"mix_ratio of {source.name}": ratios})


def check_mix(sources: Sequence[DataEntry]) -> None:
    """`InputError` if the `mix_ratio` of datasets, the training data, is 0 for every task, so that none is drawn."""
    ratios = [source.mix_ratio or [1] * len(source.tasks) for source in sources]
    if any(ratios) and not any(weight for ratio in ratios for weight in ratio):
        raise InputError(
            "no task would ever be drawn",
            key="train_datasets: mix_ratio",
            found="0 for every task",
            expected="a number above 0 for one task at least",
            remedy="set mix_ratio to how often each task is drawn, relative to the others",
        )
