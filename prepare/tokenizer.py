"""The tokeniser: text to word pieces by BERT's WordPiece, with the ids of existing text stores.

The release called pytorch-pretrained-bert's `BertTokenizer` on each word of `text.strip().split()`, and this tokeniser
does the same. The `tokenizers` library splits words into pieces. Splitting text into words is done here: the library's
splitter does not keep special names such as `[MASK]` whole, fails on lone surrogates and has older Unicode tables.
Words repeat in captions and questions, so the pieces of each word are cached.
"""

import hashlib
import unicodedata
from pathlib import Path
from typing import Any

from tokenizers.models import WordPiece as WordPieceModel

from prepare.tokenizer_settings import FAST, Settings, fast_pieces, find_settings
from utils.errors import InputError
from utils.files import read_text
from utils.formats import TEXT_KEYS

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
FIRST_WORD = "!"  # masked language modelling draws random replacements from this piece to the last one
MAX_WORD_CHARS = 100  # longer words become [UNK], as in the old tokeniser
CACHED_WORDS = 200_000  # limits the memory of the cache
MAX_EXAMPLES = 5  # of words that are [UNK]
CHINESE = (  # Unicode blocks in which BERT treats every character as a word; Kana and Hangul are not among them
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class WordPiece:
    """The tokeniser of one vocabulary file.

    Attributes: `pad`, `unk`, `cls`, `sep`, `mask` (ids), `v_range` (id of "!", size of the vocabulary), `pieces` (id to
    piece), `sha256` (of the pieces, one per line: equal to `sha256sum vocab.txt` if lines end in a line feed), `name`
    (the folder or file name of the vocabulary), `settings`, and `unknown_words` (the first few that are [UNK]).
    """

    def __init__(self, vocab: str | Path, do_lower_case: bool | None = None):
        """Load `vocab`, a vocab.txt or a folder that holds one. `InputError` if it is not a BERT vocabulary.

        `do_lower_case`: None for what the folder says, or a guess by the vocabulary (`prepare/tokenizer_settings.py`).
        """
        self.path = find_vocab(vocab)
        is_folder = self.path.name in ("vocab.txt", FAST)
        self.name = self.path.resolve().parent.name if is_folder else self.path.stem
        self.pieces = read_vocab(self.path)
        self.settings = find_settings(self.path, self.pieces, do_lower_case)
        self.sha256 = hashlib.sha256("".join(f"{piece}\n" for piece in self.pieces).encode()).hexdigest()
        self._ids = {piece: id_ for id_, piece in enumerate(self.pieces)}
        self.pad, self.unk, self.cls, self.sep, self.mask = (self._ids[name] for name in SPECIAL)
        self.v_range = (self._ids[FIRST_WORD], len(self.pieces))
        self._model = WordPieceModel(self._ids, unk_token="[UNK]", max_input_chars_per_word=MAX_WORD_CHARS)
        self._cache: dict[str, list[int]] = {}
        self.unknown_words: list[str] = []

    def encode(self, text: str) -> list[int]:
        """Ids of the word pieces of `text`, without [CLS] and [SEP]."""
        ids: list[int] = []
        for word in text.split():
            word_ids = self._cache.get(word)
            if word_ids is None:
                word_ids = self._encode_word(word)
                if len(self.unknown_words) < MAX_EXAMPLES and self.unk in word_ids and word not in self.unknown_words:
                    self.unknown_words.append(word)
                if len(self._cache) < CACHED_WORDS:
                    self._cache[word] = word_ids
            ids += word_ids
        return ids

    def tokenize(self, text: str) -> list[str]:
        """The word pieces of `text` ("play", "##ing")."""
        return [self.pieces[id_] for id_ in self.encode(text)]

    def meta(self) -> dict[str, Any]:
        """The tokeniser's part of a text store's meta.json, under the release's keys and a few of our own."""
        return {
            "tokenizer": self.name,
            "toker": self.name,
            "UNK": self.unk,
            "CLS": self.cls,
            "SEP": self.sep,
            "MASK": self.mask,
            "v_range": list(self.v_range),
            **{key: getattr(self.settings, key) for key in TEXT_KEYS},
            "vocab_sha256": self.sha256,
        }

    def _encode_word(self, word: str) -> list[int]:
        words = split_words(word, self.settings)
        return [token.id for part in words for token in self._model.tokenize(part)]


def split_words(text: str, settings: Settings) -> list[str]:
    """Split text into words as BERT does: each Chinese character and punctuation mark is a word of its own.

    Control characters are dropped. The five special names stay whole, and are not lower-cased, if white space or
    Chinese characters surround them: `[MASK]` stays, but `[MASK].` becomes `[`, `MASK`, `]`, `.`
    """
    split = settings.tokenize_chinese_chars
    spaced_text = "".join(f" {char} " if split and is_chinese(char) else char for char in text if not is_dropped(char))
    words = []
    for part in spaced_text.split():
        if part in SPECIAL:
            words.append(part)
            continue
        part = part.lower() if settings.do_lower_case else part
        part = without_accents(part) if settings.strip_accents else part
        words += "".join(f" {char} " if is_punctuation(char) else char for char in part).split()
    return words


def is_dropped(char: str) -> bool:
    """Whether BERT drops `char`: control, format, private, unassigned and surrogate code points, and U+FFFD.

    White space is kept.
    """
    return char == "\ufffd" or (unicodedata.category(char)[0] == "C" and not char.isspace())


def is_chinese(char: str) -> bool:
    """Whether BERT treats `char` as a Chinese character, which is a word of its own."""
    return any(first <= ord(char) <= last for first, last in CHINESE)


def is_punctuation(char: str) -> bool:
    """Whether `char` is punctuation: printable ASCII but letters, digits and space, or a Unicode category P*."""
    if char.isascii():
        return char.isprintable() and not char.isalnum() and char != " "
    return unicodedata.category(char)[0] == "P"


def without_accents(text: str) -> str:
    """`text` without accents (é becomes e), as uncased vocabularies need it."""
    decomposed = unicodedata.normalize("NFD", text)
    return "".join(char for char in decomposed if unicodedata.category(char) != "Mn")


def find_vocab(path: str | Path) -> Path:
    """The path of the vocabulary: `path`, or vocab.txt in the folder `path`, else tokenizer.json there.

    `InputError` if there is none.
    """
    path = Path(path)
    if path.is_dir():
        path = path / ("vocab.txt" if (path / "vocab.txt").exists() or not (path / FAST).exists() else FAST)
    if not path.is_file():
        raise InputError(
            "vocabulary not found",
            file=path,
            expected="a vocab.txt (one word piece per line) or a folder that holds one",
            remedy="give the path of the vocab.txt that came with the BERT weights, such as "
            "pretrained/bert-base-cased/vocab.txt; nothing is downloaded",
        )
    return path


def read_vocab(path: Path) -> list[str]:
    """Read the word pieces of a vocab.txt or tokenizer.json, in the order of their ids.

    `InputError` if it is not a BERT vocabulary.
    """
    if path.name == FAST:
        pieces = fast_pieces(path)
    else:
        lines = read_text(path).split("\n")  # not splitlines(), because U+0085 and U+2028 are pieces
        while lines and not lines[-1].strip():  # blank lines at the end
            lines.pop()
        pieces = [line.strip() for line in lines]
    missing_pieces = [name for name in (*SPECIAL, FIRST_WORD) if name not in pieces]
    if missing_pieces:
        raise InputError(
            "not a BERT vocabulary",
            file=path,
            found=f"{len(pieces)} lines without {' '.join(missing_pieces)}",
            expected="one word piece per line, including " + " ".join((*SPECIAL, FIRST_WORD)),
            remedy="give the vocab.txt that came with the BERT weights",
        )
    line_numbers: dict[str, int] = {}
    for number, piece in enumerate(pieces, 1):
        if piece in line_numbers:
            raise InputError(
                "a word piece occurs twice in the vocabulary",
                file=path,
                key=f"line {number}",
                found=f"{piece!r}, also in line {line_numbers[piece]}",
                remedy="restore the original file; ids are line numbers, so no line may be added or removed",
            )
        line_numbers[piece] = number
    return pieces
