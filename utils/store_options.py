"""Which stores a task trains and is evaluated on: the options of every finetuning script, under the release's keys."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from utils.errors import InputError
from utils.options import option


@dataclasses.dataclass(kw_only=True)
class ListedStoreOptions:
    """Stores of a task that trains on several (VQA, VCR, retrieval), under the release's keys."""

    train_txt_dbs: list[str] = option([], path=True, help="text LMDBs to train on")
    train_img_dbs: list[str] = option([], path=True, help="image LMDBs of the training texts, one for each text LMDB")
    val_txt_db: str | None = option(None, path=True, help="text LMDB to validate on")
    val_img_db: str | None = option(None, path=True, help="image LMDB of the validation texts")
    test_txt_db: str | None = option(None, path=True, help="text LMDB to test on, where the task has a test")
    test_img_db: str | None = option(None, path=True, help="image LMDB of the test texts")

    def db_pairs(self, split: str) -> list[tuple[str, str]]:
        """(text LMDB, image LMDB) of a split, none where the options name none."""
        if split == "train":
            check_paired({"train_txt_dbs": self.train_txt_dbs, "train_img_dbs": self.train_img_dbs})
            return list(zip(self.train_txt_dbs, self.train_img_dbs))
        return one_pair(self, split)


@dataclasses.dataclass(kw_only=True)
class SplitStoreOptions:
    """Stores of a task that trains on one (NLVR2, VE, referring expressions), under the release's keys."""

    train_txt_db: str | None = option(None, path=True, help="text LMDB to train on")
    train_img_db: str | None = option(None, path=True, help="image LMDB of the training texts")
    val_txt_db: str | None = option(None, path=True, help="text LMDB to validate on")
    val_img_db: str | None = option(None, path=True, help="image LMDB of the validation texts")
    test_txt_db: str | None = option(None, path=True, help="text LMDB to test on, where it has labels")
    test_img_db: str | None = option(None, path=True, help="image LMDB of the test texts")

    def db_pairs(self, split: str) -> list[tuple[str, str]]:
        """(text LMDB, image LMDB) of a split, none where the options name none."""
        pairs = one_pair(self, split)
        if split == "train" and not pairs:
            raise InputError("nothing to train on", key="train_txt_db, train_img_db", remedy="name both")
        return pairs


def one_pair(config: ListedStoreOptions | SplitStoreOptions, split: str) -> list[tuple[str, str]]:
    """`{split}_txt_db` and `{split}_img_db` of `config`: both, or neither."""
    texts, images = getattr(config, f"{split}_txt_db"), getattr(config, f"{split}_img_db")
    if (texts is None) != (images is None):
        raise InputError(
            "a text LMDB without image LMDB, or the other way round",
            key=f"{split}_txt_db, {split}_img_db",
            found=f"{texts} and {images}",
            remedy="name both, or neither",
        )
    return [] if texts is None else [(texts, images)]


def check_paired(lists: Mapping[str, Sequence[Any]]) -> None:
    """`InputError` unless two options (name to list) have as many entries, at least one."""
    (first_name, first), (second_name, second) = lists.items()
    if len(first) != len(second) or not first:
        raise InputError(
            "two options that belong together differ in length, or are empty",
            key=f"{first_name}, {second_name}",
            found=f"{len(first)} and {len(second)} entries",
            expected="as many, at least one",
            remedy=f"give every entry of {first_name} its own in {second_name}",
        )
