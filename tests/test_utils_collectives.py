"""The backends; Horovod with a stand-in for its module, so that none is needed. The real one: test_launch_*.py."""

import ast
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from tests.test_house import PRODUCT, TREES, imported_modules
from utils.errors import InputError
from utils.launchers import Place

PLACE = Place(launcher="horovodrun", rank=1, size=2, local_rank=1, local_size=2, sources={"rank": "HOROVOD_RANK"})


class FakeHorovod(SimpleNamespace):
    """Two ranks with the same tensors; it takes the dtypes that Horovod takes, and notes the names."""

    SUMMABLE = (torch.float16, torch.float32, torch.float64, torch.int32, torch.int64)
    Sum, Max = "sum", "max"

    def __init__(self) -> None:
        super().__init__(numbers=(1, 2), names=[], mpi=True, error=None)

    def init(self) -> None:
        if self.error:
            raise self.error

    def rank(self) -> int:
        return self.numbers[0]

    def size(self) -> int:
        return self.numbers[1]

    def mpi_built(self) -> bool:
        return self.mpi

    def nccl_built(self) -> int:
        return 0

    def allreduce_(self, tensor: torch.Tensor, op: str, name: str) -> None:
        assert tensor.dtype in self.SUMMABLE and tensor.is_contiguous()
        self.names.append(name)
        if op == "sum":
            tensor.mul_(2)

    def allgather(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        self.names.append(name)
        return torch.cat([tensor, tensor])

    def broadcast_(self, tensor: torch.Tensor, root_rank: int, name: str) -> None:
        assert tensor.is_contiguous() and root_rank == 0
        self.names.append(name)
        tensor.add_(1)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHorovod]:
    horovod, package = FakeHorovod(), ModuleType("horovod")
    package.torch = horovod  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "horovod", package)
    monkeypatch.setitem(sys.modules, "horovod.torch", horovod)  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "utils.horovod_collectives", raising=False)
    for name in ("HOROVOD_STALL_CHECK_TIME_SECONDS", "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS"):
        monkeypatch.setenv(name, "60")
    yield horovod
    sys.modules.pop("utils.horovod_collectives", None)


def join(place: Place = PLACE) -> Any:
    return importlib.import_module("utils.horovod_collectives").join_horovod(place)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int64])
def test_horovod_sums_every_dtype_in_place(fake: FakeHorovod, dtype: torch.dtype) -> None:
    tensor = torch.arange(6).view(2, 3).to(dtype).t()  # not contiguous
    join().all_reduce(tensor)
    assert tensor.tolist() == [[0, 6], [2, 8], [4, 10]] and tensor.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool])
def test_horovod_takes_flags_as_numbers(fake: FakeHorovod, dtype: torch.dtype) -> None:
    tensor = torch.tensor([0, 1], dtype=dtype)
    join().all_reduce(tensor, "max")
    assert tensor.tolist() == [0, 1] and tensor.dtype == dtype


def test_horovod_gathers_and_broadcasts_any_shape(fake: FakeHorovod) -> None:
    collectives = join()
    rows = torch.arange(6, dtype=torch.uint8).view(2, 3)
    assert [part.tolist() for part in collectives.all_gather(rows)] == [rows.tolist()] * 2
    weights = torch.zeros(2, 3).t()
    collectives.broadcast(weights)
    assert weights.tolist() == [[1.0] * 2] * 3


def test_names_are_the_same_in_every_step(fake: FakeHorovod) -> None:
    """A name that is new is slow, and ranks with different names would wait for each other without end."""
    collectives = join()
    for _ in range(3):
        collectives.all_reduce(torch.zeros(5))
        collectives.all_reduce(torch.zeros(5, dtype=torch.float64))
        collectives.all_reduce(torch.zeros(5), "max")
        collectives.all_reduce(torch.zeros(2, 3))
    assert len(set(fake.names)) == 4 and fake.names[:4] == fake.names[4:8]


@pytest.mark.parametrize(
    "change, place, expected",
    [
        ({"mpi": False}, {"launcher": "mpirun of Open MPI"}, "built without MPI"),
        ({}, {"launcher": "torchrun"}, "which Horovod does not understand"),
        ({"numbers": (0, 1)}, {"launcher": "mpirun of Open MPI"}, "rank 0 of 1; mpirun of Open MPI: rank 1 of 2"),
        ({"error": RuntimeError("timed out")}, {}, "do not find each other through Horovod[\\s\\S]*timed out"),
    ],
)
def test_what_horovod_cannot_do_is_refused(
    fake: FakeHorovod, change: dict[str, Any], place: dict[str, str], expected: str
) -> None:
    for name, value in change.items():
        setattr(fake, name, value)
    with pytest.raises(InputError, match=expected):
        join(Place(rank=1, size=2, sources=PLACE.sources, **{"launcher": "horovodrun"} | place))


def test_without_horovod_its_backend_names_the_script_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "horovod", None)  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "horovod.torch", raising=False)
    monkeypatch.delitem(sys.modules, "utils.horovod_collectives", raising=False)
    with pytest.raises(InputError, match=r"cannot be imported[\s\S]*scripts/install_horovod\.sh"):
        join()


def test_horovod_is_imported_by_a_run_that_asks_for_it_only() -> None:
    importers = [file for file in PRODUCT for _, module in imported_modules(file) if module == "horovod"]
    assert importers == ["utils/horovod_collectives.py"]
    for file, tree in TREES.items():
        statements = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not any("horovod_collectives" in ast.unparse(node) for node in statements), file
