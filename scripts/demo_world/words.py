"""The language of the demo world: synonyms, plurals, misspellings, and the vocabulary of word pieces."""

import itertools
import string
from collections import Counter

import numpy as np

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SYNONYMS = {
    "circle": ("circle", "circle", "circle", "disc"),
    "square": ("square", "square", "square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross", "cross", "plus"),
    "ring": ("ring", "ring", "ring", "hoop"),
    "thing": ("thing", "object", "shape"),
    "small": ("small", "small", "little", "tiny"),
    "large": ("large", "large", "big"),
    "purple": ("purple", "purple", "purple", "violet"),
    "striped": ("striped", "striped", "stripy"),
    "dotted": ("dotted", "dotted", "spotted"),
    "plain": ("plain", "plain", "solid"),
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
PLURALS = {"cross": "crosses", "box": "boxes", "plus": "pluses"}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
RARE = (
    *("apparently", "curiously", "evidently", "merely", "notably", "oddly", "perhaps", "plainly", "presumably"),
    *("quietly", "seemingly", "simply", "surely", "undoubtedly", "visibly", "wonderfully"),
)
SIZE = 1000  # number of word pieces


def say(word: str, rng: np.random.Generator) -> str:
    """The word or one of its synonyms, at random."""
    choices = SYNONYMS.get(word, (word,))
    return choices[int(rng.integers(len(choices)))]


def plural(word: str) -> str:
    """The plural of a noun."""
    return PLURALS.get(word, word + "s")


def article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def add_noise(sentence: str, rng: np.random.Generator, p: float = 0.03) -> str:
    """Swap two letters, or insert a rare word, each with probability `p`, as in real text."""
    words = sentence.split()
    if rng.random() < p:
        position = int(rng.integers(len(words)))
        word = words[position]
        if len(word) > 3:
            k = int(rng.integers(1, len(word) - 2))
            words[position] = word[:k] + word[k + 1] + word[k] + word[k + 2 :]
    if rng.random() < p:
        words.insert(int(rng.integers(len(words))), RARE[int(rng.integers(len(RARE)))])
    return " ".join(words)


def vocabulary(sentences: list[str], more: list[str] | None = None) -> list[str]:
    """Make a vocabulary of `SIZE` word pieces.

    In this order: BERT's special names, `!`, all other characters (so that every word can be spelled), the frequent
    words of `sentences`, letter pairs. The frequent words of `more` replace the last letter pairs.
    """
    marks = sorted(string.punctuation, key=lambda mark: (mark != "!", mark))
    letters = list(string.ascii_lowercase + string.ascii_uppercase + string.digits)
    pieces = [*SPECIALS, *marks, *letters, *(f"##{letter}" for letter in letters), *_frequent(sentences)]
    pairs = ("".join(pair) for pair in itertools.product(string.ascii_lowercase, repeat=2))
    fillers = (piece for pair in pairs for piece in (pair, f"##{pair}"))
    base = list(dict.fromkeys(itertools.chain(pieces, fillers)))[:SIZE]
    new = [word for word in _frequent(more or []) if word not in pieces]
    n_old = SIZE - len(new)  # the new words replace the last fillers, so that all other pieces keep their ids
    return list(dict.fromkeys([*base[:n_old], *new, *base[n_old:]]))[:SIZE]


def _frequent(sentences: list[str]) -> list[str]:
    """The words that occur at least 20 times, in alphabetical order: their ids do not change with their frequencies."""
    counts = Counter(word for s in sentences for word in s.replace("?", " ").replace(".", " ").split())
    return sorted(word for word, n in counts.items() if n >= 20)
