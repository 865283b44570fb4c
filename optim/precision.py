"""Mixed precision of a run (DESIGN section 5): fp32 weights, with autocast around the forward pass."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from utils.errors import InputError

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """The number format of a run: casts the model, wraps the forward pass, scales the loss for fp16."""

    def __init__(self, name: str | None, fp16: bool, device: torch.device):
        """`name`: fp64, fp32, bf16 or fp16; None: chosen by the flag `fp16` and the device, see `_half_of`.

        Raises `InputError` for fp16 on a CPU.
        """
        self.name = name or (_half_of(device) if fp16 else "fp32")
        if self.name == "fp16" and device.type == "cpu":
            raise InputError(
                "fp16 needs a GPU",
                key="precision",
                found="fp16 on a CPU",
                expected="fp32, bf16 or fp64",
                remedy="set precision to bf16, or leave it out",
            )
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.name == "fp16")

    def cast(self, model: nn.Module) -> nn.Module:
        """Move the model to its device, with fp32 weights (fp64 where the precision is fp64); returns it."""
        return model.to(self.device, torch.float64 if self.name == "fp64" else torch.float32)

    def autocast(self) -> AbstractContextManager:
        """The context for the forward pass and the loss: autocast for bf16 and fp16, without effect otherwise."""
        if self.name not in HALF:
            return nullcontext()
        return torch.autocast(self.device.type, HALF[self.name])

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of a scalar loss, which is scaled up for fp16."""
        self.scaler.scale(loss).backward()


def _half_of(device: torch.device) -> str:
    """The format that the flag `fp16` means on a device: bf16 where the hardware has it, else fp16; fp32 on a CPU."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    native = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return "bf16" if native is not None and native() else "fp32"
