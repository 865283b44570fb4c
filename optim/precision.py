"""Which arithmetic a run uses (DESIGN section 5): fp32 master weights, autocast around the forward pass."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from utils.errors import InputError

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Casts the model, wraps forward passes, scales losses where fp16 needs it."""

    def __init__(self, name: str | None, fp16: bool, device: torch.device):
        """`name` fp64, fp32, bf16 or fp16 decides; None: by the release's `fp16` flag and the device."""
        self.name = name or (_half_of(device) if fp16 else "fp32")
        if self.name == "fp16" and device.type == "cpu":
            raise InputError(
                "fp16 needs a GPU", key="precision", found="fp16 on a CPU", expected="fp32 or bf16", remedy="use bf16"
            )
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.name == "fp16")

    def cast(self, model: nn.Module) -> nn.Module:
        """The model on its device, in fp64 or with fp32 master weights."""
        return model.to(self.device, torch.float64 if self.name == "fp64" else torch.float32)

    def autocast(self) -> AbstractContextManager:
        """Around the forward pass and the loss."""
        if self.name not in HALF:
            return nullcontext()
        return torch.autocast(self.device.type, HALF[self.name])

    def backward(self, loss: Tensor) -> None:
        """Gradients of the loss, scaled under fp16."""
        self.scaler.scale(loss).backward()


def _half_of(device: torch.device) -> str:
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    native = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return "bf16" if native is not None and native() else "fp32"
