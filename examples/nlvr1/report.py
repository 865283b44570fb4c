"""What the page says of the grammar, the statements and dev, counted from the stores and answers of a finished `run`.

python -m examples.nlvr1.report --output nlvr1/run
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.img_store import ImageStore
from data.text_image import join
from data.txt_store import TextStore
from examples.nlvr1.panels import objects
from examples.nlvr1.parsing import Habits, grammar
from examples.nlvr1.prepare import MOST_OBJECTS
from examples.nlvr1.scene import Scene
from examples.nlvr1.statements import stacked
from examples.nlvr1.words import Vocabulary
from utils.config import parse
from utils.errors import exit_on_input_error
from utils.files import read_json
from utils.options import option

Words = tuple[int, ...]


@dataclass(kw_only=True)
class ReportConfig:
    """Options of the report."""

    output: str = option("nlvr1", help="folder of a finished examples.nlvr1.run")


class Judged:
    """The texts of a store: ids, words, labels, and, with `images`, the objects of their pictures."""

    def __init__(self, path: Path, images: Path | None = None):
        texts, vocabulary = TextStore(path), Vocabulary()
        records = [texts.read(i) for i in range(len(texts))]
        self.ids = [texts.id(i) for i in range(len(texts))]
        self.words: list[Words] = [tuple(record["input_ids"]) for record in records]
        self.labels = np.array([record["target"] for record in records], bool)
        self.said = [vocabulary.decode(list(words)) for words in self.words]
        self.seen: list[np.ndarray] = []
        if images:
            store = ImageStore(images, max_bb=MOST_OBJECTS, min_bb=1)
            regions = [store.read(row) for row in join(texts, store).tolist()]
            self.seen = [objects(found.features, found.pos[:, :4]) for found in regions]


def read_by_the_grammar(train: Judged, held_out: Judged) -> None:
    """How much of either the grammar reads, and how often it says what the labels say."""
    count = sum(len(rules) for rules in grammar().rules.values())
    print(f"grammar: {len(grammar().rules)} names, {count} wordings")
    for kind, name in ((True, "towers"), (False, "scattered things")):
        rows = [i for i, picture in enumerate(train.seen) if stacked(picture) == kind]
        habits = Habits(sorted(train.said[i] for i in rows))
        told = [verdict(habits, train, i) for i in rows]
        distinct = {train.words[i]: truth is not None for i, truth in zip(rows, told)}
        agreed = [truth == train.labels[i] for i, truth in zip(rows, told) if truth is not None]
        print(f"  {name}: reads {sum(distinct.values())} of {len(distinct)} distinct sentences,", end=" ")
        print(f"{share(agreed)} of the pictures as labelled")
        rows = [i for i, picture in enumerate(held_out.seen) if stacked(picture) == kind]
        right = [(verdict(habits, held_out, i) is not False) == held_out.labels[i] for i in rows]
        print(f"    as a judge of the held-out sentences about them, true where unread: {share(right)} of {len(right)}")


def verdict(habits: Habits, judged: Judged, i: int) -> bool | None:
    """Whether a text is true of its picture by the grammar; None where it cannot be read."""
    tree = habits.parse(judged.said[i])
    return None if tree is None else bool(tree.meaning(Scene([judged.seen[i]]))[0])


def share(hits: list[bool]) -> str:
    return f"{100 * np.mean(hits):.1f} %" if hits else "none"


def main(argv: list[str] | None = None) -> None:
    config, _ = parse(ReportConfig, argv)
    root, stores = Path(config.output), Path(config.output) / "stores"
    pictures = stores / "img_db" / "train"
    train, held_out = (Judged(stores / "txt_db" / f"{name}.db", pictures) for name in ("train", "held_out"))
    dev, statements = (Judged(stores / "txt_db" / f"{name}.db") for name in ("dev", "statements"))
    read_by_the_grammar(train, held_out)
    drawn, known = statements.words[::2], set(train.words)  # each stands there twice, true and false
    said = set(drawn)
    copies = share([words in known for words in drawn])
    print(f"statements: {len(drawn)}, {len(said)} distinct, {copies} a training sentence word by word")
    for name, part in (("held-out", held_out), ("dev", dev)):
        own = set(part.words)
        print(f"  of {len(own)} distinct {name} sentences {len(own & known)} are training sentences,", end=" ")
        print(f"{len((own - known) & said)} are among the statements only")
    for file in sorted(root.glob("finetune_*/results_dev/results_best_all.json")):
        answers = read_json(file)["answers"]
        kinds = ["training" if w in known else "statements" if w in said else "new" for w in dev.words]
        right = [(answers[id_] == "true") == label for id_, label in zip(dev.ids, dev.labels.tolist())]
        sizes = Counter(kinds)
        found = {k: share([hit for hit, kind in zip(right, kinds) if kind == k]) for k in sizes}
        print(f"{file.parts[-3]}: dev {share(right)}; by where the sentence was seen:", end=" ")
        print(", ".join(f"{k} {found[k]} of {sizes[k]}" for k in sorted(sizes)))


if __name__ == "__main__":
    exit_on_input_error(main)
