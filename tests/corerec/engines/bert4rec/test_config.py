import math
from dataclasses import asdict

import numpy as np
import pytest

from corerec.engines.bert4rec.config import ModelConfig, TrainConfig
from corerec.errors import ConfigError


def test_contradiction_names_both_values():
    with pytest.raises(ConfigError, match=r"hidden_dim \(64\) must be a multiple of num_heads \(5\)"):
        ModelConfig(num_items=10, hidden_dim=64, num_heads=5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_items": 0},
        {"max_seq_len": 1},
        {"num_layers": 0},
        {"feedforward_dim": 0},
        {"positions": "rotary"},
        {"positions": "sinusoidal", "hidden_dim": 7, "num_heads": 1},
    ],
)
def test_model_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError):
        ModelConfig(**{"num_items": 10, **wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"ema_steps": -1},
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0},
        {"gradient_clip": 0},
        {"weight_decay": -1},
        {"weight_decay": 10**400},
        {"learning_rate": 10**5000},
        {"gradient_clip": float("nan")},
        {"warmup_steps": -1},
        {"patience": -1},
        {"mask_prob": 0},
        {"mask_prob": 1.1},
        {"next_item_share": 2},
        {"next_item_until": -0.5},
    ],
)
def test_training_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainConfig(**wrong)


def test_settings_round_trip_through_a_dict():
    config = TrainConfig(epochs=3, patience=1)
    assert TrainConfig(**asdict(config)) == config


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 1.5}, {"seed": -1}, {"seed": True}, {"learning_rate": math.nan}, {"bfloat16": 1}, {"mask_prob": "a"}],
)
def test_values_of_another_type_are_refused_at_construction(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainConfig(**wrong)


def test_numpy_numbers_are_plain_numbers_afterwards():
    config = ModelConfig(num_items=np.int64(10), hidden_dim=np.int32(8))
    assert [type(value) for value in (config.num_items, config.hidden_dim)] == [int, int]
    assert type(TrainConfig(learning_rate=np.float32(0.5)).learning_rate) is float
