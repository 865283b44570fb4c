"""Rank all pictures for every text and all texts for every picture: recalls and the matrix of scores.

python inf_itm.py --txt_db … --img_db … --checkpoint RUN/ckpt/model_step_best.pt --train_config RUN/log/hps.json \
    --output_dir results/itm; zero-shot: --checkpoint of pre-training, --model_config, no --train_config
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from data.retrieval import Retrieval
from data.retrieval_eval import RetrievalMatrix
from evaluation.recall import retrieval_recalls
from evaluation.score_chunks import Chunks, file_fingerprint
from evaluation.submission import write_retrieval
from optim.infer import LOG, InferenceFlags, parse_and_join, read_run_config
from optim.precision import Precision
from optim.predict import Predictor
from train_itm import ItmConfig, ItmTask
from utils.distributed import World, launch
from utils.errors import InputError
from utils.files import write_json
from utils.options import option

REGION_OPTIONS = ("conf_th", "max_bb", "min_bb", "num_bb")
OF_THE_RUN = "; none: the finetuned run's, else the default of training"


@dataclass(kw_only=True)
class ItmInference(InferenceFlags):
    """Flags of retrieval inference under the release's names."""

    checkpoint: str = option(help="weight file: finetuned, or of pre-training (zero-shot)", path="own")
    output_dir: str = option(help="folder for config.json, scores.json and results.npz", path="own")
    model_config: str | None = option(
        None, help="JSON file of the model's sizes; none: model.json beside --train_config", path="own"
    )
    train_config: str | None = option(None, help="log/hps.json of a finetuned run", path="own")
    conf_th: float | None = option(None, help="read image regions above this confidence" + OF_THE_RUN)
    max_bb: int | None = option(None, help="read at most this many regions of a picture" + OF_THE_RUN, at_least=1)
    min_bb: int | None = option(None, help="read at least this many regions of a picture" + OF_THE_RUN, at_least=1)
    num_bb: int | None = option(
        None, help="read this many regions of a picture when conf_th is -1" + OF_THE_RUN, at_least=1
    )
    save_logits: bool = option(False, help="changes nothing: results.npz has all scores, for scripts/ensemble.py")
    batch_size: int = option(400, help="most pictures in a mini-batch", at_least=1)
    batch_units: int = option(16384, help="size of a batch, in text tokens plus image regions", at_least=1)
    chunk_texts: int = option(
        1000, help="save scores after every so many texts, so that an interrupted run can continue", at_least=1
    )
    score: Literal["matching", "difference"] = option(
        "matching", help="zero-shot: score by the matching head's logit of a match, or by the difference of its logits"
    )


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Write `config.json`, `results.npz` and `scores.json`; returns the recalls."""
    config, world = parse_and_join(ItmInference, argv)
    task = ItmTask(training_options(config))
    captions = task.dataset(config.txt_db, config.img_db)
    task.stores.check_against(config.checkpoint)
    chunks = score(config, task, captions, world)
    return publish(config, captions, chunks) if world.is_main else {}


def training_options(config: ItmInference) -> ItmConfig:
    """The options of the finetuned run, or the defaults, set to `config`'s weights and regions."""
    model_config = config.model_config
    if not model_config and config.train_config:
        model_config = str(Path(config.train_config).parent / "model.json")
    if not model_config:
        raise InputError("which model?", key="model_config", remedy="give --model_config, or --train_config of a run")
    options = ItmConfig(output_dir=config.output_dir, model_config=model_config)
    if config.train_config:
        options = read_run_config(Path(config.train_config), ItmConfig)
    changes = {key: getattr(config, key) for key in REGION_OPTIONS if getattr(config, key) is not None}
    changes |= {"checkpoint": config.checkpoint, "model_config": model_config, "compressed_db": config.compressed_db}
    return replace(options, **changes)


def score(config: ItmInference, task: ItmTask, captions: Retrieval, world: World) -> Chunks:
    """Score every text with every picture, chunk by chunk of texts, those that are there left out."""
    chunks = Chunks(
        folder=Path(config.output_dir) / "chunks",
        rows=len(captions),
        columns=len(captions.columns),
        chunk_rows=config.chunk_texts,
    )
    precision = Precision(config.precision, config.fp16, world.device)
    unscored = world.broadcast_object(chunks.begin(fingerprint(config, task, precision)) if world.is_main else None)
    if not unscored:
        return chunks
    predictor = Predictor(
        task,
        precision.cast(ranking_model(task, config.score)),
        batch_size=config.batch_units,
        world=world,
        precision=precision,
        n_workers=config.n_workers,
        pin_mem=config.pin_mem,
    )
    for texts in unscored:
        matrix = RetrievalMatrix(captions, config.batch_units, config.batch_size, texts)
        scores = matrix.table(predictor.predict(matrix))
        if world.is_main:
            chunks.save(texts, scores)
            LOG.info("texts %d to %d of %d scored", texts.start + 1, texts.stop, len(captions))
    return chunks


def fingerprint(config: ItmInference, task: ItmTask, precision: Precision) -> dict[str, Any]:
    """What scores depend on: not the number of ranks or loader processes."""
    images = task.stores.images(config.img_db)
    files: dict[str, str | Path] = {"checkpoint": config.checkpoint, "txt_db": config.txt_db, "img_db": images.folder}
    marks = {key: file_fingerprint(path) for key, path in files.items()}
    options = {key: getattr(task.config, key) for key in (*REGION_OPTIONS, "blind", "model_config")}
    options |= {key: getattr(config, key) for key in ("score", "batch_size", "batch_units", "chunk_texts")}
    return marks | options | {"precision": precision.name}


def ranking_model(task: ItmTask, score: str) -> nn.Module:
    """The model; zero-shot, its rank head is made of the matching head's logit of a match, or of the difference."""
    model: Any = task.build_model()
    checkpoint = task.config.checkpoint
    assert task.report is not None
    zero_shot = "rank_output.weight" in task.report.missing_keys
    if zero_shot and "itm_output.weight" in task.report.missing_keys:
        expected = "weights of retrieval finetuning, or of pre-training with ITM"
        raise InputError(
            "the checkpoint has no head that says what belongs together", file=checkpoint, expected=expected
        )
    if score == "difference":
        if not zero_shot:
            expected = "a checkpoint of pre-training; this one has a rank head, which gives the scores"
            raise InputError("nothing to take a difference of", file=checkpoint, key="score", expected=expected)
        with torch.no_grad():
            for rank, match in zip(model.rank_output.parameters(), model.itm_output.parameters()):
                rank.sub_(match[:1])
    return model


def publish(config: ItmInference, captions: Retrieval, chunks: Chunks) -> dict[str, float]:
    """The files of the finished matrix; the chunks go when all are there."""
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
