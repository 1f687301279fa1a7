"""The settings of a `Bert4Rec`: its constructor, scikit-learn's parameter interface (`get_params`, `set_params`), and
its representations as text and HTML."""

from __future__ import annotations

import html
import inspect
from dataclasses import asdict, fields
from typing import Any, Literal, Self

from corerec.engines.bert4rec.config import ModelConfig, TrainConfig
from corerec.engines.bert4rec.fitted import FittedModel
from corerec.engines.bert4rec.training import choose_device
from corerec.engines.bert4rec.training_checkpoint import TrainingCheckpoint
from corerec.errors import ConfigError
from corerec.threads import use_available_cpus


class Settings:
    """The settings of a model, and the model that was fitted with them. The constructor checks the settings."""

    def __init__(
        self,
        name: str = "Bert4Rec",
        *,
        max_seq_len: int = ModelConfig.max_seq_len,
        hidden_dim: int = ModelConfig.hidden_dim,
        num_layers: int = ModelConfig.num_layers,
        num_heads: int = ModelConfig.num_heads,
        feedforward_dim: int | None = ModelConfig.feedforward_dim,
        dropout: float | None = TrainConfig.dropout,
        positions: Literal["learned", "sinusoidal"] = ModelConfig.positions,
        mask_prob: float = TrainConfig.mask_prob,
        bert_replacement: bool = TrainConfig.bert_replacement,
        next_item_share: float = TrainConfig.next_item_share,
        next_item_until: float | None = TrainConfig.next_item_until,
        whole_history: bool = TrainConfig.whole_history,
        epochs: int | None = TrainConfig.epochs,
        batch_size: int | None = TrainConfig.batch_size,
        learning_rate: float | None = TrainConfig.learning_rate,
        warmup_steps: int | None = TrainConfig.warmup_steps,
        weight_decay: float | None = TrainConfig.weight_decay,
        gradient_clip: float = TrainConfig.gradient_clip,
        ema_steps: int = TrainConfig.ema_steps,
        num_negatives: int | None = TrainConfig.num_negatives,
        row_updates: bool | None = TrainConfig.row_updates,
        bfloat16: bool = TrainConfig.bfloat16,
        clock: bool | None = TrainConfig.clock,
        patience: int | None = TrainConfig.patience,
        device: str = "auto",
        seed: int = TrainConfig.seed,
        verbose: bool = False,
    ) -> None:
        """Check the settings. Each setting is explained at its field of `ModelConfig` or `TrainConfig`.

        If PyTorch still has its default number of CPU threads, and this process may use fewer CPUs, the number of
        threads is set to the number of CPUs that this process may use.

        Args:
            name: the model's name in tables and progress lines.
            patience: stop after so many epochs without a better validation NDCG@10, and keep the weights of the best
                epoch. `fit` then holds each user's last event out of the training, and validates on these events. None
                trains on all events.
            device: a torch device such as "cuda:1", or "auto". "auto" takes a CUDA GPU if there is one, else Apple's
                GPU, else the CPU.
            verbose: show progress on stderr.
        Raises:
            ConfigError: a setting is out of range, or two contradict each other.
        """
        given = locals()
        self._configure({setting: given[setting] for setting in DEFAULTS})
        use_available_cpus()
        self._model: FittedModel | None = None
        self._checkpoint: TrainingCheckpoint | None = None
        self._warned_of_unseen = False

    def _configure(self, settings: dict[str, Any]) -> None:
        name, device = settings["name"], settings["device"]
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"name must be text, not {name!r}")
        self.train_config = TrainConfig(**{field.name: settings[field.name] for field in fields(TrainConfig)})
        shape = {field.name: settings[field.name] for field in fields(ModelConfig) if field.name in settings}
        self._shape = ModelConfig(num_items=1, **shape)  # `fit` sets the number of items
        self.device = choose_device(device)
        self._device_setting = device
        self.name, self.verbose = name, bool(settings["verbose"])

    @property
    def model_config(self) -> ModelConfig:
        """The network's shape. Before `fit`, its `num_items` is 1."""
        return self._shape if self._model is None else self._model.config

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return every setting of the constructor by its name, as scikit-learn's tools expect."""
        values = asdict(self._shape) | asdict(self.train_config)
        values |= {"name": self.name, "device": self._device_setting, "verbose": self.verbose}
        return {setting: values[setting] for setting in DEFAULTS}

    def set_params(self, **settings: Any) -> Self:
        """Change settings for the next `fit`, and return the model. A fitted model stays as it is.

        Raises:
            ConfigError: a setting is unknown or out of range.
        """
        unknown = sorted(settings.keys() - DEFAULTS.keys())
        if unknown:
            raise ConfigError(f"Bert4Rec has no setting {unknown[0]!r}; its settings are {', '.join(DEFAULTS)}")
        self._configure(self.get_params() | settings)
        return self

    def __repr__(self) -> str:
        """Return the settings that differ from the defaults, and the sizes of the fitted log."""
        changed = [f"{key}={value!r}" for key, value in self.get_params().items() if value != DEFAULTS[key]]
        return f"Bert4Rec({', '.join(changed)}{'; ' if changed else ''}{self._summary()})"

    def _repr_html_(self) -> str:
        rows = {"model": self._summary()} | {
            key: value for key, value in self.get_params().items() if value != DEFAULTS[key]
        }
        cells = "".join(f"<tr><th>{key}</th><td>{html.escape(str(value))}</td></tr>" for key, value in rows.items())
        return f"<table><caption>{html.escape(self.name)}</caption>{cells}</table>"

    def _summary(self) -> str:
        if self._model is None:
            return "not fitted"
        histories, model = self._model.histories, self._model
        users = "no histories" if histories is None else f"{len(histories.users):,} users"
        return f"{users}, {len(model.items):,} items, {model.num_events:,} events"


DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(Settings.__init__).parameters.items()
    if name != "self"
}
