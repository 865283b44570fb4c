"""NLVR's grammar of statements: hand-worked meanings, readings of real sentences, and what is generated."""

import numpy as np
import pytest

from examples.nlvr1.grammar import Grammar, is_name
from examples.nlvr1.panels import shows_towers
from examples.nlvr1.parsing import Habits, grammar
from examples.nlvr1.prepare import read_examples
from examples.nlvr1.scene import Scene
from examples.nlvr1.statements import Statements
from examples.nlvr1.words import Vocabulary
from tests.test_examples_nlvr1 import FIXTURE, annotated_objects
from utils.errors import InputError

K, B, Y = 0, 1, 2  # black, blue, yellow


def tower(panel, *paints):
    """Blocks from the floor up."""
    return [(panel, paint, 1, 20, 40, 80 - 21 * k) for k, paint in enumerate(paints)]


def picture(*things):
    return np.array([thing for part in things for thing in part])


TOWERS = picture(tower(0, K, B), tower(1, K, K, Y), tower(2, Y))
SCATTERED = picture(
    [(0, K, 0, 10, 0, 40), (0, Y, 1, 20, 30, 30)],  # a black circle at the left wall, a yellow square
    [(1, B, 2, 30, 70, 70), (1, B, 0, 20, 40, 10), (1, K, 1, 10, 20, 20)],  # a blue triangle in a corner
    [(2, Y, 0, 10, 50, 50)],
)


@pytest.fixture(scope="module")
def habits():
    return Habits()


@pytest.mark.parametrize(
    ("sentence", "truth"),
    [
        ("there is a blue block on a black block", True),
        ("there is a black block on a blue block", False),
        ("there is a tower with exactly two black blocks", True),
        ("there is exactly one tower with a black block at the base", False),
        ("there are exactly two towers with a black block at the base", True),
        ("there is a yellow block as the top of a tower with three blocks", True),
        ("there is a blue block as the base of a tower", False),
        ("there is a box with only one item that is yellow", True),
        ("there is a tower with only black blocks", False),
        ("two towers have the same base", True),
        ("there are two towers with the same height", False),
        ("there is at least one tower with two black blocks stacked together", True),
        ("the tower with three blocks has a yellow block at the top", True),
        ("the base of a two blocks tower is black", True),
        ("there is a tower with four blocks", False),
    ],
)
def test_meanings_of_towers(habits, sentence, truth):
    assert habits.parse(sentence.split()).meaning(Scene([TOWERS])).tolist() == [truth]


@pytest.mark.parametrize(
    ("sentence", "truth"),
    [
        ("there is a black circle closely touching a wall of a box", True),
        ("there is a blue triangle touching the corner", True),
        ("there are exactly two objects touching the edge", True),
        ("none of the yellow objects are touching the edge", True),
        ("there is no blue circle not touching any edge", False),
        ("there is a box with a blue circle and a black square", True),
        ("there is a box with a black circle and a black square", False),
        ("there is a box with three items of which two are blue", True),
        ("there is a box with items of all three different colors", False),
        ("there is a box with only blue and black items", True),
        ("each box has at least one yellow item", False),
        ("there are two yellow items", True),
        ("there are at least two boxes with at least one black item", True),
        ("one of the grey box has exactly one object which is a circle", True),
        ("there is a box with three items at most of which two are blue", True),
        ("there is a small yellow circle touching the wall", False),
    ],
)
def test_meanings_of_scattered_things(habits, sentence, truth):
    assert habits.parse(sentence.split()).meaning(Scene([SCATTERED])).tolist() == [truth]


def test_real_sentences_mean_what_people_said_they_do(habits):
    vocabulary, hits = Vocabulary(), []
    for example in read_examples(FIXTURE / "train_recovered.json.gz"):
        tree = habits.parse(vocabulary.decode(vocabulary.read(example["sentence"])))
        if tree:
            truth = bool(tree.meaning(Scene([annotated_objects(example)]))[0])
            hits.append(truth == (example["label"] == "true"))
    assert len(hits) >= 10 and np.mean(hits) >= 0.9


def test_a_wording_is_every_way_to_say_it():
    g = Grammar()
    g.add("BOX#", "(big or) box#/tower#", lambda w: True)
    assert {rule.words for rule in g.rules["BOX1"]} == {
        ("box",),
        ("tower",),
        ("big", "or", "box"),
        ("big", "or", "tower"),
    }
    assert ("boxes",) in {rule.words for rule in g.rules["BOX2"]}


def test_every_word_of_the_grammar_is_in_the_vocabulary():
    words = {word for rules in grammar().rules.values() for rule in rules for word in rule.words if not is_name(word)}
    assert words <= set(Vocabulary().words)


def test_what_is_drawn_can_be_read_and_every_rule_s_meaning_has_the_right_shape(habits):
    scene, rng = Scene([TOWERS, SCATTERED]), np.random.default_rng(0)
    for _ in range(1500):
        tree = habits.draw(rng)
        assert tree.meaning(scene).shape == (2,), tree.words()
        assert tree.meaning(scene).dtype == bool, tree.words()


def test_habits_are_learned_from_sentences():
    sentences = [["there", "is", "a", "black", "tower"]] * 20
    habits, rng = Habits(sentences), np.random.default_rng(0)
    share = np.mean([habits.draw(rng).words() == sentences[0] for _ in range(200)])
    assert share > 0.2 and habits.unread_count == 0
    assert Habits([["grey", "there"]]).unread_count == 1


def test_statements_are_true_of_one_picture_and_not_of_the_other():
    examples = read_examples(FIXTURE / "train_recovered.json.gz")
    vocabulary, pictures = Vocabulary(), [annotated_objects(example) for example in examples]
    sentences = [vocabulary.decode(vocabulary.read(example["sentence"])) for example in examples]
    source = Statements(sentences, pictures)
    statements = list(source.draw(80, "seed"))
    assert len(statements) == 80
    assert statements == list(Statements(sentences, pictures).draw(80, "seed")) != list(source.draw(80, "other"))
    hits = []
    for words, true, false in statements:
        assert shows_towers(pictures[true]) == shows_towers(pictures[false])
        kinds = [shows_towers(pictures[rows[0]]) for rows in source.kind_rows]
        habits = source.habits[kinds.index(shows_towers(pictures[true]))]
        tree = habits.parse(words)
        assert tree is not None, words
        hits.append(tree.meaning(Scene([pictures[true], pictures[false]])).tolist() == [True, False])
    assert np.mean(hits) > 0.9  # some can be read in two ways


def test_pictures_that_do_not_differ_are_refused():
    with pytest.raises(InputError, match="no statement"):
        list(Statements([["there", "is", "a", "black", "tower"]] * 2, [TOWERS, TOWERS]).draw(2))
