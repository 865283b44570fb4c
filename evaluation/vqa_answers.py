"""VQA answers: the official evaluation's normalisation, the answer vocabulary, soft targets.

The normalisation is that of the VQA v2 evaluation (visualqa.org/evaluation.html): punctuation, then lower
case, number words and articles, then contractions. Its peculiarities are kept, because scores must agree with
the server's: they are marked "official" below.
"""

import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from utils.errors import InputError
from utils.files import read_json
from utils.paths import CHECKOUT

RELEASE_ANSWERS = CHECKOUT / "utils" / "ans2label.json"  # finetuned checkpoints need its order
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
NUMBER_WORDS = {"none": "0"} | {word: str(number) for number, word in enumerate(DIGITS)}
ARTICLES = ("a", "an", "the")
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'  # official: neither apostrophe nor colon
PERIOD = re.compile(r"\.(?!\d)")  # official: "3.5" keeps its period, "3." loses it
MAX_PERIODS = 32  # official: a flag given in the place of a count
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
    """Misspelling to word, one apostrophe lost ("couldnt've" and "couldn'tve" to "couldn't've")."""
    return {word[:i] + word[i + 1 :]: word for word in words for i, char in enumerate(word) if char == "'"}


CONTRACTIONS = with_one_apostrophe_lost(CONTRACTED.split())
CONTRACTIONS["somebody'd"] = "somebodyd"  # official


def tidy(answer: str) -> str:
    """The answer on one line, without white space around it."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=1 << 16)
def normalize(answer: str) -> str:
    """The form in which the official evaluation compares answers that annotators disagree on.

    `normalize("The Two dogs!") == "2 dogs"`.
    """
    return process_digit_article(process_punctuation(tidy(answer)))


def process_punctuation(text: str) -> str:
    """A mark becomes a space; nothing where it touches a space anywhere, or where a number has a comma."""
    out = text
    has_comma_in_number = COMMA_IN_NUMBER.search(text) is not None
    for mark in PUNCTUATION:
        vanishes = has_comma_in_number or f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if vanishes else " ")
    return PERIOD.sub("", out, count=MAX_PERIODS)


def process_digit_article(text: str) -> str:
    """Lower case, number words up to ten as digits, no articles, lost apostrophes put back, single spaces."""
    words = [NUMBER_WORDS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def answer_vocabulary(majority_answers: Iterable[str], size: int = 3129) -> dict[str, int]:
    """Answer to label: the `size` answers (paper A.2) that are most often the majority answer of a question.

    Labels run from the most frequent answer on, equal counts in alphabetical order. On VQA v2's training and
    validation questions together, 3,129 are the answers of at least nine questions each.
    """
    counts = Counter(normalize(answer) for answer in majority_answers)
    counts.pop("", None)
    ranked = sorted(counts, key=lambda answer: (-counts[answer], answer))
    return {answer: label for label, answer in enumerate(ranked[:size])}


def majority_answer(answers: Iterable[str]) -> str:
    """The most frequent of `answers`, normalised; the first given among equals."""
    return Counter(normalize(answer) for answer in answers).most_common(1)[0][0]


def soft_targets(answers: Iterable[str], ans2label: dict[str, int]) -> dict[str, list[int] | list[float]]:
    """`{labels, scores}` of the annotators' answers that are in the vocabulary; both may be empty.

    An answer that 1, 2, 3 or more annotators gave scores 0.3, 0.6, 0.9 or 1.0: with ten annotators, exactly
    the official accuracy of predicting it.
    """
    counts = Counter(normalize(answer) for answer in answers)
    label_counts = [(ans2label[answer], count) for answer, count in counts.items() if answer in ans2label]
    return {
        "labels": [label for label, _ in label_counts],
        "scores": [min(10, 3 * count) / 10 for _, count in label_counts],
    }


def read_ans2label(path: str | Path = "release") -> dict[str, int]:
    """Answer to label from a JSON file; "release" means the release's 3,129. Labels must be 0..n-1."""
    file = RELEASE_ANSWERS if str(path) == "release" else Path(path)
    answers = read_json(file)
    if not isinstance(answers, dict) or not answers:
        raise InputError("not an answer vocabulary", file=file, expected='{"answer": label, ...}')
    labels = list(answers.values())
    if any(type(label) is not int for label in labels) or sorted(labels) != list(range(len(labels))):
        raise InputError(
            "an answer vocabulary's labels must be 0..n-1, each once",
            file=file,
            found=f"{len(labels)} answers, labels such as {labels[:3]}",
        )
    return answers


def label2ans(ans2label: dict[str, int]) -> list[str]:
    """Label to answer."""
    return sorted(ans2label, key=ans2label.__getitem__)


def check_same_answers(store_file: Path, run_file: Path) -> None:
    """`InputError` unless a text store was made with the run's answers: its labels mean those.

    Each file is an ans2label.json; a store without one passes.
    """
    if store_file.exists() and read_ans2label(store_file) != read_ans2label(run_file):
        raise InputError(
            "the text store was made with other answers than the run's",
            file=store_file,
            key="ans2label",
            found=f"{len(read_ans2label(store_file))} answers, or in another order",
            expected=f"those of {run_file}",
            remedy=f"prepare the store again with prepro.py vqa --ans2label {run_file}",
        )
