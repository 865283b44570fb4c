"""The options of every training script, with the release's defaults; `utils.config` reads their values."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from utils.compute_options import ComputeOptions
from utils.options import MOST, MOST_SEED, MOST_UNITS, option


@dataclass(kw_only=True)
class RunConfig(ComputeOptions):
    """Options of every training script. A script subclasses it, changes defaults and adds options of its own."""

    # What may differ when a run resumes, besides paths: see `optim.run_record`.
    may_change: ClassVar[frozenset[str]] = frozenset(
        {
            "allow_changes",
            "backend",
            "resume",
            "eval_only",
            "data_root",
            "compressed_db",
            "valid_steps",
            "val_batch_size",
            "log_steps",
            "keep_states",
            "num_threads",
            "n_workers",
            "pin_mem",
            "fp16",
            "precision",
            "train_batch_size",
            "gradient_accumulation_steps",
            "accumulation",
        }
    )

    output_dir: str = option(
        help="new folder for logs, checkpoints and results; an existing run's folder needs --resume",
        group="file",
        path="own",
    )
    model_config: str = option(
        help="JSON file of the model's sizes, such as config/uniter-base.json; must fit the checkpoint",
        group="file",
        path="own",
    )
    checkpoint: str | None = option(
        None, "weights to start from, such as pretrained UNITER or BERT; None: random weights", group="file", path=True
    )
    data_root: str = option(
        "",
        "folder put before every relative LMDB and checkpoint path; set it instead of editing a config's paths",
        group="file",
    )

    compressed_db: bool = option(
        False, "read the compressed variant of the image LMDBs, made with convert_imgdir.py --compress", group="data"
    )
    max_txt_len: int = option(
        60,
        "leave out training texts of more tokens than this, [CLS] and [SEP] not counted; -1: keep all",
        group="data",
        at_least=1,
        at_most=MOST,
        or_value=-1,
    )
    conf_th: float = option(
        0.2,
        "keep regions above this detector confidence (0 to 1); must match the image LMDB (feat_th…); -1: use num_bb",
        group="data",
        at_least=0,
        at_most=1,
        or_value=-1,
    )
    max_bb: int = option(
        100,
        "keep at most this many regions of an image; must match the image LMDB (feat_…_max…)",
        group="data",
        at_least=1,
        at_most=10_000,
    )
    min_bb: int = option(
        10,
        "keep at least this many regions of an image, even below conf_th; must match the image LMDB (feat_…_min…)",
        group="data",
        at_least=1,
        at_most=10_000,
    )
    num_bb: int = option(
        36,
        "number of regions of every image when conf_th is -1; must match the image LMDB (feat_numbb…)",
        group="data",
        at_least=1,
        at_most=10_000,
        only_if=("conf_th", -1),
    )
    blind: bool = option(
        False, "replace each image by one empty region: a text-only baseline, as a control", group="data"
    )

    train_batch_size: int = option(
        4096,
        "size of a rank's micro-batch, in text tokens plus image regions; lower it if memory runs out",
        group="batch",
        at_least=1,
        at_most=MOST_UNITS,
    )
    val_batch_size: int = option(
        4096,
        "size of a validation batch, in text tokens plus image regions; lower it if memory runs out",
        group="batch",
        at_least=1,
        at_most=MOST_UNITS,
    )
    batching: Literal["release", "full"] = option(
        "release",
        "release: cut batches as the 2020 code did, about 40% full, to reproduce its results; full: fill each batch",
        group="batch",
    )
    gradient_accumulation_steps: int = option(
        16,
        "micro-batches of a rank in one optimiser step; raise it for larger batches in the same memory",
        group="batch",
        at_least=1,
        at_most=100_000,
    )
    accumulation: Literal["sum", "mean"] = option(
        "sum",
        "add the gradients of a step's micro-batches (sum, as in the 2020 code) or average them (mean, for new runs)",
        group="batch",
    )

    optim: Literal["adam", "adamax", "adamw"] = option(
        "adam",
        "optimiser; adamw applies weight decay to the weights directly, adam and adamax add it to the gradient",
        group="optimisation",
    )
    learning_rate: float = option(
        3e-5,
        "peak learning rate, reached after warm-up; tune it first for new data or another batch size",
        group="optimisation",
        at_least=0,
        at_most=1,
    )
    lr_mul: float = option(
        1.0,
        "factor on the learning rate of the task's head; above 1 for a head that starts from random weights",
        group="optimisation",
        at_least=0,
        at_most=10_000,
    )
    decay: Literal["linear", "invsqrt", "constant"] = option(
        "linear",
        "learning-rate schedule after warm-up: linear to zero, inverse square root of the step, or constant",
        group="optimisation",
    )
    betas: tuple[float, float] = option(
        (0.9, 0.98),
        "Adam's decay rates for its averages of the gradient and of the squared gradient",
        group="optimisation",
        at_least=0,
        below=1,
    )
    weight_decay: float = option(
        0.0,
        "decay of weight matrices and embeddings; biases and norm weights are never decayed",
        group="optimisation",
        at_least=0,
        at_most=10,
    )
    grad_norm: float = option(
        2.0,
        "clip the norm of all gradients to this; -1: do not clip; lower it if the loss diverges",
        group="optimisation",
        above=0,
        at_most=MOST,
        or_value=-1,
    )
    dropout: float = option(
        0.1,
        "dropout probability in embeddings, attention and layers; replaces the values in model_config",
        group="optimisation",
        at_least=0,
        below=1,
    )
    warmup_steps: int = option(
        4000,
        "optimiser steps in which the learning rate rises linearly to its peak; keep it below num_train_steps",
        group="optimisation",
        at_least=0,
        at_most=MOST,
    )
    num_train_steps: int = option(
        100000,
        "number of optimiser steps to train for; the linear schedule reaches zero there",
        group="optimisation",
        at_least=0,
        at_most=MOST,
    )

    valid_steps: int = option(
        1000,
        "validate and save every so many optimiser steps; 0: after every epoch",
        group="run",
        at_least=0,
        at_most=MOST,
    )
    log_steps: int = option(
        100, "log the loss and the speed every so many optimiser steps", group="run", at_least=1, at_most=MOST
    )
    keep_states: int = option(
        2,
        "number of newest train states to keep for --resume; each takes about two weight files' disk space",
        group="run",
        at_least=1,
        at_most=MOST,
    )
    resume: bool = option(False, "continue an interrupted run from the newest train state in output_dir", group="run")
    allow_changes: list[str] = option(
        [],
        "with --resume: options (or data, model, global_batch, precision) that may differ from the interrupted run's",
        group="run",
    )
    eval_only: bool = option(False, "validate the checkpoint and stop; nothing is trained or written", group="run")
    seed: int = option(
        42,
        "seed of every random choice, such as data order, masks, dropout; vary it to measure the noise",
        group="run",
        at_least=0,
        at_most=MOST_SEED,
    )
    num_threads: int = option(
        0,
        "CPU threads of a rank; 0: torch decides; set it for exactly repeatable runs on CPU",
        group="run",
        at_least=0,
        at_most=10_000,
    )

    def db_pairs(self, split: str) -> list[tuple[str, str]]:
        """The (text LMDB, image LMDB) paths of a split; `utils.store_options` has the two usual versions."""
        raise NotImplementedError
