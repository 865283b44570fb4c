"""How text meets a vocabulary: lower-cased or not, with accents or not, by the settings of its own folder.

A Hugging Face folder says so in `tokenizer_config.json` and `tokenizer.json`. Of a vocab.txt alone it is a guess.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import InputError
from utils.files import read_json
from utils.formats import TEXT_KEYS

CONFIG, FAST = "tokenizer_config.json", "tokenizer.json"  # of Hugging Face, the second for `tokenizers`
NORMALIZER_KEYS = dict(zip(("lowercase", "strip_accents", "handle_chinese_chars"), TEXT_KEYS))
STEPS = ("Lowercase", "StripAccents", "NFD", "NFC", "NFKD", "NFKC", "Strip")  # of a normalizer of type Sequence


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How text is made fit for a vocabulary, and who says so."""

    do_lower_case: bool
    strip_accents: bool
    tokenize_chinese_chars: bool  # whether each Chinese character is a word
    reason: str

    def describe(self) -> str:
        """One line for the log."""
        text = "text is lower-cased" if self.do_lower_case else "text keeps its capitals"
        text += "" if self.strip_accents == self.do_lower_case else f", strip_accents {self.strip_accents}"
        return text + ("" if self.tokenize_chinese_chars else ", Chinese text is not split") + f": {self.reason}"


def find_settings(vocab: Path, pieces: Sequence[str], do_lower_case: bool | None) -> Settings:
    """The settings for the vocabulary file `vocab` with these `pieces`. `do_lower_case`: the flag, None without it.

    `InputError` where the files of the folder contradict each other or the flag, or ask for what is not known here.
    """
    folder = vocab.parent if vocab.name in ("vocab.txt", FAST) else None
    config = config_settings(folder / CONFIG) if folder else {}
    fast = fast_settings(folder / FAST, pieces) if folder else {}
    for key in config.keys() & fast.keys():
        if config[key] != fast[key]:
            raise InputError(
                f"{CONFIG} and {FAST} contradict each other",
                file=vocab.parent / CONFIG,
                key=key,
                found=config[key],
                expected=f"{fast[key]}, as in {FAST}",
                remedy="restore the original files, or remove the wrong one",
            )
    values, file = fast | config, CONFIG if "do_lower_case" in config else FAST
    own_case = values.get("do_lower_case")
    if None not in (own_case, do_lower_case) and own_case != do_lower_case:
        raise InputError(
            "the flag contradicts the vocabulary's own settings",
            file=vocab.parent / file,
            key="do_lower_case",
            found=f"--{'' if do_lower_case else 'no-'}do_lower_case",
            expected=f"{own_case}, as in {file}",
            remedy="leave out the flag; to go against the vocabulary, give a copy of its vocab.txt alone",
        )
    guessed_case, sign = guess(pieces)
    if own_case is None and do_lower_case is None:
        case, reason = guessed_case, f"{sign} (a guess; --do_lower_case and --no-do_lower_case override it)"
    else:
        case, reason = bool(do_lower_case), "the flag says so"
        if own_case is not None:
            case, reason = own_case, f"{file} says so"
        reason += f", against this sign: {sign}" if case != guessed_case else ""
    return Settings(
        do_lower_case=case,
        strip_accents=values.get("strip_accents", case),
        tokenize_chinese_chars=values.get("tokenize_chinese_chars", True),
        reason=reason,
    )


def guess(pieces: Sequence[str]) -> tuple[bool, str]:
    """Whether a vocabulary is for lower-cased text, by its capital letters; and the sign for it."""
    words = [piece for piece in pieces if not (piece.startswith("[") and piece.endswith("]"))]
    if sum(any(map(str.isupper, word)) for word in words) > len(words) / 1000:
        return False, "the vocabulary has capital letters"
    return True, "the vocabulary has no capital letters"


def config_settings(file: Path) -> dict[str, bool]:
    """The settings in a tokenizer_config.json; {} without that file."""
    if not file.exists():
        return {}
    content = read_object(file)
    if content.get("do_basic_tokenize", True) is not True:
        raise unknown(file, "do_basic_tokenize", content["do_basic_tokenize"], "true")
    return {key: truth(file, key, content[key]) for key in TEXT_KEYS if content.get(key) is not None}


def fast_settings(file: Path, pieces: Sequence[str]) -> dict[str, bool]:
    """The settings in a tokenizer.json; {} without that file. `pieces`: those of vocab.txt, which must be the same."""
    if not file.exists():
        return {}
    content = read_object(file)
    model, normalizer = content.get("model"), content.get("normalizer")
    if not isinstance(model, dict) or model.get("type", "WordPiece") != "WordPiece":
        raise unknown(file, "model", model.get("type") if isinstance(model, dict) else model, "type WordPiece")
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or any(vocabulary.get(piece) != id_ for id_, piece in enumerate(pieces)):
        raise unknown(file, "model.vocab", "another vocabulary", "the word pieces of vocab.txt beside it, in its order")
    if normalizer is None:
        return dict.fromkeys(TEXT_KEYS, False)
    steps = normalizer.get("normalizers") if isinstance(normalizer, dict) else None
    if isinstance(normalizer, dict) and normalizer.get("type") == "BertNormalizer":
        if normalizer.get("clean_text", True) is not True:
            raise unknown(file, "normalizer.clean_text", normalizer["clean_text"], "true")
        values = {ours: normalizer.get(theirs) for theirs, ours in NORMALIZER_KEYS.items()}
        return {key: truth(file, f"normalizer, {key}", value) for key, value in values.items() if value is not None}
    names = [step.get("type") if isinstance(step, dict) else None for step in steps or [normalizer]]
    if not set(names) <= set(STEPS):
        raise unknown(file, "normalizer", names, f"BertNormalizer, or of {', '.join(STEPS)}")
    return dict(zip(TEXT_KEYS, ("Lowercase" in names, "StripAccents" in names, False)))


def fast_pieces(file: Path) -> list[str]:
    """The word pieces in a tokenizer.json, in the order of their ids; `InputError` unless these are 0, 1, 2, …"""
    model = read_object(file).get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    vocabulary = vocabulary if isinstance(vocabulary, dict) else {}
    ids = list(vocabulary.values())
    if not ids or any(type(id_) is not int for id_ in ids) or sorted(ids) != list(range(len(ids))):
        raise unknown(file, "model.vocab", f"{len(ids)} ids", "word pieces with the ids 0, 1, 2, …, each once")
    return [piece for piece, _ in sorted(vocabulary.items(), key=lambda item: int(item[1]))]


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON file whose root is an object; `InputError` otherwise."""
    content = read_json(file)
    if not isinstance(content, dict):
        raise unknown(file, "the whole file", f"a {type(content).__name__}", "an object")
    return content


def truth(file: Path, key: str, value: Any) -> bool:
    """`value`; `InputError` unless it is true or false."""
    if not isinstance(value, bool):
        raise unknown(file, key, value, "true or false")
    return value


def unknown(file: Path, key: str, value: object, expected: str) -> InputError:
    """The `InputError` for a setting of a tokeniser that this one does not have."""
    return InputError(
        "the folder asks for another tokeniser than BERT's",
        file=file,
        key=key,
        found=str(value)[:80],
        expected=expected,
        remedy="restore the original files, or give a copy of vocab.txt alone",
    )
