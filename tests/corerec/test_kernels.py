import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import corerec
from corerec import kernels

CPU = torch.device("cpu")
BOTH_WAYS = pytest.mark.usefixtures("kernels")


@pytest.fixture
def fresh_probes():
    """Probes that run anew in the test, and after it."""
    probes = kernels._onednn_linear_works, kernels._int_mm_works
    for probe in probes:
        probe.cache_clear()
    yield
    for probe in probes:
        probe.cache_clear()


def layer(rows):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in ((rows, 3, 64), (32, 64), (32,))]


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("rows", [2, kernels.ONEDNN_FROM // 64])
@BOTH_WAYS
def test_linear_is_torch_s_own(rows, gelu):
    x, weight, bias = layer(rows)
    expected = F.linear(x, weight, bias)
    with torch.no_grad():
        result = kernels.linear(x, weight, bias, gelu)
    torch.testing.assert_close(result, F.gelu(expected) if gelu else expected, atol=1e-5, rtol=1e-5)


@BOTH_WAYS
def test_linear_has_gradients():
    x, weight, bias = layer(kernels.ONEDNN_FROM // 64)
    kernels.linear(x, weight.requires_grad_(), bias, gelu=True).sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dim", [16, 64, 1024, 2048])
@BOTH_WAYS
def test_products_of_int8_are_exact(dim):
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(-128, 128, (5, dim), generator=generator).to(torch.int8)
    b = torch.randint(-128, 128, (24, dim), generator=generator).to(torch.int8)
    a[0], b[0] = -128, -128  # the largest sum there is
    out = torch.empty(5, 24, dtype=torch.int32)
    assert kernels.matmul_int8(a, b.T, out) is out
    assert torch.equal(out.long(), a.long() @ b.long().T)


def test_the_switch_forces_the_fallbacks(monkeypatch):
    monkeypatch.setenv("COREREC_PLAIN_KERNELS", "1")
    for name in ("_onednn_linear", "_int_mm", "_cpu_has_bfloat16"):
        monkeypatch.setattr(kernels, name, None)  # a call would fail
    x, weight, bias = layer(kernels.ONEDNN_FROM // 64)
    with torch.no_grad():
        kernels.linear(x, weight, bias)
    kernels.matmul_int8(torch.ones(32, 32).char(), torch.ones(32, 32).char(), torch.empty(32, 32, dtype=torch.int32))
    assert not kernels.int8_is_fast(CPU)
    assert not kernels.bfloat16_is_fast(CPU)


@pytest.mark.parametrize("error", [AttributeError, TypeError, RuntimeError])
def test_an_operation_that_torch_dropped_or_changed_falls_back(monkeypatch, fresh_probes, error):
    calls = []

    def gone(*args):
        calls.append(args)
        raise error("no such operation")

    for name in ("_onednn_linear", "_int_mm"):
        monkeypatch.setattr(kernels, name, gone)
    x, weight, bias = layer(kernels.ONEDNN_FROM // 64)
    ones = torch.ones(32, 32, dtype=torch.int8)
    for _ in range(3):
        with torch.no_grad():
            torch.testing.assert_close(kernels.linear(x, weight, bias), F.linear(x, weight, bias))
        assert (kernels.matmul_int8(ones, ones, torch.empty(32, 32, dtype=torch.int32)) == 32).all()
    assert not kernels.int8_is_fast(CPU)
    assert len(calls) <= 2  # each was probed once


def test_an_operation_of_other_results_falls_back(monkeypatch, fresh_probes):
    monkeypatch.setattr(kernels, "_onednn_linear", lambda x, weight, bias, gelu: F.linear(x, weight, bias) + 1)
    monkeypatch.setattr(kernels, "_int_mm", lambda a, b, out: out.zero_())
    x, weight, bias = layer(kernels.ONEDNN_FROM // 64)
    ones = torch.ones(32, 32, dtype=torch.int8)
    with torch.no_grad():
        torch.testing.assert_close(kernels.linear(x, weight, bias), F.linear(x, weight, bias))
    assert (kernels.matmul_int8(ones, ones, torch.empty(32, 32, dtype=torch.int32)) == 32).all()


def test_private_operations_are_named_behind_one_door_only():
    private = re.compile(r"torch\.ops\.mkldnn|_int_mm|torch\.onnx\._internal|torch\._[a-z]|torch\._C")
    source = Path(corerec.__file__).parent
    named = {path.name for path in source.rglob("*.py") if private.search(path.read_text(encoding="utf-8"))}
    assert named == {"kernels.py", "export.py"}  # the export's is the name of a logger
