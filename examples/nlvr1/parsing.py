"""Derivations: what a sentence means by the grammar, how often rules are used, and new sentences by the same habits."""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from math import log
from typing import Any, NamedTuple

import numpy as np

from examples.nlvr1 import rules, rules_panels, rules_said, rules_towers
from examples.nlvr1.grammar import Grammar, Rule, carries, is_name
from examples.nlvr1.scene import Scene

SMOOTH = 0.1  # the share of a name's uses that goes to all of its rules alike
LONGEST = 25  # words of a statement


class Tree(NamedTuple):
    """A rule, and trees for the names in its wording."""

    rule: Rule
    parts: tuple["Tree", ...]

    def meaning(self, scene: Scene) -> Any:
        """For S: (P,) bool, of which pictures the sentence is true."""
        names = filter(is_name, self.rule.words)
        values = [part.meaning(scene) for name, part in zip(names, self.parts) if carries(name)]
        return values[0] if self.rule.meaning is None else self.rule.meaning(scene, *values)

    def words(self) -> list[str]:
        parts, said = iter(self.parts), list[str]()
        for word in self.rule.words:
            said += next(parts).words() if is_name(word) else [word]
        return said

    def rules(self) -> list[Rule]:
        return [self.rule, *(rule for part in self.parts for rule in part.rules())]


@cache
def grammar() -> Grammar:
    """All of the rules."""
    g = Grammar()
    for part in (*rules.ALL, *rules_panels.ALL, *rules_towers.ALL, *rules_said.ALL):
        part(g)
    g.check()
    return g


class Habits:
    """How often each rule is used, and so how to draw sentences and which of two readings to prefer."""

    def __init__(self, sentences: Sequence[list[str]] = (), rounds: int = 2):
        """`sentences`: read `rounds` times, each time by the habits found before; without them all rules are equal."""
        self.g, self.unread = grammar(), 0
        self._weigh(Counter())
        for _ in range(rounds if sentences else 0):
            said, used = Counter(map(tuple, sentences)), Counter[int]()
            self.unread = 0
            for words, times in said.items():
                tree = self.parse(list(words))
                self.unread += times * (tree is None)
                for rule in tree.rules() if tree else []:
                    used[id(rule)] += times
            self._weigh(used)

    def _weigh(self, used: Counter[int]) -> None:
        self.odds, self.cost = dict[str, np.ndarray](), dict[int, float]()
        for name, choices in self.g.rules.items():
            count = np.array([used[id(rule)] for rule in choices], float)
            share = count + (SMOOTH * count.sum() + 0.01) / len(choices)
            self.odds[name] = np.cumsum(share / share.sum())
            self.cost |= {id(rule): -log(p) for rule, p in zip(choices, share / share.sum())}

    def draw(self, rng: np.random.Generator, name: str = "S") -> Tree:
        """A sentence."""
        choices = self.g.rules[name]
        rule = choices[min(int(np.searchsorted(self.odds[name], rng.random())), len(choices) - 1)]
        return Tree(rule, tuple(self.draw(rng, word) for word in rule.words if is_name(word)))

    def parse(self, words: list[str]) -> Tree | None:
        """The likeliest reading of a sentence; None where the grammar has none."""
        found = _Chart(self, words).at("S", 0).get(len(words))
        return found[1] if found else None


class _Chart:
    """Readings of the parts of one sentence, from the top down."""

    def __init__(self, habits: Habits, words: list[str]):
        self.habits, self.words = habits, words
        self.known: dict[tuple[str, int], dict[int, tuple[float, Tree]]] = {}

    def at(self, name: str, start: int) -> dict[int, tuple[float, Tree]]:
        """By where they end, the likeliest readings as `name` of the words from `start` on: cost and tree."""
        if (name, start) in self.known:
            return self.known[name, start]
        best = self.known[name, start] = {}  # a name that begins with itself finds nothing there
        for rule in self.habits.g.rules[name]:
            for end, (cost, parts) in self._along(rule, start).items():
                cost += self.habits.cost[id(rule)]
                if end not in best or cost < best[end][0]:
                    best[end] = cost, Tree(rule, parts)
        return best

    def _along(self, rule: Rule, start: int) -> dict[int, tuple[float, tuple[Tree, ...]]]:
        states: dict[int, tuple[float, tuple[Tree, ...]]] = {start: (0.0, ())}
        for word in rule.words:
            after: dict[int, tuple[float, tuple[Tree, ...]]] = {}
            for at, (cost, parts) in states.items():
                if not is_name(word):
                    if at < len(self.words) and self.words[at] == word:
                        after[at + 1] = cost, parts
                    continue
                for end, (extra, tree) in self.at(word, at).items():
                    if end not in after or cost + extra < after[end][0]:
                        after[end] = cost + extra, (*parts, tree)
            if not after:
                return {}
            states = after
        return states
