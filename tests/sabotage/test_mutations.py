"""Small mistakes, put one by one into a copy of the package: the tests named beside each must notice.

Each mutation is a piece of source text that must be there, and what replaces it. The tests run in a process of their own, in which
the copy comes before the installed package. A mutation whose text is gone must be brought up to date with the source.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import unveil

REPOSITORY = Path(__file__).parents[2]
MIXTURE = "tests/models/test_gaussian_mixture.py"
CHAIN = "tests/models/test_gaussian_hmm.py"
CLUSTERS = "tests/models/test_mixture_of_hmms.py"
NMF = "tests/models/test_nmf.py"
VARIANTS = "tests/models/test_hmm.py"
HARD = "tests/learn/test_hard_em.py"
EM = "tests/contracts/test_em.py"
BEHAVIOUR = "tests/contracts/test_behaviour.py"
BAD_INPUT = "tests/contracts/test_bad_input.py"
MOMENTS = "tests/models/test_moment_starts.py"
MOMENT_SUMS = "tests/learn/test_moments.py"
SPECTRAL = "tests/kernels/test_spectral_mixtures.py"
FLOW = "tests/kernels/test_simplex_fista.py"
BSS = "tests/metrics/test_bss.py"
LABELS = "tests/metrics/test_clustering.py"
VAE = "tests/models/test_vae.py"
AUTOENCODER = "tests/models/test_autoencoder.py"
LIKELIHOODS = "tests/nn/test_likelihoods.py"
AFFINE = "tests/kernels/test_affine.py"
NETWORKS = "tests/nn/test_networks.py"
TRAINING = "tests/learn/test_training.py"
SHUFFLED = "tests/data/test_shuffled_minibatches.py"


@dataclass(frozen=True)
class Mutation:
    """A mistake: in which file of the package, what it replaces by what, and the tests that must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    occurrences: int = 1


MUTATIONS = [
    # ---- densities and their statistics
    Mutation(
        "constant of the normal density without one of its terms",
        "kernels/gaussian.py",
        "n_features * math.log(2 * math.pi) + log_determinant",
        "n_features * math.log(2 * math.pi)",
        (MIXTURE,),
    ),
    Mutation(
        "products of different features counted once",
        "kernels/gaussian.py",
        "torch.where(row == column, -0.5, -1.0)",
        "torch.where(row == column, -0.5, -0.5)",
        (MIXTURE,),
    ),
    Mutation(
        "variance of a spherical component summed over features",
        "emissions/gaussian.py",
        "torch.where(seen, entries, 0.0).sum(1)",
        "torch.where(seen, entries, 0.0)[:, 0]",
        (MIXTURE,),
    ),
    Mutation(
        "variance for standard deviation in diagonal samples",
        "emissions/gaussian.py",
        "self.covariances.sqrt()[classes]",
        "self.covariances[classes]",
        (MIXTURE,),
    ),
    Mutation("root of a covariance transposed in samples", "emissions/gaussian.py", "@ cholesky[k].T", "@ cholesky[k]", (MIXTURE,)),
    Mutation("centre added twice", "emissions/gaussian.py", "means + self.center,", "means + 2 * self.center,", (MIXTURE,)),
    Mutation(
        "data measured from zero, means from the centre",
        "emissions/gaussian.py",
        "quadratic_features(values, self.center,",
        "quadratic_features(values, 0 * self.center,",
        (MIXTURE,),
    ),
    Mutation(
        "mean not subtracted from the second moment",
        "emissions/gaussian.py",
        " - means[:, :, None] * means[:, None, :]",
        "",
        (MIXTURE,),
    ),
    Mutation(
        "tied covariance forgets the weights of the means",
        "emissions/gaussian.py",
        "between = (count[:, None] * means).T @ means",
        "between = means.T @ means",
        (MIXTURE,),
    ),
    Mutation(
        "natural parameters kept after a parameter changed",
        "emissions/gaussian.py",
        "self._natural_cache[0] != version",
        "False",
        (MIXTURE,),
    ),
    Mutation(
        "floor of the covariances removed",
        "kernels/gaussian.py",
        "covariances.clamp_min(floor)",
        "covariances",
        (MIXTURE, BAD_INPUT),
    ),
    Mutation(
        "floor of the eigenvalues added to them",
        "kernels/gaussian.py",
        "values.clamp_min(floor)[..., None, :]",
        "(values + floor)[..., None, :]",
        (MIXTURE,),
    ),
    Mutation(
        "variance of zero taken for a number",
        "kernels/gaussian.py",
        "if not bool((covariances > torch.finfo(covariances.dtype).tiny).all()):",
        "if False:",
        (CHAIN,),
    ),
    Mutation(
        "dead component set to zero",
        "emissions/gaussian.py",
        "torch.where(seen, means + self.center, self.means)",
        "means + self.center",
        (MIXTURE,),
    ),
    # ---- mixtures
    Mutation(
        "mixture weights left out of the E-step",
        "models/finite_mixture.py",
        "self.emission.log_density(features).add_(self.weights.log())",
        "self.emission.log_density(features)",
        (MIXTURE,),
    ),
    Mutation(
        "mixture weights left out of the posterior",
        "models/finite_mixture.py",
        "self.emission.log_density(self.emission.features(batch.values)) + self.weights.log()",
        "self.emission.log_density(self.emission.features(batch.values))",
        (MIXTURE,),
    ),
    Mutation(
        "mixture weights not updated",
        "models/finite_mixture.py",
        "self.weights.copy_(normalize(statistics.count + self._pseudo_counts(), self.weights))",
        "pass",
        (MIXTURE,),
    ),
    Mutation(
        "item weights forgotten in the responsibilities",
        "models/finite_mixture.py",
        "responsibilities *= weights[:, None]",
        "pass",
        (EM,),
    ),
    Mutation(
        "item weights forgotten in the log-likelihood",
        "models/finite_mixture.py",
        "torch.where(weights > 0, log_likelihood * weights, 0.0)",
        "log_likelihood",
        (EM, MIXTURE),
    ),
    Mutation(
        "free parameters of the weights miscounted",
        "models/finite_mixture.py",
        "len(self.weights) - 1 +",
        "len(self.weights) +",
        (MIXTURE,),
    ),
    Mutation(
        "shift of the log-sum with the wrong sign",
        "kernels/simplex.py",
        "(highest + total.log())",
        "(total.log() - highest)",
        (MIXTURE,),
    ),
    Mutation(
        "responsibilities not normalised",
        "kernels/simplex.py",
        "log_joint.mul_(torch.where(total > 0, total.reciprocal(), 0.0))",
        "pass",
        (MIXTURE,),
    ),
    # ---- chains
    Mutation(
        "axes of the transitions swapped in the statistics",
        "kernels/chains_cpu.py",
        "pairs + factored * chains.transition",
        "pairs + factored.transpose(0, 2, 1) * chains.transition",
        (CHAIN,),
    ),
    Mutation(
        "axes of the transitions swapped going forwards",
        "kernels/chains_cpu.py",
        "arriving[j] += here * transition[c, i, j]",
        "arriving[j] += here * transition[c, j, i]",
        (CHAIN,),
    ),
    Mutation("shift of a step left out of log Z", "kernels/chains_cpu.py", "log_z += chains.shift[c, t]", "pass", (CHAIN,)),
    Mutation(
        "off by one in time going backwards",
        "kernels/chains_cpu.py",
        "message[j] * likelihood[t + 1, c, j] * rescaling",
        "message[j] * likelihood[t, c, j] * rescaling",
        (CHAIN,),
    ),
    Mutation(
        "rescaling of a step skipped going backwards",
        "kernels/chains_cpu.py",
        "rescaling = chains.rescaling[t + 1, c]",
        "rescaling = 1.0",
        (CHAIN,),
    ),
    Mutation(
        "lost states not noticed",
        "kernels/chains_cpu.py",
        "if arriving[j] < _LOST and reachable[j]:",
        "if False:",
        (CHAIN,),
    ),
    Mutation(
        "weights of sequences forgotten",
        "kernels/chains_cpu.py",
        "responsibilities[n, c] * weights[n] if",
        "responsibilities[n, c] if",
        (EM,),
    ),
    Mutation(
        "weights of chains forgotten",
        "kernels/chains_cpu.py",
        "responsibilities[n, c] = np.exp(log_z[n, c] + log_weights[n, c] - highest)",
        "responsibilities[n, c] = np.exp(log_z[n, c] - highest)",
        (CLUSTERS,),
    ),
    Mutation("best path takes the first state at the end", "kernels/paths_cpu.py", "last = np.argmax(score)", "last = 0", (CHAIN,)),
    Mutation(
        "best path forgets the initial probabilities",
        "kernels/paths_cpu.py",
        "score[j] = log_initial[c, j] + log_emission[a, c, j]",
        "score[j] = log_emission[a, c, j]",
        (CHAIN,),
    ),
    Mutation(
        "gradient by a probability not divided by it",
        "kernels/chains_cpu.py",
        "torch.where(p > 0, count / p, 0.0)",
        "torch.where(p > 0, count, 0.0)",
        (CHAIN,),
    ),
    Mutation(
        "initial probabilities not updated",
        "models/chain_mixture.py",
        'if "startprob" not in fixed:',
        "if False:",
        (CHAIN,),
    ),
    Mutation(
        "rows without counts become uniform",
        "models/chain_mixture.py",
        "_without_vanished(normalize(counts, self.transition))",
        "_without_vanished(normalize(counts))",
        (CHAIN,),
    ),
    Mutation(
        "states of the previous step not used in samples",
        "models/chain_mixture.py",
        "transition[chain, states[:, t - 1]]",
        "transition[chain, states[:, 0]]",
        (CHAIN,),
    ),
    Mutation(
        "cluster weights left out of the most probable cluster",
        "models/chain_mixture.py",
        "(self._kernels.log_partition(*arguments) + self._log_weights(batch)).argmax(1)",
        "self._kernels.log_partition(*arguments).argmax(1)",
        (CLUSTERS,),
    ),
    Mutation(
        "smoothed probabilities for filtered ones",
        "models/hidden_states.py",
        "self.model_.filtered(batch)[:, 0]",
        "self.model_.posterior(batch).states[:, 0]",
        (CHAIN,),
    ),
    Mutation(
        "clusters confused with states",
        "models/mixture_of_hmms.py",
        "as_array(parameter).reshape(self.n_clusters, -1, *parameter.shape[1:])",
        "as_array(parameter).reshape(-1, self.n_clusters, *parameter.shape[1:]).swapaxes(0, 1)",
        (CLUSTERS,),
    ),
    # ---- learning variants, labels, structures
    Mutation(
        "labels do not restrict the posterior",
        "kernels/simplex.py",
        "(labels >= 0) & (classes != labels)",
        "(labels >= 0) & (classes != classes)",
        (VARIANTS,),
    ),
    Mutation(
        "hard assignment to the least probable",
        "models/finite_mixture.py",
        "log_joint.max(1)",
        "log_joint.min(1)",
        (HARD,),
    ),
    Mutation(
        "prior of transitions forgotten",
        "models/chain_mixture.py",
        "statistics.transitions + self._transition_prior()",
        "statistics.transitions",
        (VARIANTS,),
    ),
    Mutation(
        "entries that are held share what remains",
        "models/chain_mixture.py",
        "torch.where(self.structure.held, 0.0, counts)",
        "counts",
        ("tests/models/test_topology.py",),
    ),
    Mutation(
        "one step too few ahead",
        "models/hidden_states.py",
        "torch.stack(states[1:], 1)",
        "torch.stack(states[:-1], 1)",
        (VARIANTS,),
    ),
    Mutation(
        "surprise forgets where sequences begin",
        "models/chain_mixture.py",
        "states[batch.offsets[:-1]] = self.initial.expand(batch.n_sequences, -1, -1)",
        "pass",
        (VARIANTS,),
    ),
    Mutation(
        "step size of stochastic EM does not fall",
        "learn/stochastic.py",
        "EXPONENT = 0.7",
        "EXPONENT = 0.0",
        ("tests/learn/test_stochastic.py",),
    ),
    Mutation(
        "minibatches leave items out",
        "data/batch.py",
        "for items in np.split(order, np.flatnonzero(np.diff(groups)) + 1):",
        "for items in np.split(order, np.flatnonzero(np.diff(groups)) + 1)[:-1]:",
        ("tests/data/test_minibatches.py",),
    ),
    # ---- NMF
    Mutation(
        "updates without a square root under Itakura-Saito",
        "models/nmf.py",
        "ratio.sqrt_() if self.beta == 0 else ratio",
        "ratio",
        (NMF,),
    ),
    Mutation(
        "item weights forgotten by the atoms",
        "models/nmf.py",
        "activations * batch.weights.to(activations)[:, None]",
        "activations",
        (NMF,),
    ),
    Mutation("penalty left out of the update", "models/nmf.py", "denominator = denominator + self.sparsity", "pass", (NMF,)),
    Mutation(
        "missing entries counted in the positive part",
        "kernels/divergences.py",
        "positive = present.to(values.dtype) if positive is None else positive * present",
        "positive = torch.ones_like(values) if positive is None else positive",
        (NMF,),
    ),
    Mutation(
        "missing entries counted in the divergence",
        "kernels/divergences.py",
        "each = torch.where(present, each, 0.0)",
        "pass",
        (NMF,),
    ),
    Mutation("divergence without its linear term", "kernels/divergences.py", ".sub_(values).add_(model)", ".add_(model)", (NMF,)),
    Mutation(
        "parts of the sources exchanged",
        "models/nmf.py",
        "for source in [self, *others]])\n        n_each",
        "for source in [*others, self]])\n        n_each",
        (NMF,),
    ),
    Mutation(
        "mean of the start without the weights",
        "models/nmf.py",
        "mean = (weights @ values).sum() / total",
        "mean = values.mean()",
        (NMF,),
    ),
    # ---- learning
    Mutation(
        "mean over items for sum over batches",
        "core/statistics.py",
        "_add(getattr(self, each.name), getattr(other, each.name))",
        "_scale(_add(getattr(self, each.name), getattr(other, each.name)), 0.5)",
        (EM,),
    ),
    Mutation("last start kept for the best", "learn/restarts.py", "reached[-1] > best[0]", "True", (MIXTURE,)),
    Mutation(
        "state of the best start not copied",
        "learn/restarts.py",
        "copy.deepcopy(model.state_dict())",
        "model.state_dict()",
        (MIXTURE,),
    ),
    Mutation(
        "one update too many",
        "learn/em.py",
        "for iteration in range(max(max_iter, 1)):",
        "for iteration in range(max(max_iter, 1) + 1):",
        (MIXTURE,),
    ),
    Mutation(
        "objective not divided by the weight",
        "learn/em.py",
        "(statistics.log_likelihood + log_prior_of(model)) / statistics.weight",
        "statistics.log_likelihood + log_prior_of(model)",
        (MIXTURE,),
    ),
    Mutation("earlier fit lost when a fit fails", "core/estimator.py", "vars(self).update(earlier)", "pass", (BAD_INPUT,)),
    Mutation(
        "float32 for the values of a sequence model",
        "data/layout.py",
        "values = torch.cat(list(sequences)) if tensor else np.concatenate(sequences)",
        "values = torch.cat(list(sequences)) if tensor else np.concatenate(sequences).astype(np.float32)",
        (BEHAVIOUR,),
    ),
    # ---- metrics
    Mutation(
        "permutation of the sources ignored",
        "metrics/bss.py",
        "_best_permutation(pairs_sir) if permute else np.arange(n_sources)",
        "np.arange(n_sources)",
        (BSS,),
    ),
    Mutation("decibels of amplitudes", "metrics/bss.py", "return 10 * np.log10(", "return 20 * np.log10(", (BSS,)),
    Mutation(
        "worst matching of clusters with classes",
        "metrics/clustering.py",
        "counts[linear_sum_assignment(counts, maximize=True)]",
        "counts[linear_sum_assignment(counts)]",
        (LABELS,),
    ),
    # ---- moments
    Mutation(
        "third moments without their correction for noise",
        "kernels/spectral_mixtures.py",
        "_components(third - correction)",
        "_components(third)",
        (SPECTRAL,),
    ),
    Mutation(
        "noise measured along the means as well",
        "kernels/spectral_mixtures.py",
        "noise_directions=vectors[:, n_components - 1 :],",
        "noise_directions=vectors,",
        (SPECTRAL,),
    ),
    Mutation(
        "the first view mapped by the moments of the third",
        "kernels/spectral_mixtures.py",
        "u1 @ (inner23 @ inverse13).T @ whitener",
        "u1 @ (inner21 @ inverse13).T @ whitener",
        (SPECTRAL,),
    ),
    Mutation(
        "flow fitted to the reversed chain",
        "kernels/simplex_fista.py",
        "target = features.T @ moment @ features",
        "target = features.T @ moment.T @ features",
        (FLOW,),
    ),
    Mutation(
        "momentum that never starts anew",
        "kernels/simplex_fista.py",
        "if float(((ahead - moved) * change).sum()) > 0:",
        "if float(((ahead - moved) * change).sum()) > 1e300:",
        (FLOW,),
    ),
    Mutation(
        "pairs at all lags that count a step with itself",
        "learn/moments.py",
        "@ sums - gram,",
        "@ sums,",
        (MOMENT_SUMS,),
    ),
    Mutation(
        "the last step of a sequence followed by the first of the next",
        "learn/moments.py",
        "earlier = weighted[:-1] * follows[:, None]",
        "earlier = weighted[:-1]",
        (MOMENT_SUMS,),
    ),
    Mutation(
        "third moments of points that ignore weights",
        "learn/moments.py",
        "_triple_sum(weighted, whitened, whitened)",
        "_triple_sum(whitened, whitened, whitened)",
        (MOMENT_SUMS,),
    ),
    Mutation(
        "a cut through a conjugate pair",
        "kernels/depermutation.py",
        "        n_kept += 1\n",
        "        n_kept += 0\n",
        ("tests/kernels/test_depermutation.py",),
    ),
    Mutation(
        "left-to-right chains left in the order in which they were found",
        "models/moment_chains.py",
        'if self.kind == "bakis":\n            return torch.as_tensor(np.asarray(heaviest_path(_leaving(transition), initial.numpy())))',
        'if self.kind == "bakis":\n            return torch.arange(len(transition))',
        (MOMENTS,),
    ),
    Mutation(
        "doubts about clusters left unsaid",
        "models/moment_diagnostics.py",
        "found.cluster_gap < _SMALL_GAP or found.last_eigenvalue < _SMALL_EIGENVALUE",
        "found.cluster_gap < _SMALL_GAP - 1",
        (MOMENTS,),
    ),
    # ---- neural models
    Mutation(
        "divergence without its constant",
        "nn/normal_latent.py",
        "return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)\n",
        "return 0.5 * (mean.square() + log_variance.exp() - log_variance)\n",
        (VAE,),
    ),
    Mutation(
        "variance for standard deviation in a draw",
        "nn/normal_latent.py",
        "mean + (0.5 * log_variance).exp() * noise.normal(mean)",
        "mean + log_variance.exp() * noise.normal(mean)",
        (VAE,),
    ),
    Mutation(
        "bound with the weight of the training",
        "models/variational.py",
        "return per_sequence(-reconstruction - divergence, batch)",
        "return per_sequence(-reconstruction - self._beta * divergence, batch)",
        (VAE,),
    ),
    Mutation(
        "importance weights without the prior",
        "models/variational.py",
        "weight = likelihood + latent.log_prior(codes) - latent.log_posterior(codes, statistics)",
        "weight = likelihood - latent.log_posterior(codes, statistics)",
        (VAE,),
    ),
    Mutation(
        "scale of the data left out of the density",
        "nn/likelihoods.py",
        "constant = self.n_features * LOG_2PI + 2 * self.scale.log().sum()",
        "constant = self.n_features * LOG_2PI",
        (LIKELIHOODS,),
    ),
    Mutation(
        "power for its logarithm in the Itakura-Saito divergence",
        "nn/likelihoods.py",
        "return -((values + self.floor) * (-outputs).exp() + outputs).sum(-1)",
        "return -((values + self.floor) * outputs.exp() + outputs).sum(-1)",
        (LIKELIHOODS,),
    ),
    Mutation(
        "mean of the logarithms for the logarithm of the mean",
        "nn/likelihoods.py",
        "return (values.double().mean(0) + self.floor).log()",
        "return (values.double() + self.floor).log().mean(0)",
        (LIKELIHOODS,),
    ),
    Mutation(
        "sparsity that depends on the scale of the code",
        "models/autoencoder.py",
        "(codes.abs() @ self.decoder.first_weight().norm(dim=0))",
        "codes.abs().sum(-1)",
        (AUTOENCODER,),
    ),
    Mutation("Jacobian without random signs", "models/autoencoder.py", "(outputs * signs).sum()", "outputs.sum()", (AUTOENCODER,)),
    Mutation("masking the other share", "models/autoencoder.py", ">= self._level)", "< self._level)", (AUTOENCODER,)),
    Mutation(
        "forward network where the whole sequence is to be seen", "nn/architectures.py", 'n_outputs, "both")', "n_outputs)", (VAE,)
    ),
    Mutation(
        "large products with the slope of the map, not of its weight",
        "kernels/affine.py",
        "affine(gradient.T, values.T) if",
        "affine(gradient.T, 2 * values.T) if",
        (AFFINE,),
    ),
    Mutation(
        "large products without a look at whether there is room for derivatives of functions",
        "kernels/affine.py",
        "        and not torch._C._are_functorch_transforms_active()  # vmap, jvp\n",
        "",
        (AFFINE,),
    ),
    Mutation(
        "start of convolutions as of single pixels",
        "core/neural.py",
        "return weight[0].numel()",
        "return weight.shape[1]",
        (NETWORKS,),
    ),
    Mutation(
        "best model as a reference",
        "learn/training.py",
        "{name: value.detach().clone() for name, value in model.state_dict().items()}",
        "dict(model.state_dict())",
        (TRAINING,),
    ),
    Mutation(
        "generator left out of the checkpoint",
        "learn/sgd.py",
        '        self._generator.set_state(state["generator"].cpu())\n',
        "",
        (TRAINING,),
    ),
    Mutation(
        "optimizer left out of the checkpoint",
        "learn/sgd.py",
        '        self._optimizer.load_state_dict(state["optimizer"])\n',
        "",
        (TRAINING,),
    ),
    Mutation(
        "interrupted epoch begun again",
        "learn/training.py",
        "minibatches.epoch(progress.epoch, progress.done)",
        "minibatches.epoch(progress.epoch, 0)",
        (TRAINING,),
    ),
    Mutation(
        "step on a loss that is not finite",
        "learn/sgd.py",
        '        if math.isfinite(parts["loss"]):  # else the parameters stay what they are\n            self._optimizer.step()',
        "        self._optimizer.step()",
        (TRAINING,),
    ),
    Mutation(
        "gradients that are not clipped",
        "learn/sgd.py",
        "nn.utils.clip_grad_norm_(self.model.parameters(), self._clip_norm)",
        "pass",
        (TRAINING,),
    ),
    Mutation(
        "other parameters let pass at a checkpoint",
        "learn/checkpoint.py",
        "if name not in CHANGEABLE and mine.get(name) != theirs.get(name):",
        "if False:",
        (TRAINING,),
    ),
    Mutation(
        "the same order in every epoch",
        "data/minibatches.py",
        "np.random.default_rng((self._seed, number))",
        "np.random.default_rng(self._seed)",
        (SHUFFLED,),
    ),
    Mutation(
        "shares of processes that are not weighed",
        "data/minibatches.py",
        "n_processes * share.n_steps / whole.n_steps if len(mine) else 0.0",
        "1.0 if len(mine) else 0.0",
        (SHUFFLED,),
    ),
]


@pytest.fixture
def copied(tmp_path):
    """A copy of the package, the compiled kernels beside it: what is not changed need not be compiled again."""
    target = tmp_path / "unveil"
    shutil.copytree(Path(unveil.__file__).parent, target, ignore=shutil.ignore_patterns("notes"))
    return target


def run_tests(package: Path, tests: tuple[str, ...]) -> subprocess.CompletedProcess:
    """Run tests against a copy of the package, and stop at the first failure."""
    found = subprocess.run(
        [sys.executable, "-c", "import unveil; print(unveil.__file__)"],
        env=environment(package),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()).parent == package, "the copy is not what is imported"
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *tests]
    return subprocess.run(command, env=environment(package), cwd=REPOSITORY, capture_output=True, text=True, timeout=600)


def environment(package: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    return kept | {"PYTHONPATH": str(package.parent), "OMP_NUM_THREADS": "1"}  # several of these may run side by side


def test_texts_are_in_the_source():
    """Quick, so that it runs always: a mutation that changes nothing would prove nothing."""
    package = Path(unveil.__file__).parent
    for mutation in MUTATIONS:
        assert (package / mutation.file).read_text().count(mutation.old) == mutation.occurrences, mutation.name
        assert mutation.old != mutation.new, mutation.name
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "tests", sorted({mutation.tests for mutation in MUTATIONS}), ids=lambda tests: "+".join(Path(t).stem for t in tests)
)
def test_unchanged_copy_passes(copied, tests):
    result = run_tests(copied, tests)
    assert result.returncode == 0, result.stdout[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_mistake_is_noticed(copied, mutation):
    path = copied / mutation.file
    text = path.read_text()
    assert text.count(mutation.old) == mutation.occurrences
    path.write_text(text.replace(mutation.old, mutation.new))
    result = run_tests(copied, mutation.tests)
    assert result.returncode == 1, f"exit code {result.returncode}\n{result.stdout[-3000:]}{result.stderr[-2000:]}"
    assert " failed" in result.stdout, result.stdout[-3000:]
