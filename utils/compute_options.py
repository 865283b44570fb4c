"""The options of all training and inference scripts that say how to compute, not what."""

from dataclasses import dataclass
from typing import Literal

from utils.options import option


@dataclass(kw_only=True)
class ComputeOptions:
    """Number format, loader processes, and the library through which ranks exchange data."""

    fp16: bool = option(
        False,
        "compute in half precision, faster and with less memory: bf16 where the hardware has it, else fp16",
        group="run",
    )
    precision: Literal["fp64", "fp32", "bf16", "fp16"] | None = option(
        None, "number format of the computation; overrides --fp16; None: as --fp16 says, else fp32", group="run"
    )
    n_workers: int = option(
        4,
        "loader processes of a rank; raise it if the GPU waits for data; 0: the rank loads its data itself",
        group="run",
        at_least=0,
        at_most=10_000,
    )
    pin_mem: bool = option(
        False, "put batches in page-locked memory: faster copies to a GPU, more host memory", group="run"
    )
    backend: Literal["torch", "horovod"] | None = option(
        None,
        "library through which the ranks exchange data; None: horovod under horovodrun, else torch",
        group="run",
    )
