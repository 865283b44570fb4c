"""VQA answers: the official normalisation, the answer vocabulary, soft targets.

The normalisation is that of the VQA v2 evaluation (visualqa.org/evaluation.html): first punctuation, then lower case,
number words and articles, then contractions. Scores must agree with the evaluation server, so its peculiarities are
kept: comments with "official" below name them.
"""

import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from utils.errors import InputError
from utils.files import read_json
from utils.paths import CHECKOUT

RELEASE_ANSWERS = CHECKOUT / "utils" / "ans2label.json"  # the release's answers, in the order of its checkpoints' heads
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
NUMBER_WORDS = {"none": "0"} | {word: str(number) for number, word in enumerate(DIGITS)}
ARTICLES = ("a", "an", "the")
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'  # official: without apostrophe and colon
PERIOD = re.compile(r"\.(?!\d)")  # official: "3.5" keeps its period, "3." loses it
MAX_PERIODS = 32  # official: re.UNICODE, 32, is passed in the place of re.sub's count
COMMA_IN_NUMBER = re.compile(r"\d,\d")
CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
    he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've
    mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't
    shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's
    something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've
    they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
    where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def with_one_apostrophe_lost(words: Iterable[str]) -> dict[str, str]:
    """Map each misspelling without one apostrophe to its word: "couldnt've" and "couldn'tve" to "couldn't've"."""
    return {word[:i] + word[i + 1 :]: word for word in words for i, char in enumerate(word) if char == "'"}


CONTRACTIONS = with_one_apostrophe_lost(CONTRACTED.split())
CONTRACTIONS["somebody'd"] = "somebodyd"  # official


def tidy(answer: str) -> str:
    """The answer on one line, without white space at its ends."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=1 << 16)
def normalize(answer: str) -> str:
    """Normalise an answer as the official evaluation does: `normalize("The Two dogs!") == "2 dogs"`."""
    return process_digit_article(process_punctuation(tidy(answer)))


def process_punctuation(text: str) -> str:
    """Replace punctuation marks by spaces, and drop periods that are not in a number.

    Official: a mark is removed without a space where the text has it next to a space, even once, or where the text has
    a comma inside a number.
    """
    out = text
    has_comma_in_number = COMMA_IN_NUMBER.search(text) is not None
    for mark in PUNCTUATION:
        vanishes = has_comma_in_number or f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if vanishes else " ")
    return PERIOD.sub("", out, count=MAX_PERIODS)


def process_digit_article(text: str) -> str:
    """Lower-case the words, write numbers up to ten as digits, drop articles and restore lost apostrophes."""
    words = [NUMBER_WORDS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def answer_vocabulary(majority_answers: Iterable[str], size: int = 3129) -> dict[str, int]:
    """Build the answer vocabulary, answer to label, from the majority answer of each question (paper A.2).

    It holds the `size` most frequent answers. Label 0 is the most frequent; equal counts are in alphabetical order. In
    VQA v2's training and validation splits together, 3,129 answers are the majority answer of at least nine questions.
    """
    counts = Counter(normalize(answer) for answer in majority_answers)
    counts.pop("", None)
    ranked = sorted(counts, key=lambda answer: (-counts[answer], answer))
    return {answer: label for label, answer in enumerate(ranked[:size])}


def majority_answer(answers: Iterable[str]) -> str:
    """The most frequent of `answers` after normalisation; of equally frequent ones, the first in the list."""
    return Counter(normalize(answer) for answer in answers).most_common(1)[0][0]


def soft_targets(answers: Iterable[str], ans2label: dict[str, int]) -> dict[str, list[int] | list[float]]:
    """The soft target of a question, `{labels, scores}`: its answers that are in the vocabulary, maybe none.

    An answer that 1, 2, 3, or 4 or more annotators gave has the score 0.3, 0.6, 0.9, or 1.0. With ten annotators this
    is exactly the official accuracy of predicting it.
    """
    counts = Counter(normalize(answer) for answer in answers)
    label_counts = [(ans2label[answer], count) for answer, count in counts.items() if answer in ans2label]
    return {
        "labels": [label for label, _ in label_counts],
        "scores": [min(10, 3 * count) / 10 for _, count in label_counts],
    }


def read_ans2label(path: str | Path = "release") -> dict[str, int]:
    """Read an answer vocabulary, answer to label, from a JSON file; "release" stands for the release's 3,129 answers.

    Raises `InputError` unless the labels are 0 to n - 1, each once.
    """
    file = RELEASE_ANSWERS if str(path) == "release" else Path(path)
    answers = read_json(file)
    if not isinstance(answers, dict) or not answers:
        found = "an empty object" if answers == {} else f"a {type(answers).__name__}"
        raise InputError("not an answer vocabulary", file=file, found=found, expected='{"answer": label, ...}')
    labels = list(answers.values())
    if any(type(label) is not int for label in labels) or sorted(labels) != list(range(len(labels))):
        raise InputError(
            "the labels of the answer vocabulary are not 0 to n - 1, each once",
            file=file,
            found=f"{len(labels)} answers, with labels such as {labels[:3]}",
            expected=f"each of the labels 0 to {len(labels) - 1} once",
        )
    return answers


def label2ans(ans2label: dict[str, int]) -> list[str]:
    """The answers in the order of their labels."""
    return sorted(ans2label, key=ans2label.__getitem__)


def check_same_answers(store_file: Path, run_file: Path) -> None:
    """Raise `InputError` unless a text store was prepared with the same answer vocabulary as the run uses.

    Both files are an ans2label.json. A store without one passes.
    """
    if store_file.exists() and read_ans2label(store_file) != read_ans2label(run_file):
        raise InputError(
            "the text store was made with another answer vocabulary than this run uses",
            file=store_file,
            key="ans2label",
            found=f"{len(read_ans2label(store_file))} answers, not the same or not in the same order",
            expected=f"the {len(read_ans2label(run_file))} answers of {run_file}",
            remedy=f"prepare the store again with prepro.py vqa --ans2label {run_file}",
        )
