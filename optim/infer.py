"""What every `inf_*.py` shares: its flags, and a finished run's options, weights and ranks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from optim.evaluate import predict
from optim.precision import Precision
from utils import distributed
from utils.config import load_hps, option
from utils.distributed import World
from utils.errors import InputError

T = TypeVar("T")


@dataclass(kw_only=True)
class InferenceConfig:
    """Flags of inference under the release's names."""

    txt_db: str = option(help="text LMDB to predict for", path="own")
    img_db: str = option(help="its image LMDB", path="own")
    output_dir: str = option(help="folder of a finished run: log/hps.json, log/model.json, ckpt/", path="own")
    checkpoint: str = option("best", help="a step of that run, `best`, or the path of a weight file")
    batch_size: int = option(8192, help="units of a batch", at_least=1)
    save_logits: bool = option(False, help="also write the scores of every answer")
    compressed_db: bool = option(False, help="the image store is the compressed one")
    fp16: bool = option(False, help="half precision: bf16 where the hardware has it, else fp16")
    precision: Literal["fp64", "fp32", "bf16", "fp16"] | None = option(None, help="decides instead of fp16")
    n_workers: int = option(4, help="loader processes; 0: none", at_least=0)
    pin_mem: bool = option(False, help="page-locked batches, for faster copies to a GPU")

    @property
    def weights(self) -> Path:
        """The weight file that `checkpoint` means."""
        if self.checkpoint.isdigit() or self.checkpoint == "best":
            return Path(self.output_dir) / "ckpt" / f"model_step_{self.checkpoint}.pt"
        return Path(self.checkpoint)

    @property
    def name(self) -> str:
        """What result files are called after: the value given, of a path its stem."""
        return Path(self.checkpoint).stem


def restore(config: InferenceConfig, config_type: type[T]) -> tuple[T, list[str]]:
    """The options of the run in `output_dir`, set to run on `config`'s data and weights, and notes for the log."""
    log = Path(config.output_dir) / "log"
    if not (log / "hps.json").exists():
        raise InputError(
            "not the output folder of a run",
            file=log / "hps.json",
            found="no such file",
            expected="log/hps.json and log/model.json, as training leaves them",
            remedy="give the folder that the training script wrote to as --output_dir",
        )
    run, unknown = load_hps(log / "hps.json", config_type)
    for key, value in {
        "model_config": str(log / "model.json"),
        "checkpoint": str(config.weights),
        "compressed_db": config.compressed_db,
        "fp16": config.fp16,
        "precision": config.precision,
    }.items():
        setattr(run, key, value)
    return run, [f"{log / 'hps.json'}: keys that nothing reads: {', '.join(unknown)}"] if unknown else []


def predictions(task: Any, config: InferenceConfig, data: Any) -> tuple[World, dict[str, Any]]:
    """The task's predictions for all of `data`, the same on every rank and for any number of ranks."""
    world = distributed.start()
    precision = Precision(config.precision, config.fp16, world.device)
    model = precision.cast(task.build_model())
    found = predict(task, model, data, config.batch_size, world, precision, config.n_workers, config.pin_mem)
    return world, found
