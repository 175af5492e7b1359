"""Work on batches in threads gives what work one after the other gives, and leaves the caller as it was."""

import multiprocessing
import threading
import time

import numpy as np
import pytest
import torch

from unveil.data.batch import Batch, Batches, MemoryRows
from unveil.data.workers import cores_for, map_batches


def batches(n):
    return [Batch(torch.full((4, 2), float(i), dtype=torch.float64), torch.arange(5), start=4 * i) for i in range(n)]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def slower_at_first(batch):
    time.sleep(0.02 / (1 + batch.start))
    return float(batch.values.sum())


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 6, 20])
def test_results_come_in_the_order_of_the_batches(n):
    assert list(map_batches(slower_at_first, batches(n))) == [8.0 * i for i in range(n)]


@pytest.mark.usefixtures("two_threads")
def test_two_batches_are_worked_on_at_the_same_time():
    barrier = threading.Barrier(2, timeout=20)
    assert len(list(map_batches(lambda batch: barrier.wait(), batches(6)))) == 6


@pytest.mark.usefixtures("two_threads")
def test_only_a_few_batches_are_held():
    read, done = 0, 0

    def source():
        nonlocal read
        for batch in batches(100):
            read += 1
            assert read - done <= 8
            yield batch

    for _ in map_batches(lambda batch: None, source()):
        done += 1
    assert done == 100


@pytest.mark.usefixtures("two_threads")
def test_a_single_batch_is_worked_on_here_and_more_by_several_threads():
    workers = set()
    list(map_batches(lambda batch: workers.add(threading.get_ident()), batches(1)))
    assert workers == {threading.get_ident()}
    list(map_batches(slower_at_first, batches(8)))
    barrier = threading.Barrier(2, timeout=10)
    list(map_batches(lambda batch: barrier.wait(), batches(8)))  # breaks unless two work at the same time


@pytest.mark.usefixtures("two_threads")
def test_several_can_be_gone_through_side_by_side_and_given_up():
    pairs = zip(map_batches(slower_at_first, batches(100)), map_batches(slower_at_first, batches(100)), strict=True)
    assert all(first == second for first, second in pairs)
    halves = [map_batches(slower_at_first, batches(100)) for _ in range(3)]
    assert [next(each) for each in halves] == [0.0] * 3
    halves[0].close()
    assert len(list(halves[1])) == 99


def test_with_one_thread_nothing_is_handed_to_another():
    before, workers = torch.get_num_threads(), set()
    torch.set_num_threads(1)
    try:
        list(map_batches(lambda batch: workers.add(threading.get_ident()), batches(5)))
    finally:
        torch.set_num_threads(before)
    assert workers == {threading.get_ident()}


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("at", [0, 3, 9])
def test_what_goes_wrong_in_a_thread_is_raised_here(at):
    def fail(batch):
        if batch.start == 4 * at:
            raise ZeroDivisionError(f"at {at}")
        return batch.start

    found = []
    with pytest.raises(ZeroDivisionError, match=f"at {at}"):
        found.extend(map_batches(fail, batches(10)))
    assert list(map_batches(slower_at_first, batches(3))) == [0.0, 8.0, 16.0]  # and the threads are fit for more


@pytest.mark.usefixtures("two_threads")
def test_what_goes_wrong_in_reading_is_raised_here():
    def source():
        yield from batches(5)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(map_batches(slower_at_first, source()))


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("enabled", [False, True])
@pytest.mark.parametrize("n", [1, 6])
def test_gradients_are_on_where_the_caller_has_them_on(enabled, n):
    with torch.set_grad_enabled(enabled):
        assert list(map_batches(lambda batch: torch.is_grad_enabled(), batches(n))) == [enabled] * n
        assert torch.is_grad_enabled() is enabled


@pytest.mark.usefixtures("two_threads")
def test_results_can_be_differentiated():
    weight = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    total = sum(map_batches(lambda batch: (weight**2 * batch.values).sum(), batches(5)))
    total.backward()
    assert float(weight.grad) == 2 * 2.0 * 8 * sum(range(5))


@pytest.mark.usefixtures("two_threads")
def test_the_callers_threads_stay_as_many_as_they_were():
    inside = list(map_batches(lambda batch: torch.get_num_threads(), batches(8)))
    assert inside == [1] * 8
    assert torch.get_num_threads() == 2
    list(map_batches(slower_at_first, batches(1)))
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_work_inside_work_does_not_wait_for_itself():
    def outer(batch):
        return sum(map_batches(slower_at_first, batches(4)))

    assert list(map_batches(outer, batches(6))) == [48.0] * 6


def work_and_tell(queue):
    queue.put(list(map_batches(slower_at_first, batches(6))))


@pytest.mark.usefixtures("two_threads")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    expected = list(map_batches(slower_at_first, batches(6)))  # so that there are threads that the fork will not have
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    child = fork.Process(target=work_and_tell, args=(queue,), daemon=True)
    child.start()
    try:
        assert queue.get(timeout=20) == expected
    finally:
        child.kill()
        child.join()


@pytest.mark.usefixtures("two_threads")
def test_small_work_stays_on_one_core_and_large_work_does_not():
    def cores(n_rows):
        table = Batches(MemoryRows(np.zeros((n_rows, 8))), batch_steps=n_rows)
        return list(map_batches(lambda batch: torch.get_num_threads(), table))

    assert cores(10) == [1]
    assert cores(100_000) == [2]
    assert torch.get_num_threads() == 2
    with cores_for(10):
        assert torch.get_num_threads() == 1
        barrier = threading.Barrier(2, timeout=10)
        list(map_batches(lambda batch: barrier.wait(), batches(8)))  # breaks unless two work at the same time
    assert torch.get_num_threads() == 2
