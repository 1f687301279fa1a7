"""Estimate the memory that a training takes before it begins, and find how much is free."""

from __future__ import annotations

import ctypes
import sys
import warnings
from contextlib import suppress

import torch

from corerec.engines.bert4rec.config import ModelConfig
from corerec.errors import DataWarning
from corerec.machine import free_memory

COPIES = 6  # of the weights: they, their gradients twice, two moments, the average
COPIES_WITHOUT_GRADIENTS = 4  # of an item table of which each step updates a few rows
FIXED = 170 * 10**6  # dropout's noise, and code that matrix libraries prepare for shapes
VALUES_A_BLOCK = 22  # float32 values of width D that a block keeps of an event for the backward pass
VALUES_BESIDE = 12  # the same outside the blocks: embeddings, head, loss
SCORES = 1  # copies of the attention's scores, one of each head for each event and each it looks at


def training_bytes(config: ModelConfig, padded_events: int, num_competing: int, row_updates: bool = False) -> int:
    """Estimate the most bytes that a training takes in addition to its log. The formula is fitted to measurements on a
    CPU.

    Args:
        padded_events: windows times padded length of the largest step.
        num_competing: the number of items that compete in the loss.
        row_updates: whether a step updates only some rows of the item table.
    """
    dim, length = config.hidden_dim, min(config.max_seq_len, padded_events)
    table = config.num_items * dim * (COPIES_WITHOUT_GRADIENTS if row_updates else COPIES)
    an_event = dim * (VALUES_BESIDE + VALUES_A_BLOCK * config.num_layers)
    an_event += SCORES * config.num_heads * length * config.num_layers
    loss = 2 * num_competing * dim
    return FIXED + 4 * (table + COPIES * weights_beside_items(config) + padded_events * an_event + loss)


def weights_beside_items(config: ModelConfig) -> int:
    """Return the number of weights of a network without its item table and the encoders of time and content."""
    dim = config.hidden_dim
    feedforward = config.feedforward_dim or 4 * dim
    block = 4 * dim**2 + 2 * dim * feedforward + 13 * dim
    return config.max_seq_len * dim + config.num_layers * block


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that this process may still use on a device, or None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_memory() if device.type == "cpu" else None


def warn_if_too_little(wanted: int, device: torch.device, stacklevel: int = 2) -> None:
    """Warn before a training begins if it will not fit into memory."""
    free = free_bytes(device)
    if free is not None and wanted > free:
        warnings.warn(
            f"the training needs about {as_text(wanted)} of memory on {device.type}, and {as_text(free)} are free; "
            "take a smaller batch_size, max_seq_len or hidden_dim, or a larger machine",
            DataWarning,
            stacklevel=stacklevel + 1,
        )


def return_freed_memory() -> None:
    """Return freed memory to the system. Tensors of many sizes leave gaps, of which glibc keeps some 300 MB."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def as_text(num_bytes: int) -> str:
    """Return a number of bytes as text for people.

    >>> as_text(340_000_000), as_text(2_140_000_000)
    ('340 MB', '2.1 GB')
    """
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 10**9 else f"{round(num_bytes, -7) // 10**6} MB"
