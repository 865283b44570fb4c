"""Checkpoints: old and new formats, damaged and malicious files, finding the state to resume from."""

import gzip
import logging
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from utils import checkpoint
from utils.checksum import LENGTH
from utils.errors import InputError


class Malicious:
    """Unpickling one of these would write a file."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.target}",))


def weights() -> OrderedDict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    word = torch.randn(50, 8, generator=generator)
    return OrderedDict(word=word, tied=word, half=torch.randn(3, generator=generator).half(), ids=torch.arange(5))


@pytest.mark.parametrize("old_format", [True, False])
def test_what_is_saved_is_loaded(tmp_path: Path, old_format: bool) -> None:
    path = tmp_path / "ckpt" / "model_step_3.pt"
    checkpoint.save(path, weights(), old_format)
    found = checkpoint.load(path)
    assert list(found) == list(weights())
    assert all(torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in weights().items())
    assert [entry.name for entry in path.parent.iterdir()] == ["model_step_3.pt"]


def test_weights_are_in_the_format_of_old_torch(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "w.pt", weights())
    with open(tmp_path / "w.pt", "rb") as stream:  # that of torch before 1.6 begins with its number, pickled
        assert pickle.load(stream) == 0x1950A86A20F9469CFC6C


def test_a_train_state_may_hold_numpy(tmp_path: Path) -> None:
    state = {
        "step": 3,
        "negatives": np.arange(6).reshape(2, 3),
        "ids": np.array([b"a", b"bc"]),
        "names": np.array(["x", "yz"]),
        "best": np.float64(0.5),
        "rng": torch.get_rng_state(),
        "rest": (1, None, [True, "text"], {2: b"x"}, 2**100),
    }
    checkpoint.save_train_state(tmp_path, 3, state)
    found = checkpoint.load(tmp_path / "train_state_3.pt")
    assert found["rest"] == state["rest"] and found["best"] == 0.5
    for key in ("negatives", "ids", "names"):
        assert found[key].dtype == state[key].dtype and np.array_equal(found[key], state[key])  # type: ignore[attr-defined, arg-type]


@pytest.mark.parametrize("kind", ["old", "new", "pickle", "object array"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, kind: str) -> None:
    target, path = tmp_path / "touched", tmp_path / "w.pt"
    bad: dict[str, Any] = {"w": torch.ones(2), "x": Malicious(target)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(bad["x"], protocol=2))
    elif kind == "object array":
        checkpoint.save(path, np.array([bad["x"]], dtype=object))
    else:
        checkpoint.save(path, bad, old_format=kind == "old")
    with pytest.raises(InputError) as error:
        checkpoint.load(path)
    assert str(path) in str(error.value)
    if kind in ("old", "new"):
        assert "posix.system" in str(error.value)
    assert not target.exists()
    if kind != "object array":  # the file is as malicious as it claims
        torch.load(path, weights_only=False) if kind != "pickle" else pickle.loads(path.read_bytes())
        assert target.exists()


@pytest.mark.parametrize("old_format", [True, False])
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, old_format: bool) -> None:
    path = tmp_path / "w.pt"
    checkpoint.save(path, weights(), old_format)
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 29), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"w\.pt"):
            checkpoint.load(path)


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "other.pt", weights())
    with pytest.raises(InputError, match=r"not found(.|\n)*in that folder: other\.pt"):
        checkpoint.load(tmp_path / "w.pt")
    with pytest.raises(InputError, match="a folder"):
        checkpoint.load(tmp_path)


def scripted(path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(path)


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/model_step_4.pt", "weights")


def tarred(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "weights.pt")


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"
FOREIGN: dict[str, tuple[Any, str, str]] = {  # name: how it is written; the format; the remedy
    "lfs.pt": (lambda path: path.write_text(LFS), "a Git LFS pointer", "git lfs pull"),
    "page.pt": (lambda path: path.write_text("<html>404</html>"), "a web page", "download the weight file itself"),
    "page2.pt": (lambda path: path.write_text("\n<!DOCTYPE html><html>"), "a web page", "login"),
    "error.bin": (lambda path: path.write_text("Access denied"), "a text: 'Access denied'", "download"),
    "json.pt": (lambda path: path.write_text('{"hidden_size": 768}'), "a JSON file", "the weight file beside it"),
    "w.pt.gz": (lambda path: path.write_bytes(gzip.compress(b"weights")), "a gzip archive", "unpack it"),
    "w.tar": (tarred, "a tar archive", "unpack it"),
    "w.zip": (zipped, "a zip archive of other files: model/model_step_4.pt", "unpack it"),
    "w.npz": (lambda path: np.savez(path, a=np.ones(3)), "arrays of numpy (npz)", "torch.save"),
    "w.npy": (lambda path: np.save(path, np.ones(3)), "a numpy array", "torch.save"),
    "w.pkl": (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "a Python pickle", "torch.save"),
    "empty.pt": (lambda path: path.touch(), "an empty file", "copy or write it again"),
    "zeros.pt": (lambda path: path.write_bytes(bytes(1000)), "zero bytes", "copy or write it again"),
    "tf_model.h5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n\0\0"), "an HDF5 file", "from_tf=True"),
    "bert_model.ckpt.index": (lambda path: path.write_bytes(bytes(64)), "a checkpoint of TensorFlow", "from_tf=True"),
    "bert_model.ckpt.data-00000-of-00001": (lambda path: path.write_bytes(b"\1\2"), "TensorFlow", "from_tf=True"),
    "script.pt": (scripted, "a TorchScript program", "torch.jit.load"),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.filterwarnings("ignore:'torch.load' received a zip file", "ignore:Detected pickle protocol")
def test_a_file_of_another_format_is_named_as_that(tmp_path: Path, name: str) -> None:
    write, form, remedy = FOREIGN[name]
    write(tmp_path / name)
    with pytest.raises(InputError) as error:
        checkpoint.load(tmp_path / name)
    for part in (name, form, remedy, "torch.save"):
        assert part in str(error.value), str(error.value)
    assert "damaged" not in str(error.value)


def test_a_checkpoint_of_tensorflow_is_known_by_the_beginning_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "bert_model.ckpt.index").write_bytes(b"index")
    with pytest.raises(InputError, match=r"not found[\s\S]*bert_model\.ckpt\.index is of TensorFlow[\s\S]*from_tf"):
        checkpoint.load(tmp_path / "bert_model.ckpt")
    with pytest.raises(InputError, match="not found"):
        checkpoint.load(tmp_path / ("x" * 250))


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    checkpoint.save(path, {"a": torch.ones(3)})
    with pytest.raises(AttributeError):
        checkpoint.save(path, {"a": torch.zeros(3), "b": lambda: None})
    assert checkpoint.load(path)["a"].tolist() == [1, 1, 1]
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.pt"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        checkpoint.save(tmp_path / "file" / "w.pt", {})


def save_steps(folder: Path, steps: list[int], keep_states: int = 2) -> None:
    for step in steps:
        checkpoint.save(folder / f"model_step_{step}.pt", {"w": torch.ones(3)})
        checkpoint.save_train_state(folder, step, {"step": step, "m": torch.ones(2000)}, keep_states)


def test_only_the_newest_states_are_kept(tmp_path: Path) -> None:

    def weights(step):
        return tmp_path / f"model_step_{step}.pt"

    (tmp_path / ".train_state_5.pt.123.tmp").write_text("left by a killed run")
    save_steps(tmp_path, [5, 10, 100, 15], keep_states=2)
    assert [step for step, _ in checkpoint.train_states(tmp_path)] == [100, 15]
    assert sorted(p.name for p in tmp_path.glob("model*")) == [f"model_step_{n}.pt" for n in (10, 100, 15, 5)]
    assert not list(tmp_path.glob(".*"))
    assert checkpoint.newest_train_state(tmp_path, weights) == (100, tmp_path / "train_state_100.pt")


def test_unusable_states_are_passed_over_with_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:

    def weights(step):
        return tmp_path / f"model_step_{step}.pt"

    logger = logging.getLogger("test")
    save_steps(tmp_path, [1, 2, 3, 4], keep_states=4)
    (tmp_path / "model_step_4.pt").unlink()
    cut, flipped = tmp_path / "train_state_3.pt", tmp_path / "train_state_2.pt"
    cut.write_bytes(cut.read_bytes()[:-200])
    content = bytearray(flipped.read_bytes())
    content[content.index(struct.pack("<4f", 1, 1, 1, 1)) + 400] ^= 1  # one bit of a weight
    flipped.write_bytes(content)
    assert checkpoint.newest_train_state(tmp_path, weights, logger) == (1, tmp_path / "train_state_1.pt")
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert "train_state_4.pt: model_step_4.pt is missing" in lines[0]
    assert "train_state_3.pt" in lines[1] and "damaged or incomplete" in lines[1]
    assert "train_state_2.pt" in lines[2] and "checksum" in lines[2]
    (tmp_path / "train_state_1.pt").write_bytes(b"")
    with pytest.raises(InputError, match="no train state can be used"):
        checkpoint.newest_train_state(tmp_path, weights, logger)


def test_no_state_at_all_starts_afresh(tmp_path: Path) -> None:

    def weights(step):
        return tmp_path / f"model_step_{step}.pt"

    assert checkpoint.newest_train_state(tmp_path / "absent", weights) is None
    checkpoint.save(tmp_path / "model_step_7.pt", {})
    assert checkpoint.newest_train_state(tmp_path, weights) is None


def test_a_changed_byte_in_a_weight_file_is_an_error(tmp_path: Path) -> None:
    """Anywhere in the file; the file moves with its checksum, and one without a checksum is read."""
    weights = {"a": torch.arange(300.0), "b": torch.ones(4, 5)}
    checkpoint.save(tmp_path / "model.pt", weights)
    content = (tmp_path / "model.pt").read_bytes()
    moved = tmp_path / "moved.bin"
    moved.write_bytes(content)
    assert torch.equal(checkpoint.load(moved)["a"], weights["a"])
    assert torch.equal(torch.load(moved, weights_only=True)["b"], weights["b"])  # as any reader does
    for place in (len(content) // 2, len(content) - LENGTH - 3, len(content) - LENGTH + 3, len(content) - 1, 40):
        moved.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(InputError) as error:
            checkpoint.load(moved)
        assert "moved.bin" in str(error.value) and "checksum is wrong" in str(error.value)
    moved.write_bytes(content[:-5])
    with pytest.raises(InputError, match="checksum is wrong"):
        checkpoint.load(moved)
    moved.write_bytes(content[:-LENGTH])
    assert torch.equal(checkpoint.load(moved)["a"], weights["a"])
    torch.save(weights, tmp_path / "plain.pt", _use_new_zipfile_serialization=False)
    assert content[:-LENGTH] == (tmp_path / "plain.pt").read_bytes()  # the release's format, byte for byte


def test_a_changed_byte_in_a_zip_of_torch_is_an_error(tmp_path: Path) -> None:
    """Torch does not check its own checksums; where it was told not to write them, the file is read."""
    weights = {"a": torch.arange(300.0)}
    torch.save(weights, tmp_path / "model.pt")
    content = (tmp_path / "model.pt").read_bytes()
    place = content.index(weights["a"].numpy().tobytes()) + 8
    (tmp_path / "model.pt").write_bytes(content[:place] + b"\x01" + content[place + 1 :])
    with pytest.raises(InputError, match="wrong checksum"):
        checkpoint.load(tmp_path / "model.pt")
    if hasattr(torch.serialization, "set_crc32_options"):  # torch 2.6
        torch.serialization.set_crc32_options(False)
        try:
            torch.save(weights, tmp_path / "model.pt")
        finally:
            torch.serialization.set_crc32_options(True)
        assert torch.equal(checkpoint.load(tmp_path / "model.pt")["a"], weights["a"])
