"""Compute accuracy and consistency of an NLVR2 results file, with the rules of the official evaluation.

    python scripts/eval_nlvr2.py results.csv dev.json

Each line of `results.csv` is `identifier,True` or `identifier,False`; each line of the official annotations is a JSON
object (plain or .gz). The results must have one answer for each annotated example, and no others. This file also runs
alone and needs only Python.
"""

import argparse
import gzip
import json
import os
import re
import sys
import zlib


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Print `accuracy=…` and `consistency=…`, and return both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "output_file", metavar="CSV", help="results file; each line is identifier,True or identifier,False"
    )
    parser.add_argument(
        "annotation_file", metavar="ANNOTATION_JSONL", help="official annotations, one JSON object per line"
    )
    args = parser.parse_args(argv)
    try:
        scores = evaluate(read_answers(args.output_file), read_labels(args.annotation_file))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    try:
        print("".join(f"{name}={value}\n" for name, value in scores.items()), end="", flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would try again at its end
        if isinstance(error, BrokenPipeError):  # the reader of the output, such as `head`, has ended
            sys.exit(1)
        print(f"error: standard output cannot be written: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    return scores


def read_answers(path: str) -> dict[str, bool]:
    """Read a results file: identifier to answer."""
    answers: dict[str, bool] = {}
    for number, line in lines(path):
        identifier, _, answer = line.rpartition(",")
        add(answers, identifier.strip(), answer.strip(), f"{path}, line {number}")
    return answers


def read_labels(path: str) -> dict[str, bool]:
    """Read an annotations file: identifier to label."""
    labels: dict[str, bool] = {}
    for number, line in lines(path):
        location = f"{path}, line {number}"
        try:
            entry = json.loads(line)
            identifier, label = entry["identifier"], entry["label"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f"{location}: the line is not a JSON object with identifier and label") from None
        add(labels, identifier, str(label), location)
    return labels


def lines(path: str) -> list[tuple[int, str]]:
    """Read a text file, plain or gzipped: (number from 1, line) of every line that is not blank.

    The text may be UTF-8, with or without a byte-order mark, or UTF-16. `ValueError`, with the path, for other bytes.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{path}: not a file")  # a pipe would be waited for
    with open(path, "rb") as stream:
        content = stream.read()
    try:
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        text = content.decode(json.detect_encoding(content))
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: the gzipped file is damaged: {error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from None
    return [(number, line.strip()) for number, line in enumerate(re.split("\r\n?|\n", text), 1) if line.strip()]


def add(answers: dict[str, bool], identifier: str, answer: str, location: str) -> None:
    """Add one answer to `answers`. `ValueError` for a wrong or repeated identifier, or a wrong truth value."""
    if not isinstance(identifier, str) or sentence_of(identifier) is None:
        raise ValueError(f"{location}: {identifier!r} is not an NLVR2 identifier such as dev-896-0-1")
    if answer.lower() not in ("true", "false"):
        raise ValueError(f"{location}: {answer!r} is neither True nor False")
    if identifier in answers:
        raise ValueError(f"{location}: {identifier} occurs twice")
    answers[identifier] = answer.lower() == "true"


def sentence_of(identifier: str) -> tuple[str, ...] | None:
    """The key of the sentence: the identifier without the third of four parts, which is the image pair.

    In NLVR2's contrast set a fifth part numbers the variants of one example; the key is the example. None for others.
    """
    parts = identifier.split("-")
    if len(parts) not in (4, 5) or (len(parts) == 5 and not all(part.isdecimal() for part in parts[1:])):
        return None
    return tuple(parts[:4] if len(parts) == 5 else parts[:2] + parts[3:])


def evaluate(answers: dict[str, bool], labels: dict[str, bool]) -> dict[str, float]:
    """Accuracy, the share of correct examples, and consistency, the share of sentences correct for all their pairs."""
    for name, ids in (("missing", labels.keys() - answers.keys()), ("unknown", answers.keys() - labels.keys())):
        if ids or not labels:
            few = ", ".join(sorted(ids)[:5])
            raise ValueError(f"{len(ids)} {name} identifiers in the results; {len(labels)} are annotated: {few}")
    correct = 0
    sentences: dict[tuple[str, ...] | None, bool] = {}
    for identifier, label in labels.items():
        right, sentence = answers[identifier] == label, sentence_of(identifier)
        correct += right
        sentences[sentence] = sentences.get(sentence, True) and right
    return {"accuracy": correct / len(labels), "consistency": sum(sentences.values()) / len(sentences)}


if __name__ == "__main__":
    main()
