"""Generative adversarial networks against hand formulas, closed forms of linear critics, and known stationary points."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit
from torch.nn.utils.parametrize import is_parametrized

import unveil
from unveil.data.batch import Batches
from unveil.data.rows import MemoryRows
from unveil.errors import InputError, ParameterError
from unveil.models.gan import CRITIC, GAN, GENERATOR

SMALL = {"n_latent": 2, "hidden": 8, "batch_size": 16, "max_epochs": 2, "dtype": "float64", "random_state": 0, "device": "cpu"}


def points(n=60, n_features=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, n_features)) @ rng.normal(size=(n_features, n_features)) + 3.0


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def as_batches(X, weights=None):
    return Batches(MemoryRows(X), weights=weights)


def as_batch(X):
    return next(iter(as_batches(X).replace(batch_steps=len(X))))


def started(X, **settings):
    """A model after its start, with all of X in one batch."""
    model = GAN(**SMALL | settings).build(X.shape[1])
    model.initialize(as_batches(X), seeded())
    return model, as_batch(X)


def linear(X, w, b=0.0, **settings):
    """A model whose critic is c(x) = w (x - location) / scale + b."""
    model, batch = started(X, critic_hidden=(), **settings)
    with torch.no_grad():
        model.critic.layers[0].weight.copy_(torch.tensor([w], dtype=torch.float64))
        model.critic.layers[0].bias.fill_(b)
    return model, batch


def values_of(model, batch, generator):
    """The critic's values of the batch and of the samples that a loss with this generator draws, by the public methods."""
    samples = model.generate(model.draw(batch.n_steps, generator))
    return (model.discriminate(each).detach().numpy() for each in (batch, as_batch(samples.detach().numpy())))


@pytest.mark.parametrize(
    ("loss", "critic", "generator"),
    [
        ("non-saturating", lambda x, s: -np.log(expit(x)).mean() - np.log(1 - expit(s)).mean(), lambda s: -np.log(expit(s)).mean()),
        ("minimax", lambda x, s: -np.log(expit(x)).mean() - np.log(1 - expit(s)).mean(), lambda s: np.log(1 - expit(s)).mean()),
        ("wasserstein", lambda x, s: s.mean() - x.mean(), lambda s: -s.mean()),
    ],
)
def test_losses_are_those_of_the_papers(loss, critic, generator):
    model, batch = started(points(), loss=loss, penalty="none")
    data, samples = values_of(model, batch, seeded(1))
    assert_allclose(model.player_loss(CRITIC, batch, seeded(1)).total.item(), critic(data, samples), rtol=1e-12, atol=0)
    assert_allclose(model.player_loss(GENERATOR, batch, seeded(1)).total.item(), generator(samples), rtol=1e-12, atol=0)


@pytest.mark.parametrize("value", [-2000.0, 2000.0])
def test_losses_are_finite_where_their_logarithms_are_not(value):
    model, batch = linear(points(), [0.0, 0.0, 0.0], b=value, penalty="none")
    assert_allclose(model.player_loss(CRITIC, batch, seeded()).total.item(), 2000.0, rtol=1e-12, atol=0)
    assert_allclose(model.player_loss(GENERATOR, batch, seeded()).total.item(), max(-value, 0.0), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("penalty", "expected"), [("gradient", lambda w: (np.linalg.norm(w) - 1) ** 2), ("r1", lambda w: 0.5 * np.linalg.norm(w) ** 2)]
)
def test_penalties_of_a_linear_critic_have_a_closed_form(penalty, expected):
    """The slope is w everywhere, in units of standard deviations of the data."""
    w = [0.3, -2.0, 1.1]
    model, batch = linear(points(), w, penalty=penalty, penalty_weight=0.7)
    loss = model.player_loss(CRITIC, batch, seeded(1))
    assert_allclose(loss.parts["penalty"].item(), 0.7 * expected(w), rtol=1e-12, atol=0)
    assert_allclose(loss.total.item(), sum(part.item() for part in loss.parts.values()), rtol=1e-12, atol=0)


def test_the_penalty_has_the_gradient_of_its_closed_form():
    """d/dw weight (|w| - 1)^2 = 2 weight (|w| - 1) w / |w|: it is differentiated through the slope."""
    w = np.array([0.3, -2.0, 1.1])
    model, batch = linear(points(), w.tolist(), penalty="gradient", penalty_weight=0.7)
    penalty = model.player_loss(CRITIC, batch, seeded(1)).parts["penalty"]
    (found,) = torch.autograd.grad(penalty, model.critic.layers[0].weight)
    norm = np.linalg.norm(w)
    assert_allclose(found[0].numpy(), 2 * 0.7 * (norm - 1) * w / norm, rtol=1e-10, atol=0)


def test_the_gradient_penalty_looks_between_data_and_samples():
    """With c(x) = x^2 / 2 the slope at x is |x|; data is 4 (after standardising: 0), all samples are at one place."""
    X = np.full((2000, 1), 4.0)
    model, batch = started(X, penalty="gradient", penalty_weight=1.0)

    class Square(torch.nn.Module):
        def forward(self, x):
            return x.square() / 2

    model.critic = Square()
    with torch.no_grad():
        for parameter in model.generator.parameters():
            parameter.zero_()
        model.generator.last_bias().fill_(2.0)
    shares = np.random.default_rng(0).random(100_000)
    found = model.player_loss(CRITIC, batch, seeded()).parts["penalty"].item()
    assert_allclose(found, ((2 * shares - 1) ** 2).mean(), rtol=0, atol=0.03)  # 1/3; 2000 draws have an error of 0.007


def test_r1_is_the_slope_on_data_alone():
    X = np.random.default_rng(0).normal(size=(50, 2))
    model, batch = started(X, penalty="r1", penalty_weight=3.0)
    x = ((batch.values - torch.from_numpy(X.mean(0))) / torch.from_numpy(X.std(0))).requires_grad_()
    (slope,) = torch.autograd.grad(model.critic(x).sum(), x)
    expected = 1.5 * slope.square().sum(1).mean().item()
    assert_allclose(model.player_loss(CRITIC, batch, seeded()).parts["penalty"].item(), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("slope", "is_stationary"), [(0.0, True), (0.5, False)])
def test_the_equilibrium_is_stationary_with_r1_and_nothing_else_is(slope, is_stationary):
    """Samples are the data, all at one place (Mescheder et al., 2018: the Dirac-GAN): the critic's gradient is weight * w."""
    X = np.full((20, 1), 7.0)
    model, batch = linear(X, [slope], penalty="r1", penalty_weight=0.8, hidden=())
    with torch.no_grad():
        for parameter in model.generator.parameters():
            parameter.zero_()
    of_critic = torch.autograd.grad(model.player_loss(CRITIC, batch, seeded()).total, list(model.critic.parameters()))
    of_generator = torch.autograd.grad(model.player_loss(GENERATOR, batch, seeded()).total, list(model.generator.parameters()))
    assert_allclose([each.item() for each in of_critic], [0.8 * slope, 0.0], rtol=1e-12, atol=1e-15)
    assert all(not each.any() for each in of_generator) == is_stationary


@pytest.mark.parametrize("penalty", ["none", "r1"])
def test_two_points_against_each_other_end_only_with_a_penalty(penalty):
    """One number is learned by one number: plain gradient descent goes round for ever, R1 ends where the data is."""
    X = np.full((8, 1), 2.0)
    settings = {"hidden": (), "penalty": penalty, "penalty_weight": 1.0, "optimizer": "sgd", "beta1": 0.0, "average": 0.0}
    gan = GAN(**SMALL | settings | {"learning_rate": 0.5, "schedule": "constant", "max_epochs": 100, "batch_size": 8}).fit(X)
    distance = np.abs(gan.generate(np.zeros((1, 2)))[0, 0] - 2.0)
    assert (distance < 0.02) == (penalty == "r1")


def test_clipping_keeps_all_parameters_of_the_critic_within_the_bound():
    gan = GAN(**SMALL | {"penalty": "clip", "clip_bound": 0.03, "loss": "wasserstein", "learning_rate": 0.1}).fit(points())
    largest = max(parameter.abs().max().item() for parameter in gan.model_.critic.parameters())
    assert largest == 0.03
    assert max(parameter.abs().max().item() for parameter in gan.model_.generator.parameters()) > 0.1
    model, _ = started(points(), penalty="clip", clip_bound=0.03)
    assert max(parameter.abs().max().item() for parameter in model.critic.parameters()) <= 0.03


def weights_of(network):
    return [part.weight.detach().flatten(1).numpy() for part in network.modules() if is_parametrized(part, "weight")]


@pytest.mark.parametrize("layout", [{}, {"architecture": "conv", "hidden": (4, 8), "output": "sigmoid"}])
def test_spectral_normalization_makes_the_largest_singular_value_one(layout):
    X = np.random.default_rng(0).random((40, 64))
    gan = GAN(**SMALL | {"normalization": "spectral", "max_epochs": 15} | layout).fit(X)
    weights = weights_of(gan.model_.critic)
    assert len(weights) == 2 + ("architecture" in layout)
    for weight in weights:
        assert_allclose(np.linalg.norm(weight, 2), 1.0, rtol=0, atol=0.02)  # of the power method, one iteration for each look


def test_a_spectral_critic_is_no_steeper_than_one():
    gan = GAN(**SMALL | {"normalization": "spectral", "max_epochs": 10, "loss": "wasserstein", "penalty": "none"}).fit(points())
    X = (points(400, seed=2) - points().mean(0)) / points().std(0)
    x = torch.from_numpy(X).requires_grad_()
    (slope,) = torch.autograd.grad(gan.model_.critic(x).sum(), x)
    assert slope.norm(dim=1).max().item() < 1.05


def test_a_spectral_critic_starts_and_stays_the_same_whoever_asks(tmp_path):
    """No global random number is drawn, looks after learning change nothing, and so a saved one is the same."""
    torch.manual_seed(3)
    before = torch.get_rng_state()
    gan = GAN(**SMALL | {"normalization": "spectral"}).fit(points())
    assert torch.equal(torch.get_rng_state(), before)
    first = gan.discriminate(points())
    assert_array_equal(gan.discriminate(points()), first)
    gan.save(tmp_path / "gan.unveil")
    loaded = unveil.load(tmp_path / "gan.unveil")
    assert torch.equal(torch.get_rng_state(), before)
    assert_array_equal(loaded.discriminate(points()), first)
    again = GAN(**SMALL | {"normalization": "spectral"}).fit(points())
    assert_array_equal(again.discriminate(points()), first)


@pytest.mark.parametrize(("player", "other"), [(CRITIC, "generator"), (GENERATOR, "critic")])
def test_each_player_moves_its_own_parameters_only(player, other):
    rates = {CRITIC: 1e-300, GENERATOR: 1e-300} | {player: 0.1}
    settings = {"learning_rate": rates[GENERATOR], "critic_learning_rate": rates[CRITIC], "average": 0.0, "optimizer": "sgd"}
    fixed, _ = started(points())
    gan = GAN(**SMALL | settings)
    model = gan.build(3)
    model.initialize(as_batches(points()), seeded(5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gan.learn(model, as_batches(points()), seeded(5))
    drawn = torch.Generator().manual_seed(5)
    for _ in range(2):  # what learning draws before it starts the networks
        torch.randint(2**31, (), generator=drawn)
    fixed.initialize(as_batches(points()), drawn)
    for name, value in fixed.state_dict().items():
        moved = not torch.equal(model.state_dict()[name], value)
        assert moved == name.startswith({CRITIC: "critic", GENERATOR: "generator"}[player]), name
    assert before.keys() == fixed.state_dict().keys()
    assert any(name.startswith(other) for name in before)


def test_scale_and_offset_of_the_data_do_not_matter():
    X, factors, shift = points(), np.array([1e-3, 1.0, 1e4]), np.array([5.0, -3e3, 1e5])
    plain, moved = GAN(**SMALL).fit(X), GAN(**SMALL).fit(factors * X + shift)
    assert_allclose(moved.sample(20)[0], factors * plain.sample(20)[0] + shift, rtol=1e-7, atol=0)
    assert_allclose(moved.discriminate(factors * X + shift), plain.discriminate(X), rtol=0, atol=1e-7)


def test_a_constant_feature_stays_constant_in_scale():
    X = points()
    X[:, 1] = 1e6
    gan = GAN(**SMALL).fit(X)
    assert gan.model_.scale[1].item() == 1.0
    assert np.isfinite(gan.sample(5)[0]).all()


def test_weights_count_items():
    """Items without weight do not matter: neither for the scale nor for the critic's loss."""
    X, weights = points(), np.ones(60)
    X[::3], weights[::3] = 1e3, 0.0
    model = GAN(**SMALL).build(3)
    model.initialize(as_batches(X, torch.from_numpy(weights)), seeded())
    kept = X[weights > 0]
    assert_allclose(model.location.numpy(), kept.mean(0), rtol=1e-10, atol=0)
    assert_allclose(model.scale.numpy(), kept.std(0), rtol=1e-10, atol=0)
    whole, part = (next(iter(as_batches(x, w))) for x, w in ((X, torch.from_numpy(weights * 1.5)), (kept, None)))
    found, expected = (model.player_loss(CRITIC, each, seeded()).parts for each in (whole, part))
    for name in ("data", "penalty"):
        assert_allclose(found[name].item(), expected[name].item(), rtol=1e-10, atol=0)


def test_shares_stay_in_their_range_and_other_data_is_refused():
    X = np.random.default_rng(0).random((40, 4))
    gan = GAN(**SMALL | {"output": "sigmoid"}).fit(X)
    samples = gan.sample(100)[0]
    assert 0 < samples.min() < samples.max() < 1
    assert_array_equal(gan.model_.location, 0)
    with pytest.raises(InputError, match=r"output='sigmoid': X has values from .* to 2; expected numbers in \[0, 1\]"):
        GAN(**SMALL | {"output": "sigmoid"}).fit(2 * np.eye(4))


def test_generated_points_are_functions_of_their_latent_variables():
    gan = GAN(**SMALL).fit(points())
    Z = np.random.default_rng(0).normal(size=(7, 2))
    found = gan.generate(Z)
    assert found.shape == (7, 3)
    assert_array_equal(gan.inverse_transform(Z), found)
    assert_allclose(gan.generate(Z[2:3]), found[2:3], rtol=1e-12, atol=0)
    with pytest.raises(InputError, match=r"Z has shape \(7, 3\); expected \(n, n_latent=2\)"):
        gan.generate(found)


def test_there_is_no_likelihood():
    gan = GAN(**SMALL).fit(points())
    assert not hasattr(gan, "score")
    assert not hasattr(gan, "score_samples")
    assert gan.history_.parts.keys() == {"loss", "critic", "critic data", "critic samples", "critic penalty", "generator"}


@pytest.mark.parametrize(
    "settings",
    [{"normalization": "spectral", "critic_steps": 2}, {"loss": "wasserstein", "penalty": "gradient", "optimizer": "rmsprop"}],
)
def test_a_training_goes_on_as_if_it_had_never_stopped(settings, tmp_path):
    X = points()
    whole = GAN(**SMALL | settings | {"max_epochs": 6, "schedule": "constant"}).fit(X)
    estimator = GAN(**SMALL | settings | {"max_epochs": 6, "schedule": "constant"})
    estimator.fit(X, checkpoint=tmp_path, callbacks=[lambda epoch: epoch.number == 2])
    assert estimator.history_.n_iter == 3
    estimator.fit(X, checkpoint=tmp_path)
    for (name, found), expected in zip(estimator.model_.state_dict().items(), whole.model_.state_dict().values(), strict=True):
        assert torch.equal(found, expected), name
    assert estimator.history_.parts == whole.history_.parts


def test_images_by_convolutions():
    """Bright squares on the left or the right of small images: samples have a bright half, and a saved one is the same."""
    rng = np.random.default_rng(0)
    images = np.zeros((200, 8, 8))
    for image in images:
        image[2:6, (0 if rng.random() < 0.5 else 4) :][:, :4] = rng.uniform(0.8, 1.0)
    gan = GAN(4, architecture="conv", hidden=(8, 16), output="sigmoid", batch_size=20, max_epochs=25, average=0.9, learning_rate=2e-3,
              random_state=0, device="cpu").fit(images.reshape(200, 64))  # fmt: skip
    samples = gan.sample(100)[0].reshape(100, 8, 8)
    rows = samples.mean((0, 2))
    assert rows[2:6].min() > 2 * rows[[0, 1, 6, 7]].max()
    assert gan.discriminate(images.reshape(200, 64)).shape == (200,)


def test_an_image_of_other_sides_needs_its_shape():
    X = np.random.default_rng(0).random((30, 2 * 4 * 6))
    gan = GAN(**SMALL | {"architecture": "conv", "hidden": (4,), "shape": (2, 4, 6)}).fit(X)
    assert gan.sample(3)[0].shape == (3, 48)
    with pytest.raises(ParameterError, match="shape="):
        GAN(**SMALL | {"architecture": "conv", "hidden": (4,), "shape": (2, 4, 5)}).fit(X)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss", "hinge"),
        ("penalty", "r2"),
        ("penalty_weight", -1.0),
        ("clip_bound", 0.0),
        ("normalization", "batch"),
        ("critic_steps", 0),
        ("updates", "random"),
        ("average", 1.0),
        ("beta1", 1.0),
        ("critic_learning_rate", 0.0),
        ("optimizer", "lbfgs"),
        ("architecture", "recurrent"),
        ("critic_hidden", (0,)),
        ("n_latent", 0),
    ],
)
def test_wrong_parameters_are_told(name, value):
    with pytest.raises(ParameterError, match=f"{name}="):
        GAN(**SMALL | {name: value}).fit(points())


def test_memorization_compares_samples_with_training_points():
    X = points(80)
    gan = GAN(**SMALL).fit(X[:40])
    found = gan.memorization(X[:40], X[40:], n_samples=30)
    nearest = np.linalg.norm(gan.sample(30)[0][:, None] - X[:40], axis=2)
    assert_array_equal(found.nearest, nearest.argmin(1))
    assert_allclose(found.sample_distance, np.median(nearest.min(1)), rtol=1e-6, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("updates", ["alternating", "simultaneous"])
def test_two_correlated_columns_are_learned(updates):
    """Mean and covariance of a Gaussian, whose generator can be linear."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 2)) @ np.array([[1.0, 0.8], [0.0, 0.6]]) + [1.0, -2.0]
    gan = GAN(2, hidden=(32,), max_epochs=80, updates=updates, random_state=0, device="cpu").fit(X)
    samples = gan.sample(4000)[0]
    assert_allclose(samples.mean(0), [1.0, -2.0], rtol=0, atol=0.15)
    assert_allclose(np.cov(samples.T), np.cov(X.T), rtol=0, atol=0.35)  # 0.25 at worst: a short game, which is no fit
