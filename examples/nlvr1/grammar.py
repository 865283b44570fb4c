"""A grammar of statements: what can be said of a picture, and when it is true.

A rule is a name, its wordings, and what it means. In a wording, lower case is said as it stands, `a/b` is one of
several words, `(a)` may be left out; names in capitals stand for parts with a meaning, names in <> for mere words.
`#` in a rule makes two of it, singular and plural: "item#" is "item" and "items", "box#" is "box" and "boxes".
A meaning gets the scene and the meanings of the parts; without one, the only part's meaning is the rule's.
"""

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Meaning = Callable[..., Any]


@dataclass(frozen=True)
class Rule:
    """One wording of one name."""

    words: tuple[str, ...]  # words, and names of other rules
    meaning: Meaning | None


class Grammar:
    """Rules by name. A name in capitals has a meaning, one in <> has none."""

    def __init__(self) -> None:
        self.rules: dict[str, list[Rule]] = {}

    def add(self, name: str, wordings: str, meaning: Meaning | None = None) -> None:
        """`wordings`: alternatives, `|` between them."""
        for ending in ("1", "2") if "#" in name + wordings else ("",):
            rules = self.rules.setdefault(name.replace("#", ending), [])
            for wording in wordings.split("|"):
                for words in _spellings(wording, ending):
                    rule = Rule(words, meaning)
                    assert meaning is not None or sum(map(has_meaning, words)) <= 1, (name, words)
                    if words not in [other.words for other in rules]:
                        rules.append(rule)

    def check(self) -> None:
        """Every name in a wording has rules."""
        names = {word for rules in self.rules.values() for rule in rules for word in rule.words if is_name(word)}
        assert names <= set(self.rules), names - set(self.rules)


def is_name(word: str) -> bool:
    """Whether a part of a wording is the name of other wordings, not a word of the sentence."""
    return word[0] == "<" or word[0].isupper()


def has_meaning(word: str) -> bool:
    """Whether a part of a wording has a meaning."""
    return word[0].isupper()


def _spellings(wording: str, ending: str) -> list[tuple[str, ...]]:
    """Every way to read the `(a)`, `a/b` and `#` of one wording."""
    choices: list[list[str]] = []
    for token in re.findall(r"\([^)]*\)|\S+", wording):
        options = token.strip("()").split("/")
        choices.append([*options, ""] if token[0] == "(" else options)
    spellings = []
    for parts in itertools.product(*choices):
        words = [_with_ending(word, ending) for part in parts for word in part.split()]
        if words:
            spellings.append(tuple(words))
    return spellings


def _with_ending(word: str, ending: str) -> str:
    """The word or name in the singular (ending "1") or the plural ("2")."""
    if "#" not in word:
        return word
    if is_name(word):
        return word.replace("#", ending)
    if ending == "1":
        return word.replace("#", "")
    return word.replace("#", "es" if word == "box#" else "s")
