"""What inference takes from the output folder of a finished run: its options and its weight files."""

import logging
import os
from pathlib import Path
from typing import TypeVar

from utils.config import load_hps, read_object
from utils.errors import InputError
from utils.options import field_metadata, is_read
from utils.run_config import RunConfig

LOG = logging.getLogger("uniter")

# The options of every run that inference reads; of a task's own, all that are not marked `training_only`.
INFERENCE_READS = ("conf_th", "max_bb", "min_bb", "num_bb", "blind", "val_batch_size")

R = TypeVar("R", bound=RunConfig)


def weight_file(run_dir: Path, checkpoint: str, numbered_by: str) -> Path:
    """The path of the weight file for `checkpoint`: a path, or what stands in the name of one of the run's.

    That is a number (a step or an epoch), "best", or another word, such as 12_final. `InputError` where there is none.
    """
    folder, start = run_dir / "ckpt", f"model_{numbered_by}_"
    run_file = folder / f"{start}{checkpoint}.pt"
    paths = [run_file] if checkpoint.isdigit() or checkpoint == "best" else [Path(checkpoint), run_file]
    for path in paths:
        if os.path.exists(path):  # Path.exists raises for a name that is too long
            return path
    names = [file.stem.removeprefix(start) for file in folder.glob(f"{start}*.pt")]
    names.sort(key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
    text = ", ".join(names if len(names) < 12 else [*names[:4], "…", *names[-7:]])
    raise InputError(
        "there are no such weights",
        file=folder if paths == [run_file] or "/" not in checkpoint else checkpoint,
        key="checkpoint",
        found=f"{checkpoint}; the run has {text or 'no weight file'}",
        expected=f"a part of the name {start}….pt of one of the run's files, or the path of a weight file",
        remedy="give one of these; a path is relative to the working directory",
    )


def read_run_config(path: Path, config_type: type[R]) -> R:
    """Read the options of a run from `path`, its `log/hps.json`, for inference, which does not read all of them.

    The log names keys that are unknown, wrong values of options that inference does not read, and options that
    inference reads and the file lacks. `InputError` for a wrong value of one that it reads.
    """
    metadata = field_metadata(config_type)
    shared = field_metadata(RunConfig).keys() - set(INFERENCE_READS)
    unneeded = shared | {name for name in metadata if metadata[name].get("training_only")}
    options = read_object(path)
    config, left_over = load_hps(path, config_type, unneeded)
    if unknown := [key for key in left_over if key not in metadata]:
        LOG.info(f"{path}: these keys are unknown and ignored: {', '.join(unknown)}")
    if wrong := [f"{key} {value!r}"[:80] for key, value in left_over.items() if key in metadata]:
        LOG.info(f"{path}: ignored, because inference does not need them: wrong values of {', '.join(wrong)}")
    absent = [name for name in metadata if name not in unneeded | options.keys() and is_read(config, metadata[name])]
    if absent:
        defaults = ", ".join(f"{name} {getattr(config, name)}" for name in absent)
        LOG.info(f"{path}: options that it lacks have their defaults: {defaults}")
    return config
