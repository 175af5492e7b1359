"""Learning by players against each other: games whose course is known, who moves when, averages, and trainings that are cut off."""

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from unveil.core.neural import AdversarialModel, Loss
from unveil.core.run import Run
from unveil.data.batch import Batch, Batches
from unveil.data.rows import MemoryRows
from unveil.errors import ConvergenceWarning, InputError, ParameterError
from unveil.learn.adversarial import adversarial

RATE = 0.1
START = (1.0, 0.5)


class Number(nn.Module):
    """A player with one parameter."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor([value], dtype=torch.float64))


class Bilinear(AdversarialModel):
    """One player pays a b, the other -a b, and the second its slope too: 1/2 penalty b^2."""

    def __init__(self, penalty=0.0):
        super().__init__()
        self.first, self.second, self.penalty = Number(START[0]), Number(START[1]), penalty
        self.seen = []

    def initialize(self, batches, generator):
        pass

    def sample(self, n_sequences, length, generator):
        raise NotImplementedError

    def players(self):
        return {"first": self.first, "second": self.second}

    def player_loss(self, player, batch, generator):
        self.seen.append((player, sorted(batch.values[:, 0].tolist())))
        game = (self.first.value * self.second.value).sum()
        if player == "first":
            return Loss(game, {})
        penalty = self.penalty / 2 * self.second.value.square().sum()
        return Loss(penalty - game, {"penalty": penalty})


class Follower(Bilinear):
    """Noise and data matter: the first player goes to the data's mean, the second to where noise leads it."""

    def player_loss(self, player, batch, generator):
        noise = torch.randn(len(batch.values), 1, generator=generator, dtype=torch.float64)
        if player == "first":
            return Loss((self.first.value - batch.values).square().mean(), {})
        return Loss((self.second.value - noise * self.first.value).square().mean(), {"noise": noise.mean()})


class Stumbling(Bilinear):
    """The second player's loss is infinite for items above a limit."""

    def player_loss(self, player, batch, generator):
        loss = super().player_loss(player, batch, generator)
        bad = bool((batch.values > 100).any())
        return Loss(loss.total * (math.inf if bad and player == "second" else 1.0), {})


def rows(values):
    return Batches(MemoryRows(np.asarray(values, dtype=float)[:, None]))


def play(model, n_rounds=1, *, optimizer="sgd", beta1=0.0, rates=(RATE, RATE), batches=None, batch_size=4, **settings):
    learning_rates = dict(zip(("first", "second"), rates, strict=True))
    return adversarial(
        model,
        rows(np.arange(4)) if batches is None else batches,
        torch.Generator().manual_seed(0),
        batch_size=batch_size,
        max_epochs=n_rounds,
        learning_rates=learning_rates,
        optimizer=optimizer,
        beta1=beta1,
        **settings,
    )


def place(model):
    return np.array([model.first.value.item(), model.second.value.item()])


def course(matrix, n_rounds):
    return np.linalg.matrix_power(np.array(matrix), n_rounds) @ START


def test_simultaneous_moves_in_a_bilinear_game_spiral_outwards():
    """Each round multiplies the distance from the equilibrium by sqrt(1 + rate^2)."""
    model = Bilinear()
    play(model, 50, updates="simultaneous")
    assert_allclose(place(model), course([[1, -RATE], [RATE, 1]], 50), rtol=1e-12, atol=0)
    assert_allclose(np.linalg.norm(place(model)), np.linalg.norm(START) * (1 + RATE**2) ** 25, rtol=1e-12, atol=0)


def test_alternating_moves_in_a_bilinear_game_go_round():
    """The second player sees the first one's move: the map keeps areas, and so the distance stays within bounds."""
    model = Bilinear()
    play(model, 500, updates="alternating")
    assert_allclose(place(model), course([[1, -RATE], [RATE, 1 - RATE**2]], 500), rtol=1e-10, atol=1e-12)
    assert 0.8 < np.linalg.norm(place(model)) / np.linalg.norm(START) < 1.25


@pytest.mark.parametrize("updates", ["simultaneous", "alternating"])
def test_a_penalty_on_the_slope_ends_at_the_equilibrium(updates):
    model = Bilinear(penalty=1.0)
    play(model, 400, updates=updates)
    assert_allclose(place(model), [0, 0], rtol=0, atol=1e-6)


def test_a_round_with_several_moves_and_rates_of_their_own():
    """First the three moves of one player, then the other's one, by hand."""
    model, (a, b) = Bilinear(), START
    play(model, 1, moves={"first": 3}, rates=(0.1, 0.01), batches=rows(np.arange(12)))
    a -= 3 * 0.1 * b
    b += 0.01 * a
    assert_allclose(place(model), [a, b], rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("updates", "expected"),
    [
        ("alternating", ["first", "first", "second"]),
        ("simultaneous", ["first", "second", "first"]),
    ],
)
def test_each_move_has_a_minibatch_of_its_own(updates, expected):
    model = Bilinear()
    play(model, 1, moves={"first": 2}, batch_size=2, batches=rows(np.arange(8)), updates=updates)
    assert [player for player, _ in model.seen] == expected * 2
    of_first = [items for player, items in model.seen if player == "first"]
    assert sorted(itertools.chain(*of_first)) == list(range(8)), "the player with the most moves sees all data once"
    assert {len(items) for _, items in model.seen} == {2}


def test_fewer_items_than_moves():
    model = Bilinear()
    play(model, 1, moves={"first": 5}, batches=rows([1.0, 2.0]))
    of_first = [items for player, items in model.seen if player == "first"]
    assert of_first in ([[1.0], [2.0]] * 2 + [[1.0]], [[2.0], [1.0]] * 2 + [[2.0]])


def test_adam_moves_by_its_formula():
    """The first step of Adam is the rate; the second is by its moments."""
    model = Follower()
    play(model, 2, optimizer="adam", beta1=0.5, beta2=0.8, rates=(0.1, 1e-9), batches=rows([3.0]))
    a, m, v = START[0], 0.0, 0.0
    for t in (1, 2):
        g = 2 * (a - 3.0)
        m, v = 0.5 * m + 0.5 * g, 0.8 * v + 0.2 * g * g
        a -= 0.1 * (m / (1 - 0.5**t)) / (math.sqrt(v / (1 - 0.8**t)) + 1e-8)
    assert_allclose(model.first.value.item(), a, rtol=1e-9, atol=0)


class Matrix(nn.Module):
    """A player with a matrix."""

    def __init__(self, n_rows, n_columns):
        super().__init__()
        self.value = nn.Parameter(torch.ones(n_rows, n_columns, dtype=torch.float64))


class Transposing(Bilinear):
    """The second player pays sum(slope * matrix^T), whose gradient is the slope with rows and columns the other way in memory."""

    SLOPE = torch.tensor([[1.0, -1.0], [-1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)

    def __init__(self):
        super().__init__()
        self.second = Matrix(2, 3)

    def player_loss(self, player, batch, generator):
        parts = {"first": lambda: self.first.value.sum(), "second": lambda: (self.SLOPE * self.second.value.T).sum()}
        return Loss(parts[player](), {})


def test_adam_follows_gradients_however_they_lie_in_memory():
    model = Transposing()
    play(model, optimizer="adam")
    assert_allclose(
        model.second.value.detach(), 1 - RATE * Transposing.SLOPE.T.sign(), rtol=1e-6, atol=0
    )  # the size of a first step


def test_rmsprop_moves_by_its_formula():
    model = Follower()
    play(model, 1, optimizer="rmsprop", rates=(0.1, 1e-9), batches=rows([3.0]))
    gradient = 2 * (START[0] - 3.0)
    expected = START[0] - 0.1 * gradient / (math.sqrt(0.01 * gradient**2) + 1e-8)
    assert_allclose(model.first.value.item(), expected, rtol=1e-9, atol=0)


def test_the_schedule_holds_for_all_players():
    """With one round in each of four epochs and a linear schedule, rates are multiplied by 1, 3/4, 1/2 and 1/4."""
    model, (a, b) = Bilinear(), START
    play(model, 4, schedule="linear", updates="simultaneous")
    for factor in (1.0, 0.75, 0.5, 0.25):
        a, b = a - factor * RATE * b, b + factor * RATE * a
    assert_allclose(place(model), [a, b], rtol=1e-12, atol=0)


def test_the_model_is_left_with_the_average_and_callbacks_see_it():
    decay, shown = 0.9, []
    plain, averaged = Bilinear(), Bilinear()
    play(plain, 6)
    run = Run(callbacks=(lambda epoch: shown.append(place(epoch.model)),))
    play(averaged, 6, averages={"second": decay}, run=run)
    average, path = START[1], []
    for n in range(1, 7):
        average = decay * average + (1 - decay) * course([[1, -RATE], [RATE, 1 - RATE**2]], n)[1]
        path.append(average)
    assert_allclose(averaged.second.value.item(), average, rtol=1e-12, atol=0)
    assert_allclose(np.array(shown)[:, 1], path, rtol=1e-12, atol=0)
    assert_allclose(averaged.first.value.item(), plain.first.value.item(), rtol=0, atol=0)
    assert not averaged.training


def test_history_has_what_each_player_paid():
    model = Bilinear(penalty=1.0)
    history = play(model, 1)
    a, b = START
    moved = a - RATE * b
    paid = {"first": a * b, "second": b * b / 2 - moved * b, "second penalty": b * b / 2}
    assert history.parts.keys() == {"loss", *paid}
    for name, value in paid.items():
        assert_allclose(history.parts[name], [value], rtol=1e-12, atol=0)
    assert_allclose(history.parts["loss"], [paid["first"] + paid["second"]], rtol=1e-12, atol=0)
    assert_allclose(history.objective, [-history.parts["loss"][0]], rtol=0, atol=0)


def test_history_has_the_mean_over_the_moves_of_a_round():
    """The one that moves three times pays a b, then (a - rate b) b, then (a - 2 rate b) b."""
    history = play(Bilinear(), 1, moves={"first": 3})
    a, b = START
    assert_allclose(history.parts["first"], [(a - RATE * b) * b], rtol=1e-12, atol=0)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "sgd"])
def test_a_training_that_was_cut_off_goes_on_bit_for_bit(optimizer, tmp_path, monkeypatch):
    """It is cut off in the middle of the third epoch, after a checkpoint after every minibatch."""
    monkeypatch.setattr("unveil.learn.training.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    data = rows(np.random.default_rng(0).normal(size=40))
    settings = {"optimizer": optimizer, "beta1": 0.5, "batches": data, "moves": {"first": 2}, "averages": {"second": 0.9}}
    whole = Follower()
    expected = play(whole, 5, **settings)

    class CutOff(Follower):
        def player_loss(self, player, batch, generator):
            self.seen.append(player)
            if len(self.seen) > 35:
                raise Interrupted
            return super().player_loss(player, batch, generator)

    run = Run(checkpoint=tmp_path, identity={"estimator": "Follower", "parameters": {}, "data": [40]})
    with pytest.raises(Interrupted):
        play(CutOff(), 5, run=run, **settings)
    resumed = Follower()
    found = play(resumed, 5, run=run, **settings)
    assert place(resumed).tolist() == place(whole).tolist()
    assert found.parts == expected.parts
    assert (tmp_path / "log.jsonl").read_text(encoding="utf-8").count("\n") == 5


def test_a_finished_training_goes_on_from_the_players_not_from_their_averages(tmp_path):
    data = rows(np.random.default_rng(0).normal(size=8))
    run = Run(checkpoint=tmp_path, identity={"estimator": "Follower", "parameters": {}, "data": [8]})
    settings = {"batches": data, "averages": {"first": 0.5}, "run": run}
    play(Follower(), 2, **settings)
    longer, straight = Follower(), Follower()
    play(longer, 4, **settings)
    play(straight, 4, **settings | {"run": Run()})
    assert place(longer).tolist() == place(straight).tolist()


def test_an_infinite_loss_is_told_and_leaves_finite_parameters():
    with pytest.raises(InputError, match=r"the loss became -inf in epoch 1, minibatch \d+, of item 2; lower learning_rate"):
        play(Stumbling(), 3, batches=rows([1.0, 2.0, 500.0, 3.0]), batch_size=4)


def test_an_infinite_loss_in_a_later_epoch_leaves_the_last_good_model():
    class Later(Bilinear):
        def player_loss(self, player, batch, generator):
            loss = super().player_loss(player, batch, generator)
            return Loss(loss.total * (math.nan if len(self.seen) > 5 else 1.0), {})

    model, two_rounds = Later(), Bilinear()
    with pytest.warns(ConvergenceWarning, match="the loss became nan in epoch 3"):
        history = play(model, 9, averages={"second": 0.9})
    play(two_rounds, 2, averages={"second": 0.9})
    assert place(model).tolist() == place(two_rounds).tolist()
    assert len(history.objective) == 2


def test_held_out_data_has_no_place():
    with pytest.raises(InputError, match=r"validation: .*leave it out"):
        play(Bilinear(), run=Run(validation=rows([1.0])))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there():
    with pytest.raises(ParameterError, match="device='auto'"):
        play(Bilinear(), device="cuda")


def test_a_callback_can_stop_the_game():
    model = Bilinear()
    history = play(model, 9, run=Run(callbacks=(lambda epoch: epoch.number == 2,)))
    assert history.n_iter == 3


def test_sequences_are_the_items_of_minibatches():
    """A batch of sequences is split between them, never through one."""
    values = np.arange(9.0)
    batches = Batches(MemoryRows(values[:, None]), np.array([0, 2, 5, 9]))
    model = Bilinear()
    play(model, 1, moves={"first": 3}, batch_size=1, batches=batches)
    seen = sorted(items for player, items in model.seen if player == "first")
    assert seen == [[0.0, 1.0], [2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]
    assert isinstance(next(iter(batches)), Batch)
