"""A rank that waits for long for the others says so, once a wait, and only the first two ranks."""

import time

import pytest
import torch

from utils import waits


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(waits, "NOTE_AFTER", 0.1)
    monkeypatch.setattr(waits, "LOOK_EVERY", 0.02)


def test_a_long_wait_is_said_once(quick, capsys):
    wait = waits.Waits()
    wait.start(0, 2, 3600)

    @wait.during("the gradients")
    def exchange(seconds: float) -> int:
        time.sleep(seconds)
        return 5

    assert exchange(0.4) == 5
    text = capsys.readouterr().err
    assert text.count("[rank 0] waiting since 0 s for the gradients of the other 1 of 2 processes") == 1
    assert "stopped" in text and "3600 s" in text
    for _ in range(10):
        exchange(0.02)  # short waits, together longer than the limit
    with pytest.raises(ValueError), wait.during("the results"):
        raise ValueError
    time.sleep(0.2)  # a wait that has failed is over
    assert not capsys.readouterr().err
    exchange(0.3)
    assert capsys.readouterr().err.count("waiting") == 1
    wait.stop()
    exchange(0.2)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("rank, size", [(2, 4), (0, 1)])
def test_other_ranks_and_a_process_alone_say_nothing(quick, capsys, rank, size):
    wait = waits.Waits()
    wait.start(rank, size, 3600)
    with wait.during("the gradients"):
        time.sleep(0.2)
    assert not capsys.readouterr().err


def test_a_wait_names_the_ranks_that_have_begun_fewer_waits(quick, capsys):
    store = torch.distributed.HashStore()
    slow, ready = waits.Waits(), waits.Waits()
    ready.start(0, 12, 3600, lambda: store)
    slow.start(1, 12, 3600, lambda: store)
    with ready.during("the numbers"):
        store.set("waits/2", "1")
        time.sleep(0.3)
    text = capsys.readouterr().err
    assert "for the numbers of ranks 1, 3, 4, 5, 6, 7, 8, 9 and 2 more of 12 processes" in text
    with slow.during("the numbers"):  # too late to be waited for
        time.sleep(0.1)
    ready.stop(), slow.stop()


def test_a_store_that_has_gone_does_not_keep_a_rank_from_saying_that_it_waits(quick, capsys):
    def connect():
        raise ConnectionError

    wait = waits.Waits()
    wait.start(0, 2, 3600, connect)
    with wait.during("the numbers"):
        time.sleep(0.3)
    wait.stop()
    assert "for the numbers of the other 1 of 2 processes" in capsys.readouterr().err
