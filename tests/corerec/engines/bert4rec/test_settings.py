from dataclasses import fields

import numpy as np
import pytest
from sklearn.base import clone

from corerec.engines.bert4rec import Bert4Rec
from corerec.engines.bert4rec.config import ModelConfig, TrainConfig
from corerec.engines.bert4rec.settings import DEFAULTS
from corerec.errors import (
    ConfigError,
)


def test_each_default_has_one_source():
    for config in (ModelConfig, TrainConfig):
        for field in fields(config):
            if field.name in DEFAULTS:  # the others are found at fit
                assert DEFAULTS[field.name] == field.default
    known = {field.name for config in (ModelConfig, TrainConfig) for field in fields(config)}
    assert DEFAULTS.keys() - known == {"name", "device", "verbose"}


def test_settings_can_be_read_changed_and_cloned():
    model = Bert4Rec("a name", epochs=3, hidden_dim=np.int64(8))
    assert model.get_params()["hidden_dim"] == 8
    twin = clone(model)
    assert twin.get_params() == model.get_params()
    assert model.set_params(epochs=5, hidden_dim=16) is model
    assert (model.train_config.epochs, twin.train_config.epochs) == (5, 3)
    with pytest.raises(ConfigError, match="no setting 'hiden_dim'"):
        model.set_params(hiden_dim=8)
    with pytest.raises(ConfigError, match=r"hidden_dim \(7\)"):
        model.set_params(hidden_dim=7)
    assert model.get_params()["hidden_dim"] == 16


@pytest.mark.parametrize("name", [None, "", 7])
def test_a_name_is_text(name):
    with pytest.raises(ConfigError, match="name"):
        Bert4Rec(name)
