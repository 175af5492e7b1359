"""The record of a run."""

import json

from unveil.core.history import History


def test_a_new_history_is_empty_and_its_own():
    first, second = History(), History()
    first.objective.append(1.0)
    first.iterations.append(0)
    first.restarts.append(2.0)
    assert second == History([], [], 0, False, 0.0, [])


def test_a_history_goes_through_json_and_back():
    history = History([-3.0, -1.5], [0, 5], 6, True, 0.25, [-2.0, -1.5], {"loss": [3.0, 1.5]}, 0.125)
    text = json.dumps(history.to_dict())
    assert json.loads(text) == {
        "objective": [-3.0, -1.5],
        "iterations": [0, 5],
        "n_iter": 6,
        "converged": True,
        "seconds": 0.25,
        "restarts": [-2.0, -1.5],
        "parts": {"loss": [3.0, 1.5]},
        "waiting": 0.125,
    }
    assert History(**json.loads(text)) == history


def test_plain_lists_are_copies():
    history = History([1.0])
    history.to_dict()["objective"].append(2.0)
    assert history.objective == [1.0]
