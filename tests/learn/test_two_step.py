"""The first step learns from data, the second from what the learned first step makes of them; both are told of in one history."""

import numpy as np
import torch
from numpy.testing import assert_array_equal
from torch import nn

from unveil.core.history import History
from unveil.core.neural import TwoStepModel
from unveil.data.batch import Batches
from unveil.data.rows import MemoryRows
from unveil.learn.two_step import two_step


class Scaled(TwoStepModel):
    """Codes are the data times a factor, which the first step learns; they lie around a centre, which the second learns."""

    def __init__(self):
        super().__init__()
        self.scale, self.center = nn.Module(), nn.Module()
        self.scale.factor, self.center.value = 1.0, None

    def steps(self):
        return self.scale, self.center

    def encode(self, batches):
        return batches.replace(rows=MemoryRows(torch.cat([self.scale.factor * batch.values for batch in batches])))

    def initialize(self, batches, generator): ...

    def sample(self, n_sequences, length, generator): ...

    def objective(self, batch): ...


def data():
    return Batches(MemoryRows(np.arange(6.0).reshape(3, 2)))


def learn_scale(part, batches):
    assert_array_equal(batches.rows.read(0, 3), np.arange(6.0).reshape(3, 2))
    part.factor = 10.0
    return History([-3.0, -2.0], [0, 1], 2, True, 1.5, parts={"loss": [3.0, 2.0], "held-out loss": [4.0, 3.0]}, waiting=0.25)


def learn_center(part, batches):
    part.value = torch.cat([batch.values for batch in batches]).mean(0).tolist()
    return History([-9.0, -8.0, -7.0], [0, 1, 2], 3, True, 0.5, restarts=[-9.0, -8.0])


def test_second_step_learns_from_the_codes_of_the_learned_first():
    model = Scaled()
    two_step(model, data(), first=learn_scale, second=learn_center)
    assert model.center.value == [20.0, 30.0]


def test_one_history_of_both():
    history = two_step(Scaled(), data(), first=learn_scale, second=learn_center)
    parts = {"loss": [3.0, 2.0], "held-out loss": [4.0, 3.0], "second step": [-9.0, -8.0, -7.0]}
    assert history == History([-3.0, -2.0], [0, 1], 2, True, 2.0, [-9.0, -8.0], parts, 0.25)


def test_converged_only_where_both_are():
    def unfinished(part, batches):
        return History([-9.0], [0], 1, False)

    assert not two_step(Scaled(), data(), first=learn_scale, second=unfinished).converged
    assert not two_step(Scaled(), data(), first=unfinished, second=learn_center).converged
