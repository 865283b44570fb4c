"""Two processes under torchrun and horovodrun against one process, and what people see when a rank fails.

Run as a module with a scene's name, this file is the worker of that scene.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.launch_case import launch
from utils import distributed, meeting
from utils.errors import InputError
from utils.launcher_table import OPEN_MPI
from utils.launchers import Place


def make_parameters(rank: int) -> list[torch.nn.Parameter]:
    """Parameters whose gradients depend on the rank: of two dtypes, one not contiguous, one without, one on rank 1."""
    generator = torch.Generator().manual_seed(100 + rank)
    shapes = [((300, 7), torch.float64), ((5,), torch.float64), ((40, 40), torch.float32), ((), torch.float32)]
    parameters = []
    for shape, dtype in [*shapes, ((11,), torch.float64)]:
        parameter = torch.nn.Parameter(torch.zeros(shape, dtype=dtype))
        parameter.grad = torch.randn(shape, dtype=dtype, generator=generator)
        parameters.append(parameter)
    parameters[2].grad = parameters[2].grad.t()  # type: ignore[union-attr]
    parameters.insert(2, torch.nn.Parameter(torch.zeros(3)))
    parameters.append(torch.nn.Parameter(torch.zeros(2, 3)))
    if rank == 1:
        parameters[-1].grad = torch.full((2, 3), 12.0)
    return parameters


def arrays(rank: int) -> list[torch.Tensor]:
    """Arrays of every dtype that predictions have, of several shapes, one without elements, one not contiguous."""
    dtypes = (torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64)
    tensors = [(torch.arange(6).view(2, 3) + rank).to(dtype) for dtype in dtypes]
    return [*tensors, tensors[2].t(), torch.tensor(rank), torch.zeros(0, 4), torch.tensor([float("nan"), rank])]


def same_on_all_ranks(world: distributed.World, index: int) -> bool:
    """Whether the array of each rank arrives as that rank has it."""
    gathered = world._all_gather(arrays(world.rank)[index])
    return len(gathered) == world.size and all(equal(arrays(k)[index], part) for k, part in enumerate(gathered))


def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether shapes, dtypes and numbers are equal; NaN equals NaN."""
    return a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def worker_numbers(output: str) -> None:
    world = distributed.start("cpu")
    parameters = make_parameters(world.rank)
    world.average_gradients(parameters, 6.0)
    small = make_parameters(world.rank)
    distributed.BUCKET_BYTES = 100  # every tensor, or two small ones, in a bucket of its own
    world.average_gradients(small, 6.0)
    record = {
        "rank": world.rank,
        "size": world.size,
        "local_rank": world.local_rank,
        "is_main": world.is_main,
        "sum": world.sum_(torch.tensor([1.5, world.rank], dtype=torch.float64)).tolist(),
        "sum_int": world.sum_(torch.tensor(10 + world.rank)).item(),
        "gathered": world.gather_objects({"rank": world.rank, "ids": ["x"] * (world.rank + 1)}),
        "broadcast": world.broadcast_object({"step": 7} if world.is_main else None),
    }
    record["arrays"] = [same_on_all_ranks(world, index) for index in range(len(arrays(0)))]
    weights = torch.full((3, 2), 1.0 + world.rank, dtype=torch.float64).t()
    world.collectives.broadcast(weights)
    record["broadcast_tensor"] = weights.tolist()
    world.barrier()
    torch.save([p.grad for p in parameters], f"{output}/grads_{world.rank}.pt")
    torch.save([p.grad for p in small], f"{output}/small_{world.rank}.pt")
    Path(f"{output}/record_{world.rank}.json").write_text(json.dumps(record))


def worker_same_error(output: str) -> None:
    distributed.start("cpu")
    raise InputError("the text store is missing", file="nowhere.db", remedy="make it")


def worker_one_crash(output: str) -> None:
    world = distributed.start("cpu")
    if world.rank == 1:
        raise RuntimeError("index 7 is out of range")
    world.barrier()


def run_scene(scene: str, output: Path, launcher: str = "torchrun", *flags: str) -> subprocess.CompletedProcess[str]:
    words = ["-m", "tests.test_utils_distributed", scene, str(output), *flags]
    return launch(launcher, *words, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "horovodrun"])
def test_two_processes_sum_gradients_and_exchange_objects(tmp_path: Path, launcher: str) -> None:
    result = run_scene("numbers", tmp_path, launcher)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    expected = [
        None if a.grad is None or b.grad is None else (a.grad + b.grad) / 6.0
        for a, b in zip(make_parameters(0), make_parameters(1), strict=True)
    ]
    expected[-1] = torch.full((2, 3), 2.0)
    for name in ("grads_0", "grads_1", "small_0", "small_1"):
        found = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        assert [g is None for g in found] == [False, False, True, False, False, False, False]
        for g, e in zip(found, expected, strict=True):
            assert g is None or (e is not None and g.dtype == e.dtype and torch.equal(g, e))
    for rank in (0, 1):
        assert json.loads((tmp_path / f"record_{rank}.json").read_text()) == {
            "rank": rank,
            "size": 2,
            "local_rank": rank,
            "is_main": rank == 0,
            "sum": [3.0, 1.0],
            "sum_int": 21,
            "gathered": [{"rank": 0, "ids": ["x"]}, {"rank": 1, "ids": ["x", "x"]}],
            "broadcast": {"step": 7},
            "arrays": [True] * len(arrays(0)),
            "broadcast_tensor": [[1.0] * 3] * 2,
        }


@pytest.mark.slow
def test_an_error_of_all_ranks_is_said_once(tmp_path: Path) -> None:
    result = run_scene("same_error", tmp_path)
    assert result.returncode != 0
    assert result.stderr.count("the text store is missing") == 1
    assert "remedy:   make it" in result.stderr
    assert "exitcode  : 2" in result.stderr  # of rank 0, as torchrun reports it


@pytest.mark.slow
def test_the_first_failing_rank_shows_its_traceback(tmp_path: Path) -> None:
    result = run_scene("one_crash", tmp_path)
    assert result.returncode != 0
    assert "[rank 1] RuntimeError: index 7 is out of range" in result.stderr
    assert "[rank 1]     raise RuntimeError" in result.stderr
    assert "[rank 0] Traceback" not in result.stderr


def test_one_process_is_a_world_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "find_place", Place)
    world = distributed.start("cpu")
    assert (world.rank, world.size, world.local_rank, str(world.device), world.is_main) == (0, 1, 0, "cpu", True)
    assert not torch.distributed.is_initialized()
    parameters = make_parameters(0)
    world.average_gradients(parameters, 4)
    for done, before in zip(parameters, make_parameters(0), strict=True):
        assert (done.grad is None) == (before.grad is None)
        assert done.grad is None or torch.equal(done.grad * 4, before.grad)  # type: ignore[arg-type]
    world.average_gradients([torch.nn.Parameter(torch.zeros(2))], 4)  # none has a gradient
    assert world.sum_(torch.tensor(3)).item() == 3
    assert world.gather_objects("a") == ["a"]
    assert world.broadcast_object("a") == "a"
    world.barrier()
    distributed.stop()


def test_buckets_keep_order_dtype_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "BUCKET_BYTES", 40)
    sizes = [4, 4, 8, 20, 1, 1]
    tensors = [torch.zeros(n) for n in sizes] + [torch.zeros(1, dtype=torch.float64)]
    buckets = [[(t.numel(), t.dtype) for t in bucket] for bucket in distributed._buckets(tensors)]
    assert [[n for n, _ in bucket] for bucket in buckets] == [[4, 4], [8], [20], [1, 1], [1]]
    assert buckets[-1] == [(1, torch.float64)]


def test_launch_ends_a_single_process_with_message_and_status(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(error: BaseException) -> None:
        raise error

    for error, status, text in [
        (InputError("no such store", key="db"), 2, "error: no such store\n  key:      db\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (SystemExit(2), 2, ""),
    ]:
        with pytest.raises(SystemExit) as end:
            distributed.launch(fail, error)
        assert end.value.code == status
        assert capsys.readouterr().err.endswith(text)
    with pytest.raises(RuntimeError, match="bad"):
        distributed.launch(fail, RuntimeError("bad"))
    distributed.launch(lambda: None)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_without_the_others_says_whom_it_waits_for_and_stops(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: int
) -> None:
    """Rank 0 names the others; the others name rank 0, where all meet."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    monkeypatch.setattr(meeting, "NOTE_AFTER", 0.2)
    monkeypatch.setattr(meeting, "START_LIMIT", 1.0)
    place = Place(launcher="torchrun", rank=rank, size=3, local_rank=rank, address="127.0.0.1", port=port)
    with pytest.raises(InputError, match=rf"do not find each other[\s\S]*127.0.0.1:{port}[\s\S]*rank {rank} of 3"):
        meeting.meet(place)
    missing = "rank 0" if rank else "ranks 1, 2"
    assert f"[rank {rank}] waiting for {missing} of 3 processes at 127.0.0.1:{port}" in capsys.readouterr().err


def test_a_port_in_use_and_a_rank_that_is_there_twice_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("", 0))
        server.listen()
        place = Place(launcher="srun", rank=0, size=2, address="127.0.0.1", port=server.getsockname()[1])
        with pytest.raises(InputError, match=r"port of the meeting point is in use[\s\S]*MASTER_PORT another number"):
            meeting.meet(place)
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True)
    torch.distributed.PrefixStore("uniter/2/0", store).set("rank1", "1")
    with pytest.raises(InputError, match="two processes have rank 1"):
        meeting.meet(Place(launcher="srun", rank=1, size=2, address="127.0.0.1", port=store.port))


@pytest.mark.parametrize(
    "place, remedy",
    [({"launcher": "mpirun of Open MPI", "remedy": OPEN_MPI.remedy}, "-x MASTER_ADDR"), ({"address": "a"}, "torchrun")],
)
def test_an_unknown_meeting_point_is_refused_with_what_to_do(place: dict[str, Any], remedy: str) -> None:
    with pytest.raises(InputError, match=rf"MASTER_PORT[\s\S]*{remedy}"):
        distributed.meet(Place(size=2, **place))


@pytest.mark.parametrize(
    "launcher, value, expected",
    [("torchrun", None, "3"), ("torchrun", "1", "3"), ("torchrun", "2", "2"), ("srun", "1", "1"), ("srun", None, "3")],
)
def test_nccl_errors_end_the_process_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, launcher: str, value: str | None, expected: str
) -> None:
    """torchrun sets 1 by itself, so 1 under torchrun is nobody's wish."""
    name = "TORCH_NCCL_ASYNC_ERROR_HANDLING"
    monkeypatch.setenv(name, value or "")
    if value is None:
        monkeypatch.delenv(name)
    distributed._set_nccl_errors(Place(launcher=launcher, size=2))
    assert os.environ[name] == expected
    monkeypatch.delenv(name)


if __name__ == "__main__":
    distributed.launch(globals()[f"worker_{sys.argv[1]}"], *sys.argv[2:])
