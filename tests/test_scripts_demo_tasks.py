"""The demo data of NLVR2, SNLI-VE, retrieval, referring expressions and VCR.

These tests work out every label again from the objects of the scenes, with their own reading of the sentences.
"""

import json
import pickle
import re
from collections import Counter, defaultdict

import numpy as np
import pytest

import prepro
from scripts.demo_world.make_demo_data import DemoDataConfig, make_split
from scripts.demo_world.scene import COLORS, SHAPES
from scripts.demo_world.tasks import write_tasks
from scripts.demo_world.words import NUMBERS, SYNONYMS, vocabulary
from tests.test_scripts_demo_data import BESIDE, MEANING, SIDES, holds, pick

pytestmark = pytest.mark.slow  # it makes the demo's data

UNSEEN = "heavy|warm|old|wooden|soft|expensive"
PLACES = "|".join(sorted((word for side in BESIDE for word in SYNONYMS[side]), key=len, reverse=True))
RANGES = {"train": range(1, 801), "val": range(801, 841), "test": range(841, 961)}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(folder, its splits, sentences of the training splits): 800, 40 and 120 scenes, without pictures."""
    folder = tmp_path_factory.mktemp("tasks")
    config = DemoDataConfig(output=str(folder))
    splits = [make_split(config, name, ids) for name, ids in RANGES.items()]
    return folder, {split.name: split for split in splits}, write_tasks(folder, splits, config.seed)


@pytest.fixture(scope="module")
def things(world):
    """Image id → its objects, from back to front, of all splits."""
    found = {}
    for split in world[1].values():
        for i, scene in split.scenes.items():
            found[i] = [
                {"color": t.color, "shape": t.shape, "texture": t.texture, "side": 2 * t.radius, "at": (t.x, t.y)}
                for t in scene.things
            ]
    return found


def lines(world, name):
    return [json.loads(line) for line in (world[0] / name).read_text().splitlines()]


def number(file_name):
    return int(re.search(r"(\d{12})\.png$", file_name)[1])


def named(things, phrase):
    """Like `pick`, but for textures too."""
    for word in phrase.split():
        if MEANING.get(word) in ("plain", "striped", "dotted"):
            things = [t for t in things if t["texture"] == MEANING[word]]
            phrase = phrase.replace(word + " ", "")
    found = pick(things, phrase)
    assert found is not None, phrase
    return found


def lies(a, place, b, margin=20):
    axis, sign = BESIDE[MEANING[place]]
    return sign * (b["at"][axis] - a["at"][axis]) > margin


def true_of_pair(left, right, sentence):
    """Whether a statement is true of the objects of two pictures."""
    images = {"left": left, "right": right}
    contains = r"contains? (an? [a-z ]+?)"
    if found := re.fullmatch(rf"the left image {contains} and the right image {contains}", sentence):
        return bool(pick(left, found[1]) and pick(right, found[2]))
    if found := re.fullmatch(rf"one image {contains} and the other image {contains}", sentence):
        first, second = (
            [bool(pick(t, found[1])) for t in (left, right)],
            [bool(pick(t, found[2])) for t in (left, right)],
        )
        return (first[0] and second[1]) or (first[1] and second[0])
    if found := re.fullmatch(r"the (left|right) image contains exactly (\w+) (.*)", sentence):
        return len(pick(images[found[1]], found[3])) == NUMBERS.index(found[2])
    if found := re.fullmatch(r"there are more (.*) in the (\w+) image than in the (\w+) image", sentence):
        return len(pick(images[found[2]], found[1])) > len(pick(images[found[3]], found[1]))
    found = re.fullmatch(rf"(both|neither|at least one|the left|the right) images? {contains}", sentence)
    here = [bool(pick(t, found[2])) for t in (left, right)]
    verdicts = {"both": all(here), "neither": not any(here), "at least one": any(here)}
    return (verdicts | {"the left": here[0], "the right": here[1]})[found[1]]


@pytest.mark.parametrize("split, prefix, size", [("train", "train", 1600), ("val", "dev", 120), ("test", "test1", 296)])
def test_statements_are_labelled_right(world, things, split, prefix, size):
    examples = lines(world, f"nlvr2_{split}.json")
    assert len(examples) == size
    kinds, labels, pictures = Counter(), defaultdict(list), {}
    for example in examples:
        pair = [number(example[f"{side}_image"]) for side in ("left", "right")]
        assert set(pair) <= set(RANGES[split]) and pair[0] != pair[1]
        verdict = true_of_pair(*(things[i] for i in pair), example["sentence"])
        assert str(verdict) == example["label"] == example["validation"]["1"], example
        name, n, m, k = example["identifier"].split("-")
        assert name == prefix and pictures.setdefault((n, m), pair) == pair
        assert example["left_url"].endswith(example["left_image"])
        labels[n, k].append((example["sentence"], verdict))
        kinds[" ".join(example["sentence"].split()[:2])] += 1
    assert len({example["identifier"] for example in examples}) == size
    for told in labels.values():  # one sentence, twice true and twice false: the sentence alone says nothing
        assert len({sentence for sentence, _ in told}) == 1 and sorted(v for _, v in told) == [False, False, True, True]
    assert len(kinds) >= 6 and max(kinds.values()) < 0.5 * size


def test_the_balanced_part_says_nothing_by_its_pictures(world):
    parts = {part: lines(world, f"{part}_test.json") for part in ("balanced", "unbalanced")}
    found = {part: defaultdict(list) for part in parts}
    for part, examples in parts.items():
        for example in examples:
            found[part][example["identifier"].rpartition("-")[0]].append(example["label"])
    assert all(sorted(labels) == ["False", "True"] for labels in found["balanced"].values())
    assert all(len(set(labels)) == 1 for labels in found["unbalanced"].values())
    everything = lines(world, "nlvr2_test.json")
    assert sorted(map(str, [*parts["balanced"], *parts["unbalanced"]])) == sorted(map(str, everything))


def entailed(things, hypothesis):
    """The label of a hypothesis; attributes that no picture shows are neither true nor false."""
    if found := re.fullmatch(rf"an? ({UNSEEN}) (?!thing|object|shape)(.*)", hypothesis):
        return "neutral" if pick(things, found[2]) else "contradiction"
    unseen = rf"an? (?:{UNSEEN}) (?:thing|object|shape)"
    found = re.fullmatch(rf"{unseen} (and|or) (.*)", hypothesis)
    word, claim = (found[1], found[2]) if found else (None, hypothesis)
    if found := re.fullmatch(rf"(.*) (and|or) {unseen}", hypothesis):
        word, claim = found[2], found[1]
    if re.match("fewer|more", claim):
        first, second = (pick(things, noun) for noun in re.fullmatch(r"\w+ (.*) than (.*)", claim).groups())
        verdict = (len(first) > len(second)) if claim.startswith("more") else (len(first) < len(second))
    else:
        verdict = holds(things, claim)
    assert verdict is not None, hypothesis
    if word is None:
        return "entailment" if verdict else "contradiction"
    return {("and", True): "neutral", ("or", True): "entailment", ("and", False): "contradiction"}.get(
        (word, verdict), "neutral"
    )


@pytest.mark.parametrize("split, size, votes", [("train", 1600, 1), ("val", 120, 5), ("test", 300, 5)])
def test_hypotheses_are_labelled_right(world, things, split, size, votes):
    examples = lines(world, f"snli_ve_{split}.jsonl")
    assert len(examples) == size == len({example["pairID"] for example in examples})
    for example in examples:
        image_id = int(example["Flickr30K_ID"])
        assert image_id in RANGES[split]
        assert entailed(things[image_id], example["sentence2"]) == example["gold_label"], example
        ids = re.fullmatch(rf"({image_id}\.jpg#(\d))r\d+([cen])", example["pairID"])
        assert ids[1] == example["captionID"] and ids[3] == example["gold_label"][0]
        assert example["sentence1"] == world[1][split].captions[image_id][int(ids[2])]
        counted = Counter(example["annotator_labels"])
        assert counted.total() == votes and counted.most_common(1)[0][0] == example["gold_label"]


def test_a_hypothesis_alone_is_right_half_of_the_time(world):
    labels, found = Counter(), defaultdict(Counter)
    for example in lines(world, "snli_ve_train.jsonl"):
        labels[example["gold_label"]] += 1
        found[example["sentence2"]][example["gold_label"]] += 1
    assert all(abs(n / labels.total() - 1 / 3) < 0.01 for n in labels.values()) and len(labels) == 3
    for counts in found.values():  # two labels are equally frequent for every wording
        assert len(set(counts.values())) == 1 and len(counts) == 2
    halves = [sum(counts.values()) for text, counts in found.items() if re.search(UNSEEN, text)]
    assert abs(sum(halves) / labels.total() - 2 / 3) < 0.01


@pytest.mark.parametrize("style", ["coco", "flickr30k"])
def test_karpathy_files(world, style):
    images = json.loads((world[0] / f"dataset_{style}.json").read_text())["images"]
    parts = Counter(image["split"] for image in images)
    assert parts["test"] == 100 and parts["val"] == 40 and parts["train"] + parts["restval"] == 800
    assert (parts["restval"] == 200) == (style == "coco")
    assert [image["imgid"] for image in images] == list(range(940))
    assert [i for image in images for i in image["sentids"]] == list(range(5 * 940))
    for image in images:
        assert [s["sentid"] for s in image["sentences"]] == image["sentids"]
        assert all(
            s["tokens"] == re.findall(r"\w+", s["raw"]) and s["imgid"] == image["imgid"] for s in image["sentences"]
        )
        if style == "coco":
            folder = "train" if image["split"] == "restval" else image["split"]
            assert image["filepath"] == folder and number(image["filename"]) == image["cocoid"]
            assert image["filename"].startswith(f"DEMO_{folder}_")
        else:
            assert re.fullmatch(r"\d+\.png", image["filename"])


def test_flickrs_captions_are_prepared(world, tmp_path):
    """Flickr30k's captions are prepared like COCO's, with the demo's image names."""
    vocab, output = tmp_path / "vocab.txt", tmp_path / "itm.db"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "!", "a", "red", "circle"]))
    named = ["--img_name", "demo_test_{stem:0>12}.npz", "--part", "test", "--vocab", str(vocab)]
    prepro.main(["itm", "--karpathy", str(world[0] / "dataset_flickr30k.json"), *named, "--output", str(output)])
    pictures = json.loads((output / "img2txts.json").read_text())
    assert len(pictures) == 100 and all(len(texts) == 5 for texts in pictures.values())
    assert {int(name.removeprefix("demo_test_").removesuffix(".npz")) for name in pictures} <= set(RANGES["test"])


def could_mean(things, caption):
    """Whether a caption may describe these objects, if textures are ignored."""
    caption = re.sub(r"\b(plain|solid|striped|stripy|dotted|spotted) ", "", caption)
    caption = re.sub(r"\ban? (?=[a-z])", "a ", caption)
    return all(
        holds(things, clause) is not False for clause in caption.split(" , ") if not re.match("|".join(NUMBERS), clause)
    )


def test_a_caption_finds_its_picture(world, things):
    images = json.loads((world[0] / "dataset_coco.json").read_text())["images"]
    test = [image for image in images if image["split"] == "test"]
    fits = []
    for image in test:
        for sentence in image["sentences"]:
            assert could_mean(things[image["cocoid"]], sentence["raw"]), sentence
            fits.append(sum(could_mean(things[other["cocoid"]], sentence["raw"]) for other in test))
    assert (
        np.mean(fits) < 1.5 and np.mean(1 / np.array(fits)) > 0.85
    )  # a model that sees colours, shapes, sizes and places


def singled_out(things, phrase):
    """The objects that a referring expression may mean."""
    if found := re.fullmatch(rf"the (\w+) ({PLACES}) the (.*)", phrase):
        (anchor,) = named(things, found[3])
        return [t for t in named(things, found[1]) if lies(t, found[2], anchor, 0)]
    if found := re.fullmatch(rf"the ({'|'.join(SIDES)}) (.*)", phrase):
        axis, best = SIDES[found[1]]
        some = named(things, found[2])
        edge = best(t["at"][axis] for t in some)
        return [t for t in some if abs(t["at"][axis] - edge) < 7]
    return named(things, phrase)


def test_a_referring_expression_means_one_object(world, things):
    refs = pickle.loads((world[0] / "refs(demo).p").read_bytes())
    instances = json.loads((world[0] / "instances.json").read_text())
    objects = json.loads((world[0] / "iid_to_ann_ids.json").read_text())["iid_to_ann_ids"]
    annotations = {a["id"]: a for a in instances["annotations"]}
    assert len(instances["images"]) == 960 and sum(map(len, objects.values())) == len(annotations)
    kinds = Counter()
    for ref in refs:
        annotation = annotations[ref["ann_id"]]
        assert (annotation["image_id"], annotation["category_id"]) == (ref["image_id"], ref["category_id"])
        place = objects[str(ref["image_id"])].index(ref["ann_id"])
        target = things[ref["image_id"]][place]
        assert np.allclose(np.array(annotation["bbox"][:2]) + target["side"] / 2, target["at"], atol=0.02)
        assert ref["file_name"].endswith(f"{ref['image_id']:012}_{place}.png")
        assert ref["sent_ids"] == [s["sent_id"] for s in ref["sentences"]]
        for sentence in ref["sentences"]:
            assert sentence["raw"] == sentence["sent"] == " ".join(sentence["tokens"])
            assert singled_out(things[ref["image_id"]], sentence["sent"]) == [target], (ref, sentence)
            kinds["place" if re.search(rf"{'|'.join(SIDES)}|{PLACES}", sentence["sent"]) else "looks"] += 1
    assert 0.6 < kinds["looks"] / kinds.total() < 0.9
    assert [ref["ref_id"] for ref in refs] == list(range(len(refs)))
    assert [i for ref in refs for i in ref["sent_ids"]] == list(range(kinds.total()))


def test_parts_of_the_referring_expressions(world, things):
    refs = pickle.loads((world[0] / "refs(demo).p").read_bytes())
    parts = defaultdict(set)
    for ref in refs:
        parts[ref["split"]].add(ref["image_id"])
    assert {part: len(ids) for part, ids in parts.items() if part in ("train", "val")} == {"train": 800, "val": 40}
    assert parts["testA"] | parts["testB"] == set(RANGES["test"])
    assert all(len(things[i]) <= 5 for i in parts["testA"]) and all(len(things[i]) >= 6 for i in parts["testB"])
    assert max(Counter(ref["image_id"] for ref in refs).values()) == 2


def tags(tokens):
    return [tag for token in tokens if isinstance(token, list) for tag in token]


def right(things, question, choice, about):
    """Whether an answer, or a reason about the object `about`, is true; `things` are ordered from left to right."""
    words = [token[0] if isinstance(token, list) else token for token in choice if token != "."]
    reason = words[0] == "because"
    if reason:
        found = re.fullmatch(rf"(.*) is ({PLACES}) it", " ".join(map(str, words[1:])))
        words = [int(word) if word.isdigit() else word for word in found[1].split()]
    if "and" in words:
        at = words.index("and")
        return right(things, [], words[:at], about) and right(things, [], words[at + 1 :], about)
    words = words[2:] if words[0] == "it" else words
    if isinstance(words[-1], int):
        fits = [t for t in [things[words[-1]]] if all(MEANING[w] in (t["color"], size(t)) for w in words[1:-1])]
    else:
        fits = pick(things, " ".join(words))
    place = found[2] if reason else None
    if question[:2] == ["what", "is"]:
        place, about = " ".join(question[2:-2]), tags(question)[0]
    if place:
        fits = [t for t in fits if t is not things[about] and lies(t, place, things[about])]
    return bool(fits)


def size(thing):
    return "large" if thing["side"] > 42 else "small"


@pytest.fixture(scope="module")
def problems(world):
    """The VCR lines of all splits, with their labels."""
    hidden = {
        line["annot_id"]: [line["answer_label"], line["rationale_label"]]
        for line in map(json.loads, (world[0] / "vcr_labels_test.jsonl").read_text().splitlines())
    }
    found = []
    for split in RANGES:
        for line in lines(world, f"vcr_{split}.jsonl"):
            if split == "test":
                assert "answer_label" not in line and "rationale_label" not in line
                line["answer_label"], line["rationale_label"] = hidden[line["annot_id"]]
            found.append(line)
    return found


def test_one_answer_and_one_reason_are_right(world, things, problems):
    for line in problems:
        scene = sorted(things[number(line["img_fn"])], key=lambda t: t["at"][0])
        assert line["objects"] == [t["shape"] for t in scene]
        answer = line["answer_choices"][line["answer_label"]]
        about = tags(answer)[0]
        truths = [right(scene, line["question"], choice, about) for choice in line["answer_choices"]]
        assert truths == [k == line["answer_label"] for k in range(4)], line
        truths = [right(scene, [], choice, about) for choice in line["rationale_choices"]]
        assert truths == [k == line["rationale_label"] for k in range(4)], line
        spoken_of = {*tags(line["question"]), *tags(answer)}
        assert not spoken_of & set(tags(line["rationale_choices"][line["rationale_label"]]))


def test_without_the_tags_the_picture_does_not_tell(things, problems):
    """A model that sees the picture but not the tags of a question about a colour has to guess among its colours."""
    chances = []
    for line in problems:
        if line["question"][:2] == ["what", "color"] and len(line["answer_choices"][0]) == 6:
            here = {thing["color"] for thing in things[number(line["img_fn"])]}
            named = [next(MEANING[w] for w in choice if w in MEANING) for choice in line["answer_choices"]]
            chances.append(1 / sum(color in here for color in named))
    assert len(chances) > 0.4 * len(problems) and np.mean(chances) < 0.45


def test_vcr_files(world, problems):
    metadata = {}
    for line in problems:
        split = line["annot_id"].split("-")[0]
        assert line["img_fn"].startswith(f"images/{split}/") and line["metadata_fn"].startswith(
            f"vcr_metadata/{split}/"
        )
        metadata = json.loads((world[0] / line["metadata_fn"]).read_text())
        boxes = np.array(metadata["boxes"])
        assert metadata["names"] == line["objects"] and boxes.shape == (len(line["objects"]), 5)
        assert (np.diff(boxes[:, 0] + boxes[:, 2]) >= -0.02).all()  # from left to right
        assert len(metadata["segms"]) == len(boxes) and metadata["width"] == metadata["height"] == 192
        said = [line["question"], *line["answer_choices"], *line["rationale_choices"]]
        assert max(tag for tokens in said for tag in tags(tokens) or [0]) < len(boxes)
    counts = Counter(line["annot_id"].split("-")[0] for line in problems)
    assert 1550 <= counts["train"] <= 1600 and 115 <= counts["val"] <= 120 and 290 <= counts["test"] <= 300
    assert len({line["annot_id"] for line in problems}) == len(problems)


def test_the_right_choice_does_not_stand_out(problems):
    place = Counter((what, line[f"{what}_label"]) for line in problems for what in ("answer", "rationale"))
    assert all(abs(n / len(problems) - 0.25) < 0.05 for n in place.values())
    by_color, common, known = defaultdict(list), [], []
    for line in problems:
        answer = line["answer_choices"][line["answer_label"]]
        for what in ("answer", "rationale"):
            choices, label = line[f"{what}_choices"], line[f"{what}_label"]
            for k, choice in enumerate(choices):
                for color in set(COLORS) & {w for w in choice if isinstance(w, str)}:
                    by_color[what, color].append(k == label)
            # The choice that shares most words with the other choices, and the reasons that share the answer's colour.
            shared = [sum(word in other for word in choice for other in choices) for choice in choices]
            common.append((shared[label] == max(shared)) / shared.count(max(shared)))
        for k, reason in enumerate(line["rationale_choices"]):
            if set(COLORS) & {w for w in answer if isinstance(w, str)} & {w for w in reason if isinstance(w, str)}:
                known.append(k == line["rationale_label"])
    assert all(abs(np.mean(hits) - 0.25) < 0.09 for hits in by_color.values() if len(hits) > 100)
    assert np.mean(common) < 0.3 and abs(np.mean(known) - 0.25) < 0.06


def test_their_words_are_whole_pieces_and_move_no_other(world):
    before = vocabulary(["a red circle is left of a star"] * 30)
    after = vocabulary(["a red circle is left of a star"] * 30, world[2])
    words = {w for s in world[2] for w in s.replace("?", " ").replace(".", " ").split()}
    missing = words - set(after)
    assert {"image", "contains", "both", "heavy", "because", "it"} <= set(after) and len(after) == len(before) == 1000
    assert all(sum(w in s.split() for s in world[2]) < 20 for w in missing)
    first = next(k for k in range(1000) if before[k] != after[k])
    assert first > 850 and set(SHAPES) <= set(after)
