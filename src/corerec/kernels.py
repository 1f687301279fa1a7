"""Private operations of PyTorch behind one door, each with a plain fallback.

COREREC_PLAIN_KERNELS=1 in the environment forces every fallback: slower, on public operations alone.
"""

from __future__ import annotations

import os

import torch
import torch.nn.functional as F
from torch import Tensor

ONEDNN_FROM = 2**14  # values of an input: below, the call itself costs more than is won
FLOAT32_EXACT = 2**24  # whole numbers up to here are exact in float32


def use_plain_kernels() -> bool:
    """Whether the environment forces the fallbacks."""
    return os.environ.get("COREREC_PLAIN_KERNELS", "0") not in ("", "0")


def linear(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool = False) -> Tensor:
    """F.linear, then F.gelu if asked; by oneDNN on a CPU without gradients, for inputs of ONEDNN_FROM values or more.

    PyTorch multiplies float32 by MKL, which takes twice as long on AMD's processors (`benchmarks/LAB.md`). oneDNN also
    applies the GELU while a value is still in a register.
    """
    plain = x.numel() < ONEDNN_FROM or x.device.type != "cpu" or not _has_onednn("_linear_pointwise")
    if plain or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_exporting():
        product = F.linear(x, weight, bias)
        return F.gelu(product) if gelu else product
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *(("gelu", [], "none") if gelu else ("none", [], "")))


def matmul_int8(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """int8 (M, D) @ int8 (D, N) into `out`, int32 (M, N), exactly."""
    if not use_plain_kernels() and hasattr(torch, "_int_mm"):
        return torch._int_mm(a, b, out=out)  # pyright: ignore[reportPrivateImportUsage]
    exact = torch.float32 if a.shape[1] * 2**14 < FLOAT32_EXACT else torch.float64
    return out.copy_(a.to(exact) @ b.to(exact))


def int8_is_fast(device: torch.device) -> bool:
    """Whether products of int8 are fast here: measured to be so where torch's oneDNN has AVX-512 to use."""
    if device.type != "cpu" or use_plain_kernels() or not torch.backends.mkldnn.is_available():
        return False
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether the hardware multiplies in bfloat16."""
    if device.type == "cpu":
        return _has_onednn("_is_mkldnn_bf16_supported") and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def _has_onednn(operation: str) -> bool:
    return not use_plain_kernels() and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, operation)
