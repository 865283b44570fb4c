"""The demo data: official formats, the same files for the same seed, true captions, answers that need the picture."""

import json
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

from data.rng import generator
from evaluation.metrics import official_vqa_accuracy
from prepare.annotations import coco_captions, vqa_annotations, vqa_questions
from prepare.tokenizer import WordPiece
from scripts.demo_world import captions, make_demo_data
from scripts.demo_world.questions import COMPLEX, Asker, people_answer
from scripts.demo_world.scene import COLORS, SHAPES, SIZE, make_scene
from scripts.demo_world.words import NUMBERS, PLURALS, SYNONYMS
from utils.errors import InputError

pytestmark = pytest.mark.slow  # it makes the demo's data

SIZES = {"train": 120, "val": 10, "test": 20}


def make(folder, *flags):
    make_demo_data.main(["--output", str(folder), *(f"--n_{k}={n}" for k, n in SIZES.items()), *flags])
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make(tmp_path_factory.mktemp("demo") / "raw")


def load(world, name):
    return json.loads((world / f"{name}.json").read_text())


@pytest.mark.parametrize("split", SIZES)
def test_files_are_what_official_readers_expect(world, split):
    instances, questions = load(world, f"instances_{split}"), load(world, f"questions_{split}")["questions"]
    sentences = coco_captions(world / f"captions_{split}.json")
    assert len(instances["images"]) == SIZES[split] and len(sentences) == 5 * SIZES[split]
    assert len({caption.id for caption in sentences}) == len(sentences)
    files = {path.name for path in (world / "images" / split).iterdir()}
    assert files == {image["file_name"] for image in instances["images"]}
    names = {category["id"] for category in instances["categories"]}
    assert len(names) == len(COLORS) * len(SHAPES)
    boxes = np.array([a["bbox"] for a in instances["annotations"]])
    assert (boxes[:, :2] >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= SIZE).all() and (boxes[:, 2:] > 20).all()
    assert {a["category_id"] for a in instances["annotations"]} <= names
    per_picture = Counter(a["image_id"] for a in instances["annotations"])
    assert set(per_picture.values()) <= set(range(3, 9)) and len(per_picture) == SIZES[split]
    assert all(set(q) == {"image_id", "question_id", "question"} for q in questions)  # no answer among the questions
    answers = vqa_annotations(world / f"annotations_{split}.json")
    assert [a["question_id"] for a in answers] == [q["question_id"] for q in questions]
    for entry in answers:
        assert [answer["answer_id"] for answer in entry["answers"]] == list(range(1, 11))
        votes = Counter(answer["answer"] for answer in entry["answers"])
        assert votes.most_common(1)[0][0] == entry["multiple_choice_answer"]
    assert len(vqa_questions(world / f"questions_{split}.json")) == len(questions) > 5 * SIZES[split]


def test_pictures_show_their_boxes(world):
    instances = load(world, "instances_test")
    names = {c["id"]: c["name"].split() for c in instances["categories"]}
    files = {image["id"]: image["file_name"] for image in instances["images"]}
    distances = []
    for entry in instances["annotations"]:
        color, shape = names[entry["category_id"]]
        x, y, w, h = entry["bbox"]
        middle = (x + w / 2, y + h / 2) if shape != "ring" else (x + w / 2, y + h / 8)
        pixels = np.asarray(Image.open(world / "images" / "test" / files[entry["image_id"]]), float)
        assert pixels.shape == (SIZE, SIZE, 3)
        around = pixels[int(middle[1]) - 3 : int(middle[1]) + 4, int(middle[0]) - 3 : int(middle[0]) + 4].reshape(-1, 3)
        distances.append(np.abs(around - COLORS[color]).max(1).min())  # at least one of its pixels is not texture
    assert np.mean(np.array(distances) < 40) > 0.93  # the others are hidden by another object there


def test_one_seed_is_one_world_on_any_number_of_processes(world, tmp_path):
    def content(folder):
        return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    again, other = make(tmp_path / "again", "--nproc", "1"), make(tmp_path / "other", "--seed", "43")
    assert content(again) == content(world)
    assert load(other, "captions_train") != load(world, "captions_train")
    assert (other / "images/val").exists() and not any(path.name.startswith(".") for path in tmp_path.iterdir())


def test_an_output_with_something_in_it_is_left_alone(world):
    before = (world / "vocab.txt").stat().st_mtime_ns
    with pytest.raises(InputError, match="not empty"):
        make(world)
    assert (world / "vocab.txt").stat().st_mtime_ns == before


def test_the_vocabulary_spells_every_word(world):
    pieces = (world / "vocab.txt").read_text().splitlines()
    assert pieces[:6] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "!"]
    assert len(pieces) == len(set(pieces)) == 1000
    tokenizer = WordPiece(world / "vocab.txt")
    sentences = [c.text for c in coco_captions(world / "captions_train.json")]
    sentences += [q.text for q in vqa_questions(world / "questions_test.json")]
    encoded = [tokenizer.encode(sentence) for sentence in [*sentences, "Unheard-of, (weird) words: zyx?"]]
    assert not any(1 in ids for ids in encoded)
    words = sum(len(sentence.split()) for sentence in sentences)
    spelled = sum(map(len, encoded)) / words  # only misspelt and rare words are split into pieces
    assert 1.0 < spelled < 1.6


# The meanings of the demo's words, written again here, to check sentences against the boxes in the JSON.
MEANING = {word: meaning for meaning, words in SYNONYMS.items() for word in words} | {c: c for c in COLORS}
MEANING |= {PLURALS.get(word, word + "s"): meaning for word, meaning in list(MEANING.items()) if word not in COLORS}
THIRDS = {"on the left": (0, -1), "on the right": (0, 1), "at the top": (1, -1), "at the bottom": (1, 1)}
SIDES = {"leftmost": (0, min), "rightmost": (0, max), "topmost": (1, min), "lowest": (1, max)}
BESIDE = {"left of": (0, 1), "right of": (0, -1), "above": (1, 1), "below": (1, -1)}


def pick(things, phrase):
    """The objects that a phrase such as "a small red disc" may mean; None for textures, which the JSON lacks."""
    for word in re.sub(r"^(an?|the) ", "", phrase).split():
        meaning = MEANING.get(word)
        if meaning in SHAPES:
            things = [t for t in things if t["shape"] == meaning]
        elif meaning in COLORS:
            things = [t for t in things if t["color"] == meaning]
        elif meaning in ("small", "large"):
            things = [t for t in things if (t["side"] > 42) == (meaning == "large")]
        elif meaning not in ("thing",):
            return None
    return things


def holds(things, clause):
    """Whether a clause of a caption is true; None if it is not understood (textures, misspellings, rare words)."""
    beside = "|".join(sorted((w for side in BESIDE for w in SYNONYMS[side]), key=len, reverse=True))
    if found := re.fullmatch(rf"(an? .*) is ({beside}) (an? .*)", clause):
        some, others = pick(things, found[1]), pick(things, found[3])
        if some is None or others is None:
            return None
        axis, sign = BESIDE[MEANING[found[2]]]
        return any(sign * (b["at"][axis] - a["at"][axis]) > 20 for a in some for b in others)
    if found := re.fullmatch(rf"the ({'|'.join(SIDES)}) \w+ is (.*)", clause):
        named, (axis, best) = pick(things, found[2]), SIDES[found[1]]
        return None if named is None else best(things, key=lambda t: t["at"][axis]) in named
    if found := re.fullmatch(r"(?:(more|fewer) (\w+) than|as many (\w+) as) (\w+)", clause):
        first, second = pick(things, found[2] or found[3]), pick(things, found[4])
        if first is None or second is None:
            return None
        difference = len(first) - len(second)
        return {"more": difference > 0, "fewer": difference < 0, None: difference == 0}[found[1]]
    if found := re.fullmatch(rf"({'|'.join(NUMBERS)}) (.*)", clause):
        named = pick(things, found[2])
        return None if named is None else len(named) == NUMBERS.index(found[1])
    found = re.fullmatch(rf"(an? .*?)(?: ({'|'.join(THIRDS)}))?", clause)
    named = pick(things, found[1]) if found else None
    if named is None or not found[2]:
        return None if named is None else bool(named)
    axis, sign = THIRDS[found[2]]
    return any(sign * (thing["at"][axis] - SIZE / 2) > SIZE / 6 - 1 for thing in named)


def answer(things, question):
    """The answer to a question from the boxes in the JSON; None if they do not tell it."""
    if found := re.fullmatch(r"is there (an? .*) \?", question):
        return "yes" if pick(things, found[1]) else "no"
    if found := re.fullmatch(r"how many (.*) are there \?", question):
        named = pick(things, found[1])
        return None if named is None else str(len(named))
    if found := re.fullmatch(r"what color is the (\w+) (?:thing|object|shape) \?", question):
        axis, best = SIDES[found[1]]
        return best(things, key=lambda t: t["at"][axis])["color"]
    if found := re.fullmatch(r"what (color|shape) is the (.*) \?", question):
        (thing,) = pick(things, found[2])
        return thing[found[1]]
    if found := re.fullmatch(r"are there more (\w+) than (\w+) \?", question):
        return "yes" if len(pick(things, found[1])) > len(pick(things, found[2])) else "no"
    if found := re.fullmatch(r"is the (.*) bigger than the (.*) \?", question):
        (one,), (two,) = pick(things, found[1]), pick(things, found[2])
        return "yes" if one["side"] > two["side"] else "no"
    for side, (axis, sign) in BESIDE.items():
        for said in SYNONYMS[side]:
            if found := re.fullmatch(rf"is the ([a-z ]+) {said} the ([a-z ]+) \?", question):
                if " to" in found[1]:
                    continue
                (one,), (two,) = pick(things, found[1]), pick(things, found[2])
                return "yes" if sign * (two["at"][axis] - one["at"][axis]) > 0 else "no"
    return None


@pytest.fixture(scope="module")
def things(world):
    """Image id → its objects, of the training split."""
    instances, found = load(world, "instances_train"), defaultdict(list)
    names = {c["id"]: c["name"].split() for c in instances["categories"]}
    for entry in instances["annotations"]:
        color, shape = names[entry["category_id"]]
        x, y, w, h = entry["bbox"]
        found[entry["image_id"]].append({"color": color, "shape": shape, "side": w, "at": (x + w / 2, y + h / 2)})
    return found


def test_captions_are_true(world, things):
    judged = Counter()
    for caption in coco_captions(world / "captions_train.json"):
        for clause in re.split(" , | and ", caption.text.removesuffix(" .")):
            verdict = holds(things[caption.image_id], clause)
            assert verdict is not False, (caption, clause)
            judged[verdict] += 1
    assert judged[True] > 700 and judged[True] > judged[None]  # most clauses are understood


def test_textures_are_true_of_the_one_object_that_is_named():
    said = Counter()
    for k in range(300):
        scene, rng = make_scene(generator(0, "scene", k)), generator(0, "textures", k)
        clause = captions.texture(scene, rng)
        if clause is None:
            assert max(Counter((t.color, t.shape) for t in scene.things).values()) > 1
            continue
        name, word = re.fullmatch(r"the (.*) is (\w+)", clause).groups()
        meanings = [MEANING[part] for part in name.split()]
        (thing,) = (t for t in scene.things if all(meaning in (t.color, t.shape) for meaning in meanings))
        assert MEANING[word] == thing.texture
        said[thing.texture] += 1
    assert set(said) == {"plain", "striped", "dotted"} and min(said.values()) > 40


def test_answers_are_right(world, things):
    annotations = vqa_annotations(world / "annotations_train.json")
    judged, understood = Counter(), defaultdict(int)
    for question, entry in zip(vqa_questions(world / "questions_train.json"), annotations):
        told = answer(things[question.image_id], question.text)
        assert told in (None, entry["multiple_choice_answer"]), (question, entry["multiple_choice_answer"])
        judged[told is not None] += 1
        understood[entry["question_type"]] += told is not None
    assert judged[True] > 450 and sum(n > 0 for n in understood.values()) >= 8, understood


@pytest.fixture(scope="module")
def asked():
    """(training, test) questions with ten answers, of 1,500 and 500 scenes."""
    splits = []
    for ids in (range(1500), range(1500, 2000)):
        asker, rows = Asker(), []
        for i in ids:
            rng = generator("questions", i)
            rows += [(q, people_answer(q, rng)) for q in asker.ask(make_scene(generator("scene", i)), rng, 6)]
        splits.append(rows)
    return splits


def score(test, guess):
    return np.mean([official_vqa_accuracy(guess(question), people) for question, people in test])


def by_key(train, key):
    """The most frequent answer of each key."""
    found = defaultdict(Counter)
    for question, _ in train:
        found[key(question)][question.answer] += 1
    return {k: answers.most_common(1)[0][0] for k, answers in found.items()}


def test_half_of_the_questions_need_several_objects(asked):
    for rows in asked:
        share = np.mean([question.type in COMPLEX for question, _ in rows])
        assert 0.5 <= share < 0.7
    assert len({question.type for question, _ in asked[0]}) == 10


def test_answers_are_balanced_within_every_type(asked):
    found = defaultdict(Counter)
    for question, _ in asked[0]:
        found[question.type][question.answer] += 1
    for kind, answers in found.items():
        if sum(answers.values()) > 200:
            assert max(answers.values()) / sum(answers.values()) < 1.1 / len(answers) + 0.01, (kind, answers)


def test_without_the_picture_little_can_be_answered(asked):
    train, test = asked
    prior = by_key(train, lambda question: question.type)
    wording = by_key(train, lambda question: question.text)
    assert 0.30 < score(test, lambda question: prior[question.type]) <= 0.42
    # a model that has learned the most frequent answer to every wording
    assert score(test, lambda question: wording.get(question.text, prior[question.type])) < 0.44
    assert (
        score(test, lambda question: question.answer) >= 0.93
    )  # the best possible score: always the majority's answer


def test_people_disagree_now_and_then(asked):
    _, test = asked
    distinct = [len(set(people)) for _, people in test]
    assert 0.2 < np.mean(np.array(distinct) > 1) < 0.7
    assert any("violet" in people for _, people in test)
