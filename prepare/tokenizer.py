"""Text to word pieces: BERT's WordPiece, equal to the tokeniser that existing text stores were made with.

That tokeniser (pytorch-pretrained-bert's `BertTokenizer`) was called word by word on `text.strip().split()`;
so is this one. The `tokenizers` library cuts words into pieces; splitting text into words is done here:
the library's own splitter knows no names to keep whole (`[MASK]`), raises on lone surrogates and has older
Unicode tables. Words repeat in captions and questions, so each is cut once and remembered.
"""

import hashlib
import unicodedata
from pathlib import Path
from typing import Any

from tokenizers.models import WordPiece as WordPieceModel

from utils.errors import InputError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
FIRST_WORD = "!"  # random replacements of masked language modelling are drawn from this piece to the last one
MAX_WORD_CHARS = 100  # longer words are [UNK], as in the old tokeniser
CACHED_WORDS = 200_000  # so that memory stays bounded on any input
CHINESE = (  # the blocks that BERT sets apart, one character a word (not Kana, not Hangul)
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class WordPiece:
    """The tokeniser of one vocabulary file.

    Attributes: `pad`, `unk`, `cls`, `sep`, `mask` (ids), `v_range` (id of "!", size of vocabulary), `pieces`
    (id to piece), `sha256` (of the pieces, one a line: as `sha256sum vocab.txt` of a file with plain line
    feeds), `name` (for people: the vocabulary's folder or file name) and `do_lower_case`.
    """

    def __init__(self, vocab: str | Path, do_lower_case: bool = False):
        """Load `vocab`: a vocab.txt, or a folder that holds one. `InputError` when it is none."""
        self.path = find_vocab(vocab)
        self.name = self.path.resolve().parent.name if self.path.name == "vocab.txt" else self.path.stem
        self.do_lower_case = do_lower_case
        self.pieces = read_vocab(self.path)
        self.sha256 = hashlib.sha256("".join(f"{piece}\n" for piece in self.pieces).encode()).hexdigest()
        self._ids = {piece: id_ for id_, piece in enumerate(self.pieces)}
        self.pad, self.unk, self.cls, self.sep, self.mask = (self._ids[name] for name in SPECIAL)
        self.v_range = (self._ids[FIRST_WORD], len(self.pieces))
        self._model = WordPieceModel(self._ids, unk_token="[UNK]", max_input_chars_per_word=MAX_WORD_CHARS)
        self._cache: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Ids of the word pieces of `text`, without [CLS] and [SEP]."""
        ids: list[int] = []
        for word in text.split():
            word_ids = self._cache.get(word)
            if word_ids is None:
                word_ids = self._encode_word(word)
                if len(self._cache) < CACHED_WORDS:
                    self._cache[word] = word_ids
            ids += word_ids
        return ids

    def tokenize(self, text: str) -> list[str]:
        """The word pieces of `text` ("play", "##ing")."""
        return [self.pieces[id_] for id_ in self.encode(text)]

    def meta(self) -> dict[str, Any]:
        """What a text store's meta.json says of its tokeniser, under the release's keys and two of ours."""
        return {
            "tokenizer": self.name,
            "toker": self.name,
            "UNK": self.unk,
            "CLS": self.cls,
            "SEP": self.sep,
            "MASK": self.mask,
            "v_range": list(self.v_range),
            "do_lower_case": self.do_lower_case,
            "vocab_sha256": self.sha256,
        }

    def _encode_word(self, word: str) -> list[int]:
        words = split_words(word, self.do_lower_case)
        return [token.id for part in words for token in self._model.tokenize(part)]


def split_words(text: str, do_lower_case: bool = False) -> list[str]:
    """BERT's basic splitting: no control characters; a Chinese character or punctuation mark is a word.

    The five special names stay whole, and are not lower-cased, where white space or Chinese characters stand
    around them: `[MASK]`, but `[`, `MASK`, `]`, `.` for `[MASK].`
    """
    spaced_text = "".join(f" {char} " if is_chinese(char) else char for char in text if not is_dropped(char))
    words = []
    for part in spaced_text.split():
        if part in SPECIAL:
            words.append(part)
            continue
        if do_lower_case:
            part = lower_without_accents(part)
        words += "".join(f" {char} " if is_punctuation(char) else char for char in part).split()
    return words


def is_dropped(char: str) -> bool:
    """Control, format, private, unassigned and surrogate code points (white space aside), and U+FFFD."""
    return char == "\ufffd" or (unicodedata.category(char)[0] == "C" and not char.isspace())


def is_chinese(char: str) -> bool:
    """Whether BERT sets `char` apart as a Chinese character."""
    return any(first <= ord(char) <= last for first, last in CHINESE)


def is_punctuation(char: str) -> bool:
    """ASCII that is neither letter, digit, space nor control, and Unicode's categories P*."""
    if char.isascii():
        return char.isprintable() and not char.isalnum() and char != " "
    return unicodedata.category(char)[0] == "P"


def lower_without_accents(text: str) -> str:
    """Lower case, without combining marks (é becomes e): what uncased vocabularies were made from."""
    decomposed = unicodedata.normalize("NFD", text.lower())
    return "".join(char for char in decomposed if unicodedata.category(char) != "Mn")


def find_vocab(path: str | Path) -> Path:
    """The vocab.txt meant by `path`: a file, or a folder that holds vocab.txt."""
    path = Path(path)
    if path.is_dir():
        path = path / "vocab.txt"
    if not path.is_file():
        raise InputError(
            "vocabulary not found",
            file=path,
            expected="a vocab.txt (one word piece a line) or a folder that holds one",
            remedy="nothing is downloaded: give the path of the vocab.txt that came with the BERT weights, "
            "such as pretrained/bert-base-cased/vocab.txt",
        )
    return path


def read_vocab(path: Path) -> list[str]:
    """The word pieces of a vocab.txt, in the order of their ids; checked to be a BERT vocabulary."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: U+0085 and U+2028 are pieces
    except UnicodeDecodeError as error:
        raise InputError("vocabulary is not UTF-8 text", file=path, found=error) from None
    if lines[-1] == "":
        lines.pop()
    pieces = [line.strip() for line in lines]
    missing_pieces = [name for name in (*SPECIAL, FIRST_WORD) if name not in pieces]
    if missing_pieces:
        raise InputError(
            "not a BERT vocabulary",
            file=path,
            found=f"{len(pieces)} lines without {' '.join(missing_pieces)}",
            expected="one word piece a line, among them " + " ".join((*SPECIAL, FIRST_WORD)),
        )
    line_numbers: dict[str, int] = {}
    for number, piece in enumerate(pieces, 1):
        if piece in line_numbers:
            raise InputError(
                "a word piece stands twice in the vocabulary",
                file=path,
                key=f"line {number}",
                found=f"{piece!r}, also on line {line_numbers[piece]}",
                remedy="restore the original file: ids are line numbers, so no line may be added or lost",
            )
        line_numbers[piece] = number
    return pieces
