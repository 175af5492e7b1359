"""Memory is used again only when nobody holds it."""

import threading
from threading import local

import torch

from unveil.kernels.memory import empty


def test_a_piece_that_is_held_is_not_handed_out_again(monkeypatch):
    monkeypatch.setattr("unveil.kernels.memory._kept", local())  # nothing that was held before
    first = empty(100, 1000)
    place = first.data_ptr()
    assert empty(100, 1000).data_ptr() != place
    view = first[3:5].T
    del first
    assert empty(100, 1000).data_ptr() != place  # a view of it is still there
    view.fill_(1.0)
    other = empty(100, 1000).fill_(0.0)
    assert bool((view == 1.0).all())
    assert bool((other == 0.0).all())
    del view
    assert empty(90, 1000).data_ptr() == place


def test_threads_have_pieces_of_their_own():
    held = empty(50, 1000)
    places = []
    thread = threading.Thread(target=lambda: places.append(empty(50, 1000).data_ptr()))
    thread.start()
    thread.join()
    assert places != [held.data_ptr()]


def test_small_and_huge_tensors_are_ordinary_ones():
    for shape in ((3, 4), (0, 5), (5000, 1000)):
        made = empty(*shape)
        assert made.shape == shape
        assert made.dtype == torch.float64
