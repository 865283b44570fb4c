"""Which GPU a process gets, and GPUs that torch cannot use: with numbers in place of GPUs."""

import pytest

from utils import devices
from utils.errors import InputError
from utils.launcher_table import POD
from utils.launchers import Place

DEFAULT_BUILD = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]  # no V100
V100_BUILD = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]


def place(local_rank: int, local_size: int) -> Place:
    return Place(launcher="srun", rank=local_rank, size=8, local_rank=local_rank, local_size=local_size)


@pytest.mark.parametrize(
    "local_rank, local_size, count, index",
    [(0, 1, 1, 0), (3, 4, 4, 3), (3, 4, 8, 3), (3, 4, 1, 0), (0, 4, 1, 0), (5, 6, 8, 5), (0, 1, 8, 0)],
)
def test_a_process_gets_the_gpu_of_its_local_rank_or_the_only_one(
    local_rank: int, local_size: int, count: int, index: int
) -> None:
    assert devices.device_index(place(local_rank, local_size), count) == index


@pytest.mark.parametrize("local_rank, local_size, count", [(0, 4, 2), (3, 4, 2), (2, 3, 2), (2, 1, 2), (0, 1, 0)])
def test_more_processes_than_gpus_are_refused(local_rank: int, local_size: int, count: int) -> None:
    with pytest.raises(InputError, match=rf"{count} GPUs"):
        devices.device_index(place(local_rank, local_size), count)


def test_two_ranks_on_one_gpu_are_refused() -> None:
    devices.check_distinct([("a", "uuid0"), ("a", "uuid1"), ("b", "uuid0"), None, None])
    with pytest.raises(InputError, match="ranks 1 and 3: uuid1 on a"):
        devices.check_distinct([("a", "uuid0"), ("a", "uuid1"), ("b", "uuid0"), ("a", "uuid1")])


@pytest.mark.parametrize(
    "capability, built_for",
    [
        ((7, 0), V100_BUILD),
        ((7, 5), DEFAULT_BUILD),
        ((8, 9), DEFAULT_BUILD),  # code for 8.6
        ((9, 0), DEFAULT_BUILD),
        ((10, 3), DEFAULT_BUILD),
        ((12, 0), ["sm_80", "compute_80"]),  # portable code
        ((9, 0), ["sm_90a"]),
        ((7, 0), []),
    ],
)
def test_gpus_that_torch_can_use(capability: tuple[int, int], built_for: list[str]) -> None:
    devices.check_architecture("GPU", capability, built_for)


@pytest.mark.parametrize(
    "capability, built_for",
    [
        ((7, 0), DEFAULT_BUILD),
        ((8, 0), ["sm_86"]),  # a lower minor version than the code's
        ((12, 0), ["sm_100", "sm_90a"]),
        ((12, 1), ["sm_120a", "compute_120a"]),
        ((7, 0), ["sm_75", "compute_80"]),
    ],
)
def test_a_gpu_without_code_is_named(capability: tuple[int, int], built_for: list[str]) -> None:
    major, minor = capability
    with pytest.raises(InputError, match=rf"V100, compute capability {major}\.{minor}[\s\S]*requirements-v100.txt"):
        devices.check_architecture("V100", capability, built_for)


class FakeCuda:
    """Four GPUs that torch reports, of the architecture of a V100."""

    major, minor, name = 7, 0, "Tesla V100"

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int, built_for: list[str]) -> None:
        monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(devices.torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(devices.torch.cuda, "get_device_properties", lambda index: self)
        monkeypatch.setattr(devices.torch.cuda, "get_arch_list", lambda: built_for)


def test_the_device_of_a_process(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    FakeCuda(monkeypatch, 4, V100_BUILD)
    assert str(devices.choose_device(None, place(2, 4))) == "cuda:2"
    assert str(devices.choose_device("cpu", place(2, 4))) == "cpu"
    assert not caplog.records
    assert str(devices.choose_device("cuda", Place(launcher=POD.name, rank=1, size=2))) == "cuda:0"
    assert "4 GPUs are visible" in caplog.text and "--nproc-per-node 4" in caplog.text
    with pytest.raises(InputError, match="5 processes"):
        devices.choose_device(None, place(4, 5))
    FakeCuda(monkeypatch, 4, DEFAULT_BUILD)
    with pytest.raises(InputError, match="Tesla V100"):
        devices.choose_device(None, place(2, 4))
