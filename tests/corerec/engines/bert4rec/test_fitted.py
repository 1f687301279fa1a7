import copy
import pickle
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from corerec.errors import NotFittedError
from scorer_contract import PROMISES


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_fitted_model_can_be_copied_to_workers(model, copied, same_answers):
    twin = copied(model)
    same_answers([twin.recommend("user 0", with_scores=True)], [model.recommend("user 0", with_scores=True)])
    twin.observe("user 0", "i")
    assert len(twin.history("user 0")) == len(model.history("user 0")) + 1


@pytest.mark.parametrize("promise", PROMISES)
def test_the_scorer_of_a_fitted_model_keeps_what_every_scorer_promises(model, promise):
    promise(model.scorer)


def test_nothing_of_a_fitted_model_is_replaced_in_place(model):
    with pytest.raises(FrozenInstanceError):
        model.fitted.name = "another"


def test_a_copy_computes_what_is_derived_anew(model):
    """States kept by one model are not those of its copy, whose network may be trained on."""
    model.recommend("user 0")
    twin = copy.deepcopy(model.fitted)
    assert twin.states is not model.fitted.states
    assert twin.index is not model.fitted.index
    assert twin.states.get(model.users.number("user 0"), 8) is None


def test_events_and_items_never_met_are_counted(model):
    fitted = model.fitted
    assert (fitted.num_events, fitted.unseen_probability) == (420, 1 / (420 + 12 + 1))
    assert not fitted.is_new(np.arange(1, 13)).any()


def test_a_model_without_histories_says_what_it_can_do_instead(model):
    bare = replace(model.fitted, histories=None)
    with pytest.raises(NotFittedError, match="pass history="):
        bare.known_histories()
