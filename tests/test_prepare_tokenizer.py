"""The tokeniser gives the ids of pytorch-pretrained-bert's tokeniser, which made the existing text stores."""

import gzip
import hashlib
import json
import os
import random
import string
from pathlib import Path

import pytest

from prepare import tokenizer as module
from prepare.tokenizer import SPECIAL, WordPiece
from utils.errors import InputError

WORDS = "a man two people cat dog ride on the street red play Hello don t un afford able hôtel hotel be"
SENTENCES = [
    "A man riding a wave on top of a surfboard.",
    "  Two   dogs\tplaying\nin the street ",
    "What color is the man's shirt, and why isn't it red?",
    "don't can't I'm o'clock rock-n-roll e-mail@example.com 3.5% $1,000 #1 a/b",
    "[MASK] [CLS] [SEP] [PAD] [UNK]",
    "[MASK]. a[MASK] [MASK][MASK] [mask] [Mask] [ MASK ] ([SEP])",
    "中[MASK]文 [CLS]中 \u200b[MASK] [MASK]\x00 \x07[SEP]",
    "Café hôtel naïve Ångström e\u0301tude Straße İstanbul ΑΣ ὈΔΥΣΣΕΎΣ ﬁne",
    "日本語のテキスト 한국어 中文字符 русский العربية हिन्दी",
    "“quoted” – dash — ellipsis… ¿qué? «guillemets» ‘single’ ¡olé! 5′ © ™ € ^ ` ~ |",
    "zero\u200bwidth soft\u00adhyphen no\u00a0break thin\u2009space line\u2028sep next\x85line bom\ufeff \ufffd",
    "control\x01chars\x1cand\x7fmore \x00 nul",
    "emoji 😀 👩‍👩‍👧 family 🇫🇷 flag \U0001fae0 new",
    "lone \ud83d surrogate \udc00x",
    "x" * 100 + " " + "x" * 101 + " " + "e\u0301" * 60,
    "a" * 99 + "!" + "b" * 120,
    "unaffordable playing Playing PLAYING hotels",
    "",
    "   ",
]


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small cased vocabulary: special names, punctuation, letters, some words, some Unicode."""
    letters = string.ascii_letters + string.digits + "éôïüßÅσςидअ中文字한"
    pieces = [*SPECIAL, "[unused1]", *string.punctuation, "“", "…", "©", "€", "\u0301"]
    pieces += [*letters, *(f"##{letter}" for letter in letters), "##\u0301", "##ing", "##s", "##ford", "##able", "xx"]
    path = tmp_path_factory.mktemp("bert-tiny-cased") / "vocab.txt"
    path.write_text("".join(f"{piece}\n" for piece in dict.fromkeys(pieces + WORDS.split())), encoding="utf-8")
    return path


def old_ids(vocab: Path, texts: list[str], do_lower_case: bool) -> list[list[int]]:
    """The ids of the release's preparation, which called its tokeniser on each word."""
    old = pytest.importorskip(
        "pytorch_pretrained_bert.tokenization", reason="pytorch-pretrained-bert, the oracle, is not installed"
    )
    bert = old.BertTokenizer(str(vocab), do_lower_case=do_lower_case)
    return [
        [id_ for word in text.strip().split() for id_ in bert.convert_tokens_to_ids(bert.tokenize(word))]
        for text in texts
    ]


@pytest.mark.parametrize("do_lower_case", [False, True])
def test_sentences_equal_the_old_tokeniser(vocab: Path, do_lower_case: bool) -> None:
    new = WordPiece(vocab, do_lower_case)
    for text, ids in zip(SENTENCES, old_ids(vocab, SENTENCES, do_lower_case), strict=True):
        assert new.encode(text) == ids, text


@pytest.mark.parametrize("do_lower_case", [False, True])
def test_code_points_equal_the_old_tokeniser(vocab: Path, do_lower_case: bool) -> None:
    """Every code point below U+3100 and every 13th above, inside a word."""
    points = [*range(0x3100), *range(0x3100, 0x30000, 13), *range(0xD7F0, 0xE010), *range(0xFFF0, 0x10000)]
    texts = [f"a{chr(point)}b" for point in points]
    assert list(map(WordPiece(vocab, do_lower_case).encode, texts)) == old_ids(vocab, texts, do_lower_case)


def test_random_mixtures_equal_the_old_tokeniser(vocab: Path) -> None:
    draw = random.Random(0)
    parts = [*SPECIAL, *WORDS.split(), *"  .,'-[]中é\u0301\u200b\x00😀", "MASK", "playing", "\ud800"]
    texts = ["".join(draw.choices(parts, k=draw.randint(1, 12))) for _ in range(3000)]
    assert list(map(WordPiece(vocab).encode, texts)) == old_ids(vocab, texts, False)


def test_real_captions_equal_the_old_tokeniser() -> None:
    if not (real := os.environ.get("UNITER_REALDATA")):
        pytest.skip("UNITER_REALDATA names no folder of real data")
    vocab = Path(real) / "bert-base-cased" / "vocab.txt"
    with gzip.open(Path(real) / "coco_captions" / "captions_val2017.json.gz") as stream:
        captions = [entry["caption"] for entry in json.load(stream)["annotations"]]
    new = WordPiece(vocab)
    assert len(captions) == 25014
    assert (new.pad, new.unk, new.cls, new.sep, new.mask, new.v_range) == (0, 100, 101, 102, 103, (106, 28996))
    assert list(map(new.encode, captions)) == old_ids(vocab, captions, False)


def test_pieces_and_ids(vocab: Path) -> None:
    new = WordPiece(vocab)
    assert new.tokenize("unaffordable, Playing dogs") == [
        *["un", "##a", "##f", "##ford", "##able", ","],
        *["P", "##l", "##a", "##y", "##ing", "dog", "##s"],
    ]
    assert new.tokenize("[MASK] [MASK].") == ["[MASK]", "[", "M", "##A", "##S", "##K", "]", "."]
    assert new.tokenize("x" * 101 + " ☃") == ["[UNK]", "[UNK]"]
    assert WordPiece(vocab, do_lower_case=True).tokenize("HÔTEL") == ["hotel"]
    assert new.tokenize("hôtel") == ["hôtel"]
    assert new.encode("") == new.encode(" \x00 ") == []
    assert (new.pad, new.unk, new.cls, new.sep, new.mask) == (0, 1, 2, 3, 4)
    assert new.v_range == (6, len(vocab.read_text(encoding="utf-8").split("\n")) - 1)


def test_meta_has_the_release_keys(vocab: Path) -> None:
    meta = WordPiece(vocab.parent).meta()  # a folder works too
    assert {key: meta[key] for key in ("UNK", "CLS", "SEP", "MASK")} == {"UNK": 1, "CLS": 2, "SEP": 3, "MASK": 4}
    assert meta["tokenizer"] == meta["toker"] == vocab.parent.name
    assert meta["vocab_sha256"] == hashlib.sha256(vocab.read_bytes()).hexdigest()
    assert meta["do_lower_case"] is False
    assert json.loads(json.dumps(meta)) == meta


def test_line_ends_do_not_change_the_vocabulary(vocab: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_bytes(vocab.read_bytes().replace(b"\n", b"\r\n").rstrip())
    assert WordPiece(other).sha256 == WordPiece(vocab).sha256
    assert WordPiece(other).name == "other"


def test_full_cache_changes_no_id(vocab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [WordPiece(vocab).encode(text) for text in SENTENCES]
    monkeypatch.setattr(module, "CACHED_WORDS", 3)
    new = WordPiece(vocab)
    assert [new.encode(text) for text in SENTENCES] == expected
    assert len(new._cache) == 3


def test_a_bare_name_downloads_nothing() -> None:
    with pytest.raises(InputError, match="nothing is downloaded") as error:
        WordPiece("bert-base-cased")
    assert "vocab.txt" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"just\nwords\n", r"without \[PAD\]"),
        ("\n".join([*SPECIAL, "!", "a", "b", "a"]).encode(), "line 9"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_files_that_are_no_vocabulary(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        WordPiece(path)
    assert str(path) in str(error.value)
