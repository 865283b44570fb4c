"""Derivations: what a sentence means by the grammar, how often rules are used, and new sentences by the same habits."""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from math import log
from typing import Any, NamedTuple

import numpy as np

from examples.nlvr1 import rules, rules_panels, rules_statements, rules_towers
from examples.nlvr1.grammar import Grammar, Rule, has_meaning, is_name
from examples.nlvr1.scene import Scene

SMOOTHING = 0.1  # the share of a name's uses that goes to all of its rules alike
MAX_WORDS = 25  # words of a statement


class Tree(NamedTuple):
    """A rule, and trees for the names in its wording."""

    rule: Rule
    parts: tuple["Tree", ...]

    def meaning(self, scene: Scene) -> Any:
        """For S: (P,) bool, of which pictures the sentence is true."""
        names = filter(is_name, self.rule.words)
        values = [part.meaning(scene) for name, part in zip(names, self.parts) if has_meaning(name)]
        return values[0] if self.rule.meaning is None else self.rule.meaning(scene, *values)

    def words(self) -> list[str]:
        """The words of the sentence, in order."""
        parts, words = iter(self.parts), list[str]()
        for word in self.rule.words:
            words += next(parts).words() if is_name(word) else [word]
        return words

    def rules(self) -> list[Rule]:
        """The rules of this tree and of all its parts."""
        return [self.rule, *(rule for part in self.parts for rule in part.rules())]


@cache
def grammar() -> Grammar:
    """All of the rules."""
    g = Grammar()
    for part in (*rules.ALL, *rules_panels.ALL, *rules_towers.ALL, *rules_statements.ALL):
        part(g)
    g.check()
    return g


class Habits:
    """How often each rule is used, and so how to draw sentences and which of two readings to prefer."""

    def __init__(self, sentences: Sequence[list[str]] = (), rounds: int = 2):
        """`sentences`: read `rounds` times, each time by the habits found before; without them all rules are equal."""
        self.grammar, self.unread_count = grammar(), 0
        self._weigh(Counter())
        for _ in range(rounds if sentences else 0):
            sentence_counts, rule_counts = Counter(map(tuple, sentences)), Counter[int]()
            self.unread_count = 0
            for words, times in sentence_counts.items():
                tree = self.parse(list(words))
                self.unread_count += times * (tree is None)
                for rule in tree.rules() if tree else []:
                    rule_counts[id(rule)] += times
            self._weigh(rule_counts)

    def _weigh(self, rule_counts: Counter[int]) -> None:
        """Cumulative probabilities by name and costs, -log p, by rule, from the rules' counts by id."""
        self.cumulative, self.cost = dict[str, np.ndarray](), dict[int, float]()
        for name, choices in self.grammar.rules.items():
            count = np.array([rule_counts[id(rule)] for rule in choices], float)
            share = count + (SMOOTHING * count.sum() + 0.01) / len(choices)
            self.cumulative[name] = np.cumsum(share / share.sum())
            self.cost |= {id(rule): -log(p) for rule, p in zip(choices, share / share.sum())}

    def draw(self, rng: np.random.Generator, name: str = "S") -> Tree:
        """A sentence."""
        choices = self.grammar.rules[name]
        rule = choices[min(int(np.searchsorted(self.cumulative[name], rng.random())), len(choices) - 1)]
        return Tree(rule, tuple(self.draw(rng, word) for word in rule.words if is_name(word)))

    def parse(self, words: list[str]) -> Tree | None:
        """The likeliest reading of a sentence; None where the grammar has none."""
        reading = _Chart(self, words).readings("S", 0).get(len(words))
        return reading[1] if reading else None


class _Chart:
    """Readings of the parts of one sentence, from the top down."""

    def __init__(self, habits: Habits, words: list[str]):
        self.habits, self.words = habits, words
        self.memo: dict[tuple[str, int], dict[int, tuple[float, Tree]]] = {}

    def readings(self, name: str, start: int) -> dict[int, tuple[float, Tree]]:
        """By where they end, the likeliest readings as `name` of the words from `start` on: cost and tree."""
        if (name, start) in self.memo:
            return self.memo[name, start]
        best = self.memo[name, start] = {}  # a name that begins with itself finds nothing there
        for rule in self.habits.grammar.rules[name]:
            for end, (cost, parts) in self._expand(rule, start).items():
                cost += self.habits.cost[id(rule)]
                if end not in best or cost < best[end][0]:
                    best[end] = cost, Tree(rule, parts)
        return best

    def _expand(self, rule: Rule, start: int) -> dict[int, tuple[float, tuple[Tree, ...]]]:
        """By where they end, the likeliest readings by one rule: cost of the parts, and their trees."""
        states: dict[int, tuple[float, tuple[Tree, ...]]] = {start: (0.0, ())}
        for word in rule.words:
            next_states: dict[int, tuple[float, tuple[Tree, ...]]] = {}
            for position, (cost, parts) in states.items():
                if not is_name(word):
                    if position < len(self.words) and self.words[position] == word:
                        next_states[position + 1] = cost, parts
                    continue
                for end, (extra, tree) in self.readings(word, position).items():
                    if end not in next_states or cost + extra < next_states[end][0]:
                        next_states[end] = cost + extra, (*parts, tree)
            if not next_states:
                return {}
            states = next_states
        return states
