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
from evaluation.score_chunks import Chunks, file_mark
from evaluation.submission import write_retrieval
from optim.infer import LOG, InferenceFlags, begin, run_options
from optim.precision import Precision
from optim.predict import predict
from train_itm import ItmConfig, ItmTask
from utils.distributed import World, launch
from utils.errors import InputError
from utils.files import write_json
from utils.options import option

REGIONS = ("conf_th", "max_bb", "min_bb", "num_bb")
OF_THE_RUN = "; none: the finetuned run's, else the default of training"


@dataclass(kw_only=True)
class ItmInference(InferenceFlags):
    """Flags of retrieval inference under the release's names."""

    checkpoint: str = option(help="weight file: finetuned, or of pre-training (zero-shot)", path="own")
    output_dir: str = option(help="folder for config.json, scores.json and results.npz", path="own")
    model_config: str | None = option(None, help="JSON of the model's sizes; none: beside --train_config", path="own")
    train_config: str | None = option(None, help="log/hps.json of a finetuned run", path="own")
    conf_th: float | None = option(None, help="regions above this confidence" + OF_THE_RUN)
    max_bb: int | None = option(None, help="most regions of a picture" + OF_THE_RUN, at_least=1)
    min_bb: int | None = option(None, help="fewest regions of a picture" + OF_THE_RUN, at_least=1)
    num_bb: int | None = option(None, help="regions of a picture when conf_th is -1" + OF_THE_RUN, at_least=1)
    save_logits: bool = option(False, help="changes nothing: results.npz has all scores, for scripts/ensemble.py")
    batch_size: int = option(400, help="pictures of a mini-batch, at most", at_least=1)
    batch_units: int = option(16384, help="text tokens and image regions of a batch", at_least=1)
    chunk_texts: int = option(1000, help="texts after which scores are kept, for a run that is interrupted", at_least=1)
    score: Literal["matching", "difference"] = option(
        "matching", help="zero-shot: the matching head's logit of a match, or its difference to that of none"
    )


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Write `config.json`, `results.npz` and `scores.json`; returns the recalls."""
    config, world = begin(ItmInference, argv)
    task = ItmTask(training_options(config))
    captions = task.dataset(config.txt_db, config.img_db)
    task.stores.check_against(config.checkpoint)
    chunks = score(config, task, captions, world)
    return publish(config, captions, chunks) if world.is_main else {}


def training_options(config: ItmInference) -> ItmConfig:
    """The options of the finetuned run, or the defaults, set to `config`'s weights and regions."""
    beside = config.train_config and str(Path(config.train_config).parent / "model.json")
    model_config = config.model_config or beside
    if model_config is None:
        raise InputError("which model?", key="model_config", remedy="give --model_config, or --train_config of a run")
    run = ItmConfig(output_dir=config.output_dir, model_config=model_config)
    if config.train_config:
        run = run_options(Path(config.train_config), ItmConfig)
    given = {key: getattr(config, key) for key in REGIONS if getattr(config, key) is not None}
    given |= {"checkpoint": config.checkpoint, "model_config": model_config, "compressed_db": config.compressed_db}
    return replace(run, **given)


def score(config: ItmInference, task: ItmTask, captions: Retrieval, world: World) -> Chunks:
    """Score every text with every picture, chunk by chunk of texts, those that are there left out."""
    size = len(captions), len(captions.columns)
    chunks = Chunks(Path(config.output_dir) / "chunks", *size, config.chunk_texts)
    precision = Precision(config.precision, config.fp16, world.device)
    todo = world.broadcast_object(chunks.begin(fingerprint(config, task, precision)) if world.is_main else None)
    model = precision.cast(ranking_model(task, config.score)) if todo else None
    for texts in todo:
        data = RetrievalMatrix(captions, config.batch_units, config.batch_size, texts)
        settings = config.batch_units, world, precision, config.n_workers, config.pin_mem
        scores = data.table(predict(task, model, data, *settings))  # type: ignore[arg-type]
        if world.is_main:
            chunks.save(texts, scores)
            LOG.info("texts %d to %d of %d scored", texts.start + 1, texts.stop, len(captions))
    return chunks


def fingerprint(config: ItmInference, task: ItmTask, precision: Precision) -> dict[str, Any]:
    """What scores depend on: not the number of ranks or loader processes."""
    images = task.stores.images(config.img_db).folder  # type: ignore[union-attr]
    files = {"checkpoint": config.checkpoint, "txt_db": config.txt_db, "img_db": images}
    marks = {key: file_mark(path) for key, path in files.items()}
    options = {key: getattr(task.config, key) for key in (*REGIONS, "blind", "model_config")}
    options |= {key: getattr(config, key) for key in ("score", "batch_size", "batch_units", "chunk_texts")}
    return marks | options | {"precision": precision.name}


def ranking_model(task: ItmTask, score: str) -> nn.Module:
    """The model; zero-shot, its rank head is made of the matching head's logit of a match, or of the difference."""
    model: Any = task.build_model()
    checkpoint = task.config.checkpoint
    assert task.report is not None
    zero_shot = "rank_output.weight" in task.report.missing
    if zero_shot and "itm_output.weight" in task.report.missing:
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
    scores = retrieval_recalls(matrix, captions.own)
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
