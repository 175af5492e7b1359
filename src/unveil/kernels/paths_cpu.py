"""Paths through hidden Markov chains on the CPU, compiled by numba; ``chains_cpu`` hands them their arrays."""

import numba
import numpy as np

_compiled = numba.njit(nogil=True, cache=True, error_model="numpy")


@_compiled
def best_paths(offsets, chain, log_initial, log_transition, log_emission, path, log_probability):
    """Fill ``path`` (T,) with the most probable path of each sequence through its chain (Viterbi), and ``log_probability`` (N,)."""
    n_states, longest = log_initial.shape[1], 0
    for n in range(len(chain)):
        longest = max(longest, offsets[n + 1] - offsets[n])
    pointers = np.empty((longest, n_states), dtype=np.int32)
    score, best = np.empty(n_states), np.empty(n_states)
    for n in range(len(chain)):
        a, n_steps, c = offsets[n], offsets[n + 1] - offsets[n], chain[n]
        for j in range(n_states):
            score[j] = log_initial[c, j] + log_emission[a, c, j]
        for t in range(1, n_steps):
            for j in range(n_states):
                best[j] = score[0] + log_transition[c, 0, j]
                pointers[t, j] = 0
            for i in range(1, n_states):
                for j in range(n_states):
                    candidate = score[i] + log_transition[c, i, j]
                    if candidate > best[j]:
                        best[j] = candidate
                        pointers[t, j] = i
            for j in range(n_states):
                score[j] = best[j] + log_emission[a + t, c, j]
        last = np.argmax(score)
        log_probability[n] = score[last]
        path[a + n_steps - 1] = last
        for t in range(n_steps - 1, 0, -1):
            path[a + t - 1] = pointers[t, path[a + t]]


@_compiled
def drawn_paths(offsets, chain, transition, filtered, uniforms, path):
    """Fill ``path`` (T,) with paths drawn backwards: p(z_t | z_{t+1}, x) is proportional to p(z_t | x_1..t) A(z_t, z_{t+1})."""
    n_states = transition.shape[1]
    weights = np.empty(n_states)
    for n in range(len(chain)):
        c = chain[n]
        for t in range(offsets[n + 1] - 1, offsets[n] - 1, -1):
            total = 0.0
            for i in range(n_states):
                weights[i] = filtered[t, c, i]
                if t + 1 < offsets[n + 1]:
                    weights[i] *= transition[c, i, path[t + 1]]
                total += weights[i]
            goal, reached = uniforms[t] * total, 0.0
            for i in range(n_states):
                reached += weights[i]
                if weights[i] > 0:
                    path[t] = i
                    if reached > goal:
                        break
