"""Which machine this is, which versions are installed, and how fast it multiplies and copies."""

import importlib.metadata
import os
import platform
import subprocess

import torch

from scripts.device_phases.setting import Results, Setting
from utils.paths import CHECKOUT

# The operators of variable-length attention that torch calls itself; their arguments have changed between versions.
OPERATORS = ("_flash_attention_forward", "_efficient_attention_forward")


def versions(setting: Setting) -> Results:
    """Versions of Python, torch, CUDA, the driver and our packages; the capability and memory of the GPU."""
    results: Results = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cpu_cores": os.cpu_count(),
        "packages": _packages(),
        "operators": {name: str(getattr(torch.ops.aten, name).default._schema) for name in OPERATORS},
    }
    name = platform.processor() or platform.machine()
    if setting.on_gpu:
        properties = torch.cuda.get_device_properties(setting.device)
        name = properties.name
        results |= {
            "capability": f"{properties.major}.{properties.minor}",
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count,
            "cudnn": torch.backends.cudnn.version(),
            "nccl": ".".join(map(str, torch.cuda.nccl.version())),
            "architectures": torch.cuda.get_arch_list(),
            "driver": _driver(),
            "cudnn_attention": torch.backends.cuda.cudnn_sdp_enabled(),
        }
    return results | {"device": name, "summary": f"{name}, torch {torch.__version__}"}


def _packages() -> dict[str, str]:
    """Installed versions of the packages in requirements.txt; "missing" where one is not installed."""
    installed = {}
    for line in (CHECKOUT / "requirements.txt").read_text().splitlines():
        name = line.split("==")[0]
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = "missing"
    return installed


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def matmul_peak(setting: Setting) -> float:
    """FLOP/s of a large matrix product of random bf16 numbers, the peak that shares are counted of."""
    n = 8192 if setting.on_gpu else 512
    a, b = (torch.randn(n, n, device=setting.device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * n**3 / setting.seconds(lambda: a @ b, repeats=8)


def ceilings(setting: Setting) -> Results:
    """The matmul peak in bf16 and fp32, and the rate of a copy on the device, counting bytes read and written."""
    peak = matmul_peak(setting)
    n = 4096 if setting.on_gpu else 512
    a, b = (torch.randn(n, n, device=setting.device) for _ in range(2))
    fp32 = 2 * n**3 / setting.seconds(lambda: a @ b)
    source = torch.empty(2**30 if setting.on_gpu else 2**22, dtype=torch.float32, device=setting.device).normal_()
    target = torch.empty_like(source)
    copy = 2 * source.numel() * 4 / setting.seconds(lambda: target.copy_(source))
    return {
        "matmul_bf16_tflops": peak / 1e12,
        "matmul_fp32_tflops": fp32 / 1e12,
        "copy_tb_per_s": copy / 1e12,
        "summary": f"bf16 {peak / 1e12:.3g} TFLOP/s, fp32 {fp32 / 1e12:.3g} TFLOP/s, copy {copy / 1e12:.3g} TB/s",
    }
