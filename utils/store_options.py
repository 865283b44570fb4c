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
    train_img_dbs: list[str] = option([], path=True, help="their image LMDBs, one each")
    val_txt_db: str | None = option(None, path=True, help="text LMDB to validate on")
    val_img_db: str | None = option(None, path=True, help="its image LMDB")
    test_txt_db: str | None = option(None, path=True, help="text LMDB to test on, where the task does")
    test_img_db: str | None = option(None, path=True, help="its image LMDB")

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
    train_img_db: str | None = option(None, path=True, help="its image LMDB")
    val_txt_db: str | None = option(None, path=True, help="text LMDB to validate on")
    val_img_db: str | None = option(None, path=True, help="its image LMDB")
    test_txt_db: str | None = option(None, path=True, help="text LMDB to test on, where it has labels")
    test_img_db: str | None = option(None, path=True, help="its image LMDB")

    def db_pairs(self, split: str) -> list[tuple[str, str]]:
        """(text LMDB, image LMDB) of a split, none where the options name none."""
        found = one_pair(self, split)
        if split == "train" and not found:
            raise InputError("nothing to train on", key="train_txt_db, train_img_db", remedy="name both")
        return found


def one_pair(config: Any, split: str) -> list[tuple[str, str]]:
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
    """Two options (by name) that must list as many things, at least one."""
    (first, a), (second, b) = lists.items()
    if len(a) != len(b) or not a:
        raise InputError(
            "two options that belong together differ in length, or are empty",
            key=f"{first}, {second}",
            found=f"{len(a)} and {len(b)} entries",
            expected="as many, at least one",
            remedy=f"give every entry of {first} its own in {second}",
        )
