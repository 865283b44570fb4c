"""The counts in examples/nlvr1/README.md, of the grammar, the statements and dev, from a finished `run`.

python -m examples.nlvr1.report --output nlvr1/run
"""

import runpy
from pathlib import Path

if __name__ == "__main__" and not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts/by_path.py"))

from collections import Counter
from dataclasses import dataclass

import numpy as np

from data.img_store import ImageStore
from data.text_image import rows_of_pictures
from data.txt_store import TextStore
from examples.nlvr1.panels import objects, shows_towers
from examples.nlvr1.parsing import Habits, grammar
from examples.nlvr1.prepare import MAX_OBJECTS
from examples.nlvr1.scene import Scene
from examples.nlvr1.words import Vocabulary
from utils.config import parse
from utils.errors import exit_on_input_error
from utils.files import read_json
from utils.options import option

WordIds = tuple[int, ...]


@dataclass(kw_only=True)
class ReportConfig:
    """Options of the report."""

    output: str = option("nlvr1", help="output folder of a finished examples.nlvr1.run")


class LabelledTexts:
    """The texts of a store: ids, word ids, sentences, labels, and, with `images`, the objects of their pictures."""

    def __init__(self, path: Path, images: Path | None = None):
        texts, vocabulary = TextStore(path), Vocabulary()
        records = [texts.read(i) for i in range(len(texts))]
        self.ids = [texts.id(i) for i in range(len(texts))]
        self.word_ids: list[WordIds] = [tuple(record["input_ids"]) for record in records]
        self.labels = np.array([record["target"] for record in records], bool)
        self.sentences = [vocabulary.decode(list(ids)) for ids in self.word_ids]
        self.picture_objects: list[np.ndarray] = []
        if images:
            store = ImageStore(images, max_bb=MAX_OBJECTS, min_bb=1)
            pictures = [store.read(row) for row in rows_of_pictures(texts, store).tolist()]
            self.picture_objects = [objects(picture.features, picture.pos[:, :4]) for picture in pictures]


def report_grammar(train: LabelledTexts, held_out: LabelledTexts) -> None:
    """How much of either the grammar reads, and how often it says what the labels say."""
    count = sum(len(rules) for rules in grammar().rules.values())
    print(f"grammar: {len(grammar().rules)} names, {count} wordings")
    for towers, name in ((True, "towers"), (False, "scattered things")):
        rows = [i for i, picture in enumerate(train.picture_objects) if shows_towers(picture) == towers]
        habits = Habits(sorted(train.sentences[i] for i in rows))
        verdicts = [verdict(habits, train, i) for i in rows]
        can_read = {train.word_ids[i]: truth is not None for i, truth in zip(rows, verdicts)}
        hits = [truth == train.labels[i] for i, truth in zip(rows, verdicts) if truth is not None]
        print(f"  {name}: reads {sum(can_read.values())} of {len(can_read)} distinct sentences,", end=" ")
        print(f"{share(hits)} of the pictures as labelled")
        rows = [i for i, picture in enumerate(held_out.picture_objects) if shows_towers(picture) == towers]
        hits = [(verdict(habits, held_out, i) is not False) == held_out.labels[i] for i in rows]
        print(f"    as a judge of the held-out sentences about them, true where unread: {share(hits)} of {len(hits)}")


def verdict(habits: Habits, texts: LabelledTexts, i: int) -> bool | None:
    """Whether a text is true of its picture by the grammar; None where it cannot be read."""
    tree = habits.parse(texts.sentences[i])
    return None if tree is None else bool(tree.meaning(Scene([texts.picture_objects[i]]))[0])


def share(hits: list[bool]) -> str:
    """The share of hits in percent, as text."""
    return f"{100 * np.mean(hits):.1f} %" if hits else "none"


def main(argv: list[str] | None = None) -> None:
    config, _ = parse(ReportConfig, argv)
    root, stores = Path(config.output), Path(config.output) / "stores"
    pictures = stores / "img_db" / "train"
    train, held_out = (LabelledTexts(stores / "txt_db" / f"{name}.db", pictures) for name in ("train", "held_out"))
    dev, statements = (LabelledTexts(stores / "txt_db" / f"{name}.db") for name in ("dev", "statements"))
    report_grammar(train, held_out)
    statement_ids = statements.word_ids[::2]  # a statement has two texts in its store, true and false
    in_train, in_statements = set(train.word_ids), set(statement_ids)
    copies = share([ids in in_train for ids in statement_ids])
    print(f"statements: {len(statement_ids)}, {len(in_statements)} distinct, {copies} a training sentence word by word")
    for name, part in (("held-out", held_out), ("dev", dev)):
        in_part = set(part.word_ids)
        print(
            f"  of {len(in_part)} distinct {name} sentences {len(in_part & in_train)} are training sentences,", end=" "
        )
        print(f"{len((in_part - in_train) & in_statements)} are among the statements only")
    for file in sorted(root.glob("finetune_*/results_dev/results_best_all.json")):
        answers = read_json(file)["answers"]
        origins = [
            "training" if ids in in_train else "statements" if ids in in_statements else "new" for ids in dev.word_ids
        ]
        hits = [(answers[id_] == "true") == label for id_, label in zip(dev.ids, dev.labels.tolist())]
        sizes = Counter(origins)
        accuracy = {name: share([hit for hit, origin in zip(hits, origins) if origin == name]) for name in sizes}
        print(f"{file.parts[-3]}: dev {share(hits)}; by where the sentence was seen:", end=" ")
        print(", ".join(f"{name} {accuracy[name]} of {sizes[name]}" for name in sorted(sizes)))


if __name__ == "__main__":
    exit_on_input_error(main)
