"""Private operations of PyTorch in one module, each with a fallback that uses public operations.

On first use, a test call compares each private operation with its fallback. The private operation is used only if both
results are equal. So if a release of PyTorch drops or changes a private operation, the code is slower, but not wrong.
COREREC_PLAIN_KERNELS=1 in the environment forces every fallback.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

ONEDNN_FROM = 2**14  # values of an input: below, the call itself costs more than is won
FLOAT32_EXACT = 2**24  # whole numbers up to here are exact in float32


def use_plain_kernels() -> bool:
    """Return whether the environment forces the fallbacks."""
    return os.environ.get("COREREC_PLAIN_KERNELS", "0") not in ("", "0")


def linear(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool = False) -> Tensor:
    """Compute F.linear, and then F.gelu if `gelu` is true.

    On a CPU, oneDNN computes both operations, if no gradients are needed and the input has ONEDNN_FROM values or more.
    PyTorch itself multiplies float32 with MKL, which takes twice as long on AMD's processors (`benchmarks/LAB.md`).
    oneDNN also applies the GELU while a value is still in a register.
    """
    # A graph that is exported has no number of values yet, so that question comes last.
    plain = torch.compiler.is_exporting() or x.device.type != "cpu" or torch.is_grad_enabled()
    plain = plain or torch.is_autocast_enabled("cpu") or use_plain_kernels() or x.numel() < ONEDNN_FROM
    if plain or not _onednn_linear_works():
        return _plain_linear(x, weight, bias, gelu)
    return _onednn_linear(x, weight, bias, gelu)


def matmul_int8(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """Multiply int8 (M, D) by int8 (D, N) exactly, into `out`, int32 (M, N)."""
    if use_plain_kernels() or not _int_mm_works(a.device):
        return _plain_matmul_int8(a, b, out)
    return _int_mm(a, b, out)


def int8_is_fast(device: torch.device) -> bool:
    """Return whether int8 matrix products are fast on this device. In measurements, they were fast if PyTorch's oneDNN
    uses AVX-512."""
    if device.type != "cpu" or use_plain_kernels() or not torch.backends.mkldnn.is_available():
        return False
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and _int_mm_works(device)


def bfloat16_is_fast(device: torch.device) -> bool:
    """Return whether the hardware multiplies in bfloat16."""
    if device.type == "cpu":
        return not use_plain_kernels() and _cpu_has_bfloat16()
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


# ------------------------------------------------------------------------------------------------ private operations


def _onednn_linear(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *(("gelu", [], "none") if gelu else ("none", [], "")))


def _int_mm(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    return torch._int_mm(a, b, out=out)  # pyright: ignore[reportPrivateImportUsage]


def _cpu_has_bfloat16() -> bool:
    return _works(lambda: bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


# ----------------------------------------------------------------------------------------------------- the fallbacks


def _plain_linear(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    product = F.linear(x, weight, bias)
    return F.gelu(product) if gelu else product


def _plain_matmul_int8(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    exact = torch.float32 if a.shape[1] * 2**14 < FLOAT32_EXACT else torch.float64
    return out.copy_(a.to(exact) @ b.to(exact))


# -------------------------------------------------------------------------------------------------------- the probes


@cache
def _onednn_linear_works() -> bool:
    x, weight, bias = torch.linspace(-1, 1, 64).view(4, 16), torch.linspace(-1, 1, 128).view(8, 16), torch.ones(8)

    def agrees() -> bool:
        results = (
            (_onednn_linear(x, weight, bias, gelu), _plain_linear(x, weight, bias, gelu)) for gelu in (False, True)
        )
        return all(torch.allclose(one, other, atol=1e-5) for one, other in results)

    return torch.backends.mkldnn.is_available() and _works(agrees)


@cache
def _int_mm_works(device: torch.device) -> bool:
    # CUDA's takes shapes from 17 rows and multiples of 8 only; this is one of them.
    a = torch.arange(-128, 128, dtype=torch.int8, device=device).repeat(4).view(32, 32)

    def agrees() -> bool:
        one, other = torch.empty(2, 32, 32, dtype=torch.int32, device=device)
        return torch.equal(_int_mm(a, a.T, one), _plain_matmul_int8(a, a.T, other))

    return _works(agrees)


def _works(probe: Callable[[], bool]) -> bool:
    """Return the result of a test call, or False if the operation is missing, takes other arguments or is not built
    in."""
    try:
        return probe()
    except (AttributeError, TypeError, RuntimeError):  # NotImplementedError is a RuntimeError
        return False
