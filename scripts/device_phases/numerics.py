"""Attention against plain attention in fp64, and the model against the release's reference numbers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from model.attention import Spans, attend
from scripts.device_phases.setting import Results, Setting, require
from utils.paths import CHECKOUT

LENGTHS = (1, 2, 63, 64, 65, 127, 128, 129, 200, 1, 49, 36, 77)
# The largest difference to fp64 over the largest number of the reference, in outputs and gradients.
TOLERANCE = {"fp32": 1e-5, "bf16": 0.02, "fp16": 0.003}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MATRICES = tuple[Tensor, Tensor, Tensor]


def attention(setting: Setting) -> Results:
    """`attend` in every precision: outputs, gradients, repeatability, and what dropout does."""
    results: Results = {}
    problems = []
    for precision in setting.precisions:
        spans = Spans.of(torch.tensor(LENGTHS), setting.device)
        error = _error(setting, spans, DTYPES[precision])
        results[f"error_{precision}"] = error
        if not error <= TOLERANCE[precision]:
            problems.append(f"{precision}: the error is {error:.2e}, over {TOLERANCE[precision]:.2e}")
        for dropout in (0.0, 0.1):
            first, second = (_gradients(setting, spans, DTYPES[precision], dropout, seed=1) for _ in range(2))
            equal = all(torch.equal(a, b) for a, b in zip(first, second))
            results[f"repeats_{precision}_dropout_{dropout}"] = equal
            if not equal:
                problems.append(f"{precision}, dropout {dropout}: two runs of one seed differ")
        other = _gradients(setting, spans, DTYPES[precision], 0.1, seed=2)
        share = _dropped_share(setting, DTYPES[precision])
        results[f"dropped_{precision}"] = share
        if torch.equal(first[0], other[0]) or abs(share - 0.1) > 0.01:
            problems.append(f"{precision}: dropout 0.1 drops {share:.4f}, or does not depend on the seed")
    results["summary"] = ", ".join(f"{name} error {results[f'error_{name}']:.1e}" for name in setting.precisions)
    return require(problems, results)


def _inputs(setting: Setting, dtype: torch.dtype) -> MATRICES:
    """Random queries, keys and values (N, 12, 64), that need gradients."""
    generator = torch.Generator().manual_seed(0)
    shape = (sum(LENGTHS), 12, 64)
    made = (torch.randn(shape, generator=generator).to(setting.device, dtype).requires_grad_() for _ in range(3))
    q, k, v = made
    return q, k, v


def _error(setting: Setting, spans: Spans, dtype: torch.dtype) -> float:
    """The largest relative error of output and gradients, compared with plain attention in fp64."""
    q, k, v = _inputs(setting, dtype)
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    parts = zip(*(x.split(list(LENGTHS)) for x in exact))
    expected = torch.cat([_plain(*part) for part in parts])
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(setting.device, dtype)
    expected_gradients = torch.autograd.grad(expected, exact, weight.double())
    output = attend(q, k, v, spans)
    gradients = torch.autograd.grad(output, (q, k, v), weight)
    pairs = [(output, expected), *zip(gradients, expected_gradients)]
    return max(float((a.detach().double() - b).abs().max() / b.detach().abs().max()) for a, b in pairs)


def _plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of one sequence, (n, h, d) each, by its definition."""
    scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("hqk,khd->qhd", F.softmax(scores, dim=-1), v)


def _gradients(setting: Setting, spans: Spans, dtype: torch.dtype, dropout: float, seed: int) -> list[Tensor]:
    """The output and the gradients of the inputs, for one seed of dropout."""
    q, k, v = _inputs(setting, dtype)
    torch.manual_seed(seed)
    output = attend(q, k, v, spans, dropout=dropout)
    return [output, *torch.autograd.grad(output.float().square().sum(), (q, k, v))]


def _dropped_share(setting: Setting, dtype: torch.dtype, p: float = 0.1) -> float:
    """The share of attention weights that dropout drops: uniform weights, and values that show which key was read."""
    n, heads = 64, 12
    spans = Spans.of(torch.full((32,), n), setting.device)
    q = torch.zeros(32 * n, heads, n, device=setting.device, dtype=dtype)
    v = torch.eye(n, device=setting.device, dtype=dtype).repeat(32, 1)[:, None].expand(-1, heads, -1).contiguous()
    return float((attend(q, q, v, spans, dropout=p) == 0).float().mean())


def goldens(setting: Setting) -> Results:
    """The tests with the mark `device`, once for each precision, side by side; tests/golden_data.py has tolerances."""
    processes = {}
    for precision in setting.precisions if setting.on_gpu else ["bf16"]:  # the suite has them in fp32 on a CPU
        log = setting.folder / f"goldens_{precision}.txt"
        flags = ["-m", "device", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=line"]
        environment = os.environ | {
            "UNITER_TEST_DEVICE": setting.device.type,
            "UNITER_TEST_PRECISION": precision,
        }
        with open(log, "w") as stream:
            command = [sys.executable, "-m", "pytest", "tests", *flags, *_ignored()]
            processes[precision] = (
                log,
                subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=stream, stderr=subprocess.STDOUT),
            )
    results: Results = {}
    problems = []
    for precision, (log, process) in processes.items():
        status = process.wait()
        results[precision] = last = _last_line(log)
        if status:
            results[f"{precision}_failures"] = re.findall(r"^FAILED (.*)|^E +(.*)", log.read_text(), re.M)[:40]
            problems.append(f"{precision}: {last}")
    results["summary"] = "; ".join(f"{name} {results[name]}" for name in processes)
    return require(problems, results)


def _ignored() -> list[str]:
    """Test files to leave out, because they import packages of the developers: every one without the mark."""
    files = (CHECKOUT / "tests").glob("test_*.py")
    return [f"--ignore={path}" for path in sorted(files) if "mark.device" not in path.read_text(encoding="utf-8")]


def _last_line(log: Path) -> str:
    lines = log.read_text().strip().splitlines() or ["no output"]
    return re.sub(r" in [\d.]+s.*", "", lines[-1].strip("= "))
