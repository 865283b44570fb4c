"""Image-text retrieval: score all texts with all images of a split; writes the recalls and the score matrix.

python inf_itm.py --txt_db … --img_db … --checkpoint RUN/ckpt/model_step_best.pt --train_config RUN/log/hps.json \
    --output_dir results/itm
Zero-shot: give --checkpoint of pre-training and --model_config, without --train_config.
"""

import json
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from data.retrieval import Retrieval
from data.retrieval_eval import RetrievalMatrix
from evaluation.recall import retrieval_recalls
from evaluation.score_chunks import Chunks
from evaluation.submission import write_retrieval
from optim.finished_run import read_run_config, weight_file
from optim.infer import LOG, InferenceFlags, parse_and_join
from optim.precision import Precision
from optim.predict import Predictor
from train_itm import ItmConfig, ItmTask
from utils.distributed import World, launch
from utils.errors import InputError
from utils.files import write_json
from utils.fingerprints import file_checksum, sample_checksum
from utils.options import MOST_UNITS, option

REGION_OPTIONS = ("conf_th", "max_bb", "min_bb", "num_bb")
DEFAULT_HELP = "; None: as in --train_config, or the training default"


@dataclass(kw_only=True)
class ItmInference(InferenceFlags):
    """Score all texts of a split with all its images: image-text retrieval with a finetuned or a pretrained model."""

    checkpoint: str = option(
        help="weight file of a finetuned model, or of a pretrained model for zero-shot retrieval; "
        "with --train_config also a step of that run, or best",
        path="own",
    )
    output_dir: str = option(
        help="folder for scores.json (recalls), results.npz (all scores) and config.json (these options)", path="own"
    )
    model_config: str | None = option(
        None, help="JSON file of the model's sizes; None: model.json in the folder of --train_config", path="own"
    )
    train_config: str | None = option(
        None,
        help="log/hps.json of the finetuned run, whose options are then used; leave it out for zero-shot",
        path="own",
    )
    conf_th: float | None = option(
        None,
        help="keep regions above this detector confidence (0 to 1); -1: use num_bb" + DEFAULT_HELP,
        at_least=0,
        at_most=1,
        or_value=-1,
    )
    max_bb: int | None = option(
        None, help="keep at most this many regions of an image" + DEFAULT_HELP, at_least=1, at_most=10_000
    )
    min_bb: int | None = option(
        None, help="keep at least this many regions of an image" + DEFAULT_HELP, at_least=1, at_most=10_000
    )
    num_bb: int | None = option(
        None, help="number of regions of every image when conf_th is -1" + DEFAULT_HELP, at_least=1, at_most=10_000
    )
    save_logits: bool = option(
        False, help="has no effect here: results.npz always has all scores, as scripts/ensemble.py needs"
    )
    batch_size: int = option(
        400,
        help="maximal number of images in a batch; batch_units limits it too; seldom needs a change",
        at_least=1,
        at_most=MOST_UNITS,
    )
    batch_units: int = option(
        16384,
        help="size of a batch, in text tokens plus image regions; lower it if memory runs out",
        at_least=1,
        at_most=MOST_UNITS,
    )
    chunk_texts: int = option(
        1000,
        help="save the scores after every so many texts, so that an interrupted run can continue",
        at_least=1,
        at_most=MOST_UNITS,
    )
    score: Literal["matching", "difference"] = option(
        "matching", help="zero-shot only: the matching head's logit of a match, or the difference of its two logits"
    )


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Write `config.json`, `results.npz` and `scores.json`; returns the recalls by name (rank 0; {} on other ranks).

    `argv`: the flags; default: the command line. Raises `InputError` for wrong flags, stores and checkpoints.
    """
    config, world = parse_and_join(ItmInference, argv)
    if config.train_config:
        run_dir = Path(config.train_config).absolute().parent.parent
        config.checkpoint = str(weight_file(run_dir, config.checkpoint, ItmTask.numbered_by))
    task = ItmTask(training_options(config))
    captions = task.dataset(config.txt_db, config.img_db)
    task.stores.check_against(config.checkpoint)
    chunks = score(config, task, captions, world)
    return publish(config, captions, chunks) if world.is_main else {}


def training_options(config: ItmInference) -> ItmConfig:
    """The options of the finetuned run, or the defaults of training, with `config`'s checkpoint and region
    options (`conf_th`, `max_bb`, …)."""
    model_config = config.model_config
    if not model_config and config.train_config:
        model_config = str(Path(config.train_config).parent / "model.json")
    if not model_config:
        raise InputError(
            "the sizes of the model are unknown",
            key="model_config, train_config",
            found="neither option was given",
            expected="one of them",
            remedy="give --train_config RUN/log/hps.json of a finetuned run, or --model_config for zero-shot retrieval",
        )
    options = ItmConfig(output_dir=config.output_dir, model_config=model_config)
    if config.train_config:
        options = read_run_config(Path(config.train_config), ItmConfig)
    changes = {key: getattr(config, key) for key in REGION_OPTIONS if getattr(config, key) is not None}
    changes |= {"checkpoint": config.checkpoint, "model_config": model_config, "compressed_db": config.compressed_db}
    return replace(options, **changes)


def score(config: ItmInference, task: ItmTask, captions: Retrieval, world: World) -> Chunks:
    """Score every text with every image, in chunks of texts; chunks that an interrupted run finished are kept."""
    chunks = Chunks(
        folder=Path(config.output_dir) / "chunks",
        rows=len(captions),
        columns=len(captions.columns),
        chunk_rows=config.chunk_texts,
    )
    precision = Precision(config.precision, config.fp16, world.device)
    predictor = Predictor(  # before anything is written: the checkpoint may be refused
        task,
        precision.cast(ranking_model(task, config)),
        batch_size=config.batch_units,
        world=world,
        precision=precision,
        n_workers=config.n_workers,
        pin_mem=config.pin_mem,
    )
    unscored: list[range] | None = None
    if world.is_main:
        unscored = chunks.begin(fingerprint(config, task, captions, precision))
    unscored = world.broadcast_object(unscored)
    for texts in unscored or ():
        matrix = RetrievalMatrix(captions, config.batch_units, config.batch_size, texts)
        predictions = predictor.predict(matrix)
        if world.is_main:
            chunks.save(texts, matrix.table(predictions))
            LOG.info("scored texts %d to %d of %d", texts.start + 1, texts.stop, len(captions))
    return chunks


def fingerprint(config: ItmInference, task: ItmTask, captions: Retrieval, precision: Precision) -> dict[str, Any]:
    """All that the scores depend on: the contents of files, which texts and images, options.

    The number of ranks and loader processes is not among them, nor is the place of a file.
    """
    files: dict[str, Any] = {
        "checkpoint": file_checksum(config.checkpoint),
        "model_config": file_checksum(task.config.model_config),
        "train_config": config.train_config and file_checksum(config.train_config),
    }
    images, texts = task.stores.images(config.img_db), captions.texts
    names = [texts.id(i) for i in range(len(texts))], captions.column_names()
    regions = images.n_announced[captions.columns].tolist()
    indexes = {
        "txt_db": [*sample_checksum(texts.path / "data.mdb"), len(texts), _checksum([names[0], texts.lens.tolist()])],
        "img_db": [*sample_checksum(images.folder / "data.mdb"), len(names[1]), _checksum([names[1], regions])],
    }
    options = {key: getattr(task.config, key) for key in (*REGION_OPTIONS, "blind", "compressed_db")}
    options |= {key: getattr(config, key) for key in ("score", "batch_size", "batch_units", "chunk_texts")}
    return files | indexes | options | {"precision": precision.name, "device": precision.device.type}


def _checksum(value: Any) -> int:
    """The checksum of lists of names and numbers."""
    return zlib.crc32(json.dumps(value).encode())


def ranking_model(task: ItmTask, config: ItmInference) -> nn.Module:
    """The model with a rank head. Zero-shot, the rank head is made from the matching head of pre-training.

    `config.score`: "matching" takes the logit of a match, "difference" that logit minus the logit of no match. Raises
    `InputError` for a checkpoint without the matching head, and for "difference" with a finetuned checkpoint.
    """
    model: Any = task.build_model(complete=True)
    checkpoint = task.config.checkpoint
    assert task.report is not None
    zero_shot = "rank_output.weight" in task.report.missing_keys
    if zero_shot and config.train_config:
        LOG.warning(
            "%s has no rank head, so the scores are zero-shot, by the matching head of pre-training; "
            "--train_config, of a finetuned run, asks for finetuned weights: give its ckpt/model_step_best.pt",
            checkpoint,
        )
    if config.score == "difference":
        if not zero_shot:
            raise InputError(
                "--score difference needs a pretrained checkpoint, and this one is finetuned",
                file=checkpoint,
                key="score",
                found="a rank head, which gives one score instead of two logits",
                expected="a checkpoint of pre-training without a rank head",
                remedy="leave out --score",
            )
        with torch.no_grad():
            for rank, match in zip(model.rank_output.parameters(), model.itm_output.parameters()):
                rank.sub_(match[:1])
    return model


def publish(config: ItmInference, captions: Retrieval, chunks: Chunks) -> dict[str, float]:
    """Write the output files from the finished score matrix, then remove the chunks; returns the recalls."""
    folder, matrix = Path(config.output_dir), chunks.matrix()
    scores = retrieval_recalls(matrix, captions.own_columns)
    write_json(folder / "config.json", asdict(config), indent=4)
    txt_ids = [captions.id(i) for i in range(len(captions))]
    write_retrieval(folder / "results.npz", matrix, txt_ids, captions.column_names())
    write_json(folder / "scores.json", scores, indent=4)
    chunks.remove()
    for name, value in scores.items():
        LOG.info("%s = %.4f", name, value)
    return scores


if __name__ == "__main__":
    launch(main)
