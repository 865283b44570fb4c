"""Loader processes: the same batches for any number of them, and clear errors when one dies, stalls or lacks memory."""

import faulthandler
import logging
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data import loader, workers
from data.batch import Example, Image, PackedBatch, Seq
from data.loader import BatchBuilder, load_batches
from data.sampler import BatchPlan
from data.shared_memory import SharedMemory, receive, send
from utils.errors import InputError

N = 30


class Toy:
    """A dataset whose examples may do something to the process that makes them."""

    task, img_dim = "toy", 8

    def __init__(self, deeds=None):
        self.deeds = deeds or {}  # example → what to do in its place
        self.texts, self.images = SimpleNamespace(path="texts.db"), SimpleNamespace(path="images")

    def id(self, i):
        return f"toy{i}"

    def example(self, row, rng):
        if row[0] in self.deeds:
            self.deeds[row[0]]()
        feat = rng.random((row[0] % 5 + 1, 8)).astype(np.float16)
        image = Image(key=row[0], feat=feat, pos=np.ones((len(feat), 7), np.float32))
        ids = rng.integers(0, 9, row[0] % 7 + 2)
        return Example(self.id(row[0]), [Seq(input_ids=ids, images=[image], targets={"labels": ids[:1] > 4})])


def plans(n=N):
    for k in range(n):
        rows = np.arange(3 * k, 3 * k + 3)
        yield BatchPlan(source=0, indices=rows, pairs=rows[:, None], key=(1, k), step=k, micro=0, state=None)


def batches(n_workers, deeds=None, n=N):
    return load_batches(BatchBuilder([Toy(deeds)], by_id=False), plans(n), n_workers)


def kill(number):
    return lambda: (faulthandler.disable(), os.kill(os.getpid(), number))


def children() -> list[int]:
    return [int(pid) for pid in open(f"/proc/self/task/{os.getpid()}/children").read().split()]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(workers, "SLICE", 0.1)
    yield
    assert children() == []  # no loader process outlives its loader


def equal(a, b) -> bool:
    pairs = zip([*a.tensors(), a.seqlens, a.txt_lens], [*b.tensors(), b.seqlens, b.txt_lens], strict=True)
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs) and a.ids == b.ids and a.task == b.task


@pytest.mark.parametrize("n_workers", [1, 2, 5])
def test_batches_and_their_order_do_not_depend_on_the_number_of_processes(n_workers):
    expected, result = list(batches(0)), list(batches(n_workers))
    assert [plan.step for plan, _ in result] == list(range(N))
    assert all(equal(a, b) for (_, a), (_, b) in zip(expected, result, strict=True))
    feat = result[3][1].img_feat
    feat += 1  # memory of this process, which it may change
    assert not equal(expected[3][1], result[3][1]) and equal(expected[4][1], result[4][1])


def test_a_thread_that_is_one_batch_ahead_changes_nothing():
    expected = list(batches(0))
    result = loader._one_ahead(batches(2))
    assert all(equal(a, b) for (_, a), (_, b) in zip(expected, result, strict=True))
    with pytest.raises(InputError, match="toy5"):
        list(loader._one_ahead(batches(2, {5: lambda: {}["target"]})))


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_the_thread_has_ended_when_its_batches_are_closed(taken):
    """One that lives on while Python shuts down can abort the process after all was done."""
    threads = threading.active_count()
    ahead = loader._one_ahead(batches(2))
    for _ in range(taken):
        next(ahead)
    ahead.close()
    assert threading.active_count() == threads


def test_page_locked_memory_is_asked_for_one_batch_ahead(monkeypatch):
    gpu = SimpleNamespace(is_available=lambda: True, current_device=lambda: 0, set_device=lambda device: None)
    monkeypatch.setattr(loader, "torch", SimpleNamespace(cuda=gpu))
    pinned = []
    monkeypatch.setattr(PackedBatch, "pin_memory", lambda batch: pinned.append(batch) or batch)
    for n_workers in (0, 2):
        pinned.clear()
        result = list(load_batches(BatchBuilder([Toy()], by_id=False), plans(), n_workers, pin_memory=True))
        assert [batch for _, batch in result] == pinned and len(pinned) == N
    half = load_batches(BatchBuilder([Toy()], by_id=False), plans(), 2, pin_memory=True)
    next(half)
    half.close()


def test_a_thread_that_waits_for_a_stopped_process_ends_when_the_loader_is_closed(monkeypatch):
    gpu = SimpleNamespace(is_available=lambda: True, current_device=lambda: 0, set_device=lambda device: None)
    monkeypatch.setattr(loader, "torch", SimpleNamespace(cuda=gpu))
    monkeypatch.setattr(PackedBatch, "pin_memory", lambda batch: batch)
    deeds = {4: kill(signal.SIGSTOP)}
    stalled = load_batches(BatchBuilder([Toy(deeds)], by_id=False), plans(), 1, pin_memory=True)
    next(stalled)
    time.sleep(0.2)
    start = time.monotonic()
    stalled.close()
    assert time.monotonic() - start < 2


def test_processes_end_when_the_loader_is_closed_or_forgotten():
    half = batches(3)
    next(half)
    assert len(children()) == 3
    half.close()
    assert children() == []
    next(batches(2))
    assert children() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGALRM])
def test_a_killed_process_is_named_with_its_signal(number):
    result = batches(2, {13: kill(number)})
    assert [next(result)[0].step for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(InputError) as error:
        next(result)
    text = str(error.value)
    for part in (f"killed by {number.name}", "texts.db, images", "toy: toy12, toy13, toy14", "remedy"):
        assert part in text


def test_a_process_that_exits_is_named():
    with pytest.raises(InputError, match=r"has ended[\s\S]*toy9, toy10[\s\S]*ended with status 3"):
        list(batches(2, {10: lambda: os._exit(3)}))


def test_a_process_killed_from_outside_between_batches_interrupts_nothing():
    result = batches(2)
    next(result)
    for pid in children():
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.3)  # the training step, which goes on
    with pytest.raises(InputError, match=r"killed by SIGKILL[\s\S]*n_workers"):
        list(result)


def test_signals_that_end_a_run_do_not_end_its_loader_processes():
    result = batches(2)
    next(result)
    for pid in children():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            os.kill(pid, number)
    assert len(list(result)) == N - 1


def test_a_stall_is_said_and_then_ends_the_run(monkeypatch, caplog):
    monkeypatch.setattr(workers, "NOTE_AFTER", 0.2)
    monkeypatch.setattr(workers, "STALL_LIMIT", 0.6)
    monkeypatch.setattr(logging.getLogger("uniter"), "propagate", True)
    with pytest.raises(InputError, match=r"gives no batch[\s\S]*texts\.db[\s\S]*toy3[\s\S]*stopped.*kill -CONT"):
        list(batches(2, {4: kill(signal.SIGSTOP)}))
    assert "toy: toy3, toy4, toy5 from texts.db, images" in caplog.text and "stopped" in caplog.text


def test_a_stopped_process_that_goes_on_loses_nothing(monkeypatch, caplog):
    monkeypatch.setattr(workers, "NOTE_AFTER", 0.2)
    result = batches(1)
    next(result)
    (pid,) = children()
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(0.5, os.kill, (pid, signal.SIGCONT)).start()
    assert len(list(result)) == N - 1


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize(
    "deed, reason",
    [
        (lambda: {}["target"], "KeyError: 'target', in test_data_loader.py line"),
        (lambda: np.zeros(3).reshape(2, 2), "ValueError: cannot reshape"),
        (lambda: (_ for _ in ()).throw(MemoryError("2 GB")), "out of memory"),
        (lambda: os.stat("/no/such/file"), "No such file"),
        (lambda: (_ for _ in ()).throw(InputError("bad record", key="toy7")), "bad record"),
    ],
)
def test_an_error_in_an_example_names_it(n_workers, deed, reason):
    with pytest.raises(InputError) as error:
        list(batches(n_workers, {7: deed}))
    assert "toy7" in str(error.value) and reason in str(error.value)
    assert "bad record" in reason or "texts.db" in str(error.value)


@contextmanager
def limit(kind: int, value: int) -> Iterator[None]:
    limits = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, limits)


def test_too_few_files_for_the_processes_or_their_batches():
    used = len(os.listdir("/proc/self/fd"))
    for spare in range(2, 14):
        with limit(resource.RLIMIT_NOFILE, used + spare), pytest.raises(InputError) as error:
            list(list(batches(3)))
        assert "open files" in str(error.value) and "ulimit -n" in str(error.value) and "n_workers" in str(error.value)


def test_a_limit_of_file_sizes_that_a_task_exceeds():
    with limit(resource.RLIMIT_FSIZE, 100), pytest.raises(InputError, match=r"File too large[\s\S]*ulimit -f"):
        list(batches(1))


def test_tensors_of_every_kind_travel_unchanged():
    ours, theirs = socket.socketpair()
    memory = SharedMemory()
    made_there = memory.empty((3, 5), torch.float16)
    made_there.copy_(torch.arange(15).view(3, 5))
    values = [
        torch.tensor(3),
        torch.tensor([True, False]),
        torch.randn(4, 6).t(),
        torch.zeros(0, 8),
        torch.randn(3).to(torch.bfloat16),
        torch.arange(5)[::2],
        memory.empty((0, 3), torch.float32),
    ]
    send(ours, {"a": values, "b": made_there, "n": np.arange(3), "s": "ü" * 100_000}, memory)
    result = receive(theirs)
    assert torch.equal(result["b"], made_there) and result["n"].tolist() == [0, 1, 2] and len(result["s"]) == 100_000
    for x, y in zip(values, result["a"], strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape and torch.equal(x, y)
    assert all(t.data_ptr() % 64 == 0 for t in result["a"] if t.numel())
    ours.close()
    with pytest.raises(EOFError):
        receive(theirs)
    theirs.close()


def test_the_errors_of_batches_name_the_task_and_all_stores():
    """Also for a dataset that has another one's batches, is made of others, or has several image stores."""

    def named(dataset):
        return BatchBuilder([dataset], by_id=False).subject(next(plans()))

    entailment, other = Toy(), Toy()
    entailment.title, other.texts = "visual entailment", SimpleNamespace(path="more.db")
    assert named(entailment) == {"file": "texts.db, images", "key": "visual entailment: toy0, toy1, toy2"}
    several = SimpleNamespace(task="toy", id=entailment.id, parts=[Toy(), other])
    assert named(several)["file"] == "texts.db, images, more.db"
    tiles = SimpleNamespace(task="retrieval", id=str, captions=Toy())
    assert named(tiles) == {"file": "texts.db, images", "key": "retrieval: 0, 1, 2"}
    stores = (SimpleNamespace(path="gt"), None)
    commonsense = SimpleNamespace(task="vcr", id=str, texts=SimpleNamespace(path="vcr.db"), image_stores=stores)
    assert named(commonsense)["file"] == "vcr.db, gt"
    for remedy in workers.REMEDIES.values():
        assert "train_batch_size" not in remedy  # inference has a batch_size only
