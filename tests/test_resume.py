"""Resuming: what may differ from the interrupted run, what is refused, and what is never lost."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import pretrain
from data.txt_writer import TextWriter
from model.uniter import UniterConfig
from optim.run_record import check_differences, check_ranks, differences, fingerprint, run_record
from optim.task import MicroBatches
from optim.train_state import Checkpoints, TrainState
from scripts import kill_test
from tests.tiny_world import META, MODEL, ROOT, TORCHRUN, make_world, pretrain_options, run_script
from utils import checkpoint, output_dir
from utils.errors import InputError

STEPS = {"num_train_steps": 4, "valid_steps": 2, "log_steps": 1, "train_batch_size": 160}
SOURCE = {"name": "tiny", "db": ["txt_db/captions.db"], "img": ["img_db/tiny"], "tasks": ["mlm", "itm"]}
PLAIN: dict[str, Any] = STEPS | {"train_datasets": [SOURCE], "val_datasets": [], "itm_ot_lambda": 0.0}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world with `interrupted`, a run of 4 steps of which the last 2 are lost."""
    world = make_world(tmp_path_factory.mktemp("tiny"))
    run = world / "interrupted"
    pretrain.main(["--config", str(pretrain_options(world, run, **PLAIN))])
    for name in ("model_step_4.pt", "train_state_4.pt"):
        (run / "ckpt" / name).unlink()
    output_dir.mark_checkpoint(run, 2)
    return world


def resume(world: Path, run: Path, *flags: str, **changes: Any) -> dict[str, float]:
    return pretrain.main(["--config", str(pretrain_options(world, run, **PLAIN | changes)), "--resume", *flags])


@pytest.fixture
def run(world: Path, tmp_path: Path) -> Path:
    """A copy of the interrupted run."""
    return Path(shutil.copytree(world / "interrupted", tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


REFUSED = [
    ({"learning_rate": 5e-4}, "learning_rate", r"learning_rate: 0\.001 -> 0\.0005"),
    ({"seed": 43, "betas": [0.8, 0.98]}, "betas, seed", r"seed: 42 -> 43"),
    ({"optim": "adamax"}, "optim", "optim: 'adamw' -> 'adamax'"),
    ({"batching": "release"}, "batching", "'full' -> 'release'"),
    ({"num_train_steps": 3}, "num_train_steps", "num_train_steps: 4 -> 3"),
    ({"precision": "bf16"}, "precision", "fp32 -> bf16"),
    ({"train_batch_size": 120}, "global_batch", r"micro-batches of 160 units .* -> 1 micro-batches of 120 units"),
    ({"gradient_accumulation_steps": 2}, "global_batch", "1 micro-batches .* -> 2 micro-batches"),
    ({"mrm_prob": 0.2}, "mrm_prob", r"mrm_prob: 0\.15 -> 0\.2"),
    ({"train_datasets": [SOURCE | {"name": "new"}]}, "data", r"mlm_tiny: weight 1, 60 examples, hash \w+ -> absent"),
    ({"train_datasets": [SOURCE, SOURCE | {"name": "more"}]}, "data", "mlm_more: absent -> weight 1, 60 examples"),
    ({"train_datasets": [SOURCE | {"tasks": ["mlm"]}]}, "data", "itm_tiny: .* -> absent"),
    ({"train_datasets": [SOURCE | {"tasks": ["itm", "mlm"]}]}, "data", "order mlm_tiny, itm_tiny -> itm_tiny, mlm"),
    ({"train_datasets": [SOURCE | {"mix_ratio": [2, 1]}]}, "data", "mlm_tiny: weight 1, .* -> weight 2, "),
]


@pytest.mark.parametrize(("changes", "keys", "line"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_changes_the_numbers_is_refused_with_both_values(
    world: Path, run: Path, changes: dict[str, Any], keys: str, line: str
) -> None:
    """Nothing is written; the flag that the error names lets the run go on, with warnings."""
    before = contents(run)
    with pytest.raises(InputError, match=rf"key: +{keys}\n  found: [\s\S]*{line}") as error:
        resume(world, run, **changes)
    assert str(run / "ckpt" / "train_state_2.pt") in str(error.value)
    assert contents(run) == before
    flags = re.search(r"give (--allow_changes .*) to go on", str(error.value))
    assert flags is not None and flags[1].split()[1:] == keys.split(", ")
    resume(world, run, *flags[1].split(), **changes)
    assert "WARNING resumed with a change of " + keys.split(", ")[0] in (run / "log" / "log.txt").read_text()
    assert kill_test.newest(run, "train_state")["step"] == changes.get("num_train_steps", 4)


def test_a_run_may_be_made_longer_with_a_warning(world: Path, run: Path) -> None:
    resume(world, run, num_train_steps=6)
    assert kill_test.newest(run, "train_state")["step"] == 6
    assert "WARNING resumed with a change of num_train_steps: 4 -> 6" in (run / "log" / "log.txt").read_text()


def test_a_rebuilt_store_is_refused(world: Path, run: Path) -> None:
    """It has the same name and number of texts; one text is longer."""
    with TextWriter(world / "txt_db" / f"{run.parent.name}.db", META) as texts:
        for i in range(60):
            texts.add(str(i), {"input_ids": [10] * (3 + i % 2), "img_fname": f"tiny_{i % 24:012}.npz"})
    rebuilt = [SOURCE | {"db": [f"txt_db/{run.parent.name}.db"]}]
    with pytest.raises(InputError, match=r"key: +data\n  found: +data: mlm_tiny: weight 1, 60 examples, hash"):
        resume(world, run, train_datasets=rebuilt)


def test_a_store_that_moved_is_the_same(world: Path, run: Path) -> None:
    shutil.copytree(world / "txt_db" / "captions.db", run.parent / "moved.db")
    resume(world, run, train_datasets=[SOURCE | {"db": [str(run.parent / "moved.db")]}])
    assert kill_test.newest(run, "train_state")["step"] == 4


@pytest.mark.parametrize(
    "changes", [{"n_workers": 1}, {"log_steps": 3, "valid_steps": 3}, {"val_batch_size": 300}, {"accumulation": "sum"}]
)
def test_what_changes_no_number_is_only_mentioned(world: Path, run: Path, changes: dict[str, Any]) -> None:
    """With one micro-batch in a step, sum and mean are the same."""
    resume(world, run, **changes)
    log = (run / "log" / "log.txt").read_text()
    assert all(f"WARNING the option {key} was" in log for key in changes) and "with a change of" not in log


def test_model_sizes_are_compared(world: Path, run: Path) -> None:
    sizes = json.loads((world / "model.json").read_text())
    (run.parent / "m.json").write_text(json.dumps(sizes | {"num_attention_heads": 2}))
    with pytest.raises(InputError, match=r"key: +model\n  found: +model: num_attention_heads: 4 -> 2"):
        resume(world, run, model_config=str(run.parent / "m.json"))


def test_a_train_state_without_a_record_is_compared_with_the_saved_options(world: Path, run: Path) -> None:
    """Earlier code wrote none, and counted skipped steps in two numbers."""
    state = checkpoint.load(run / "ckpt" / "train_state_2.pt")
    del state["record"]
    state["skipped"] = torch.tensor([5, 1])
    checkpoint.save(run / "ckpt" / "train_state_2.pt", state, old_format=False)
    (run / "log" / "newest_checkpoint.json").unlink()
    with pytest.raises(InputError, match=r"key: +dropout\n  found: +dropout: 0\.1 -> 0\.2"):
        resume(world, run, dropout=0.2)
    resume(world, run)
    assert kill_test.metrics(run)[-1]["step"] == 4
    assert [r["skipped_steps"] for r in kill_test.metrics(run) if "skipped_steps" in r] == [0, 0, 5, 5]


def test_unknown_names_of_changes_are_refused(world: Path, run: Path) -> None:
    with pytest.raises(InputError, match=r"unknown name[\s\S]*found: +learnin_rate"):
        resume(world, run, "--allow_changes", "learnin_rate")


def test_options_that_come_to_one_thing_are_allowed_by_their_own_names() -> None:
    old: dict[str, Any] = {"options": {}, "global_batch": "1", "precision": "fp32", "model": {}, "data": {}}
    new = old | {"global_batch": "2", "precision": "bf16", "options": {"new": 1}}
    assert differences(old, old | {"options": {"new": 1}}) == []
    names = ["gradient_accumulation_steps", "fp16"]
    assert len(check_differences(old, new, names, Path("s"))) == 2
    with pytest.raises(InputError, match=r"key: +precision\n"):
        check_differences(old, new, names[:1], Path("s"))


def test_ranks_times_micro_batches_is_compared() -> None:
    """2 × 1 is 1 × 2 with `mean`; with `sum` the gradients would be halved."""
    shared = {"precision": "fp32", "model_config": UniterConfig(**MODEL), "entries": []}
    for accumulation, names in (("mean", []), ("sum", ["global_batch"])):
        config = pretrain.PretrainConfig(output_dir="o", model_config="m")
        micro_batches = [MicroBatches(160, per_step, accumulation) for per_step in (2, 1)]  # type: ignore[arg-type]
        one = run_record(config, micro_batches=micro_batches[0], ranks=1, **shared)  # type: ignore[arg-type]
        two = run_record(config, micro_batches=micro_batches[1], ranks=2, **shared)  # type: ignore[arg-type]
        assert [name for name, _ in differences(one, two)] == names


def test_ranks_with_other_options_or_data_are_refused() -> None:
    """As on two machines that read other config files. Paths and what only speed depends on may differ."""
    config = pretrain.PretrainConfig(output_dir="o", model_config="m")
    micro_batches, sizes = MicroBatches(160, 1, "mean"), UniterConfig(**MODEL)
    record = run_record(config, micro_batches=micro_batches, ranks=2, precision="fp32", model_config=sizes, entries=[])

    def check(other: pretrain.PretrainConfig, **changes: Any) -> None:
        options = json.loads(json.dumps(dataclasses.asdict(other)))
        world: Any = SimpleNamespace(gather_objects=lambda mine: [mine, mine | {"options": options} | changes])
        check_ranks(record, config, world)

    check(dataclasses.replace(config, output_dir="elsewhere", n_workers=0))
    for changes, key in (({"valid_steps": 7}, "valid_steps"), ({"seed": 7}, "seed")):
        with pytest.raises(InputError, match=rf"key: +{key}\n[\s\S]*rank 0 -> rank 1"):
            check(dataclasses.replace(config, **changes))
    with pytest.raises(InputError, match=r"key: +precision\n  found: +precision: fp32 -> bf16"):
        check(config, precision="bf16")


@pytest.mark.slow
def test_another_number_of_ranks_is_refused_by_all_ranks_in_one_message(world: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shared: dict[str, Any] = PLAIN | {"accumulation": "sum"}
    pretrain.main(["--config", str(pretrain_options(world, run, **shared | {"gradient_accumulation_steps": 2}))])
    before = contents(run)
    options = pretrain_options(world, run, **shared)
    done = run_script("pretrain.py", "--config", options, "--resume", launcher=TORCHRUN, check=False)
    assert re.search(r"key: +global_batch\n.*divided by 1 -> 2 micro-batches .* divided by 2", done.stderr)
    assert done.returncode and done.stderr.count("the run differs from the one to resume") == 1
    assert contents(run) == before


def test_a_run_without_its_checkpoints_is_not_started_again(world: Path, run: Path) -> None:
    """All of them, or the train states alone; metrics and options stay as they are."""
    (run / "ckpt" / "train_state_2.pt").unlink()
    before = contents(run)
    with pytest.raises(InputError, match=r"lost its train states[\s\S]*model_step_2\.pt[\s\S]*train_state_2\.pt"):
        resume(world, run)
    assert contents(run) == before
    shutil.rmtree(run / "ckpt")
    before = contents(run)
    with pytest.raises(InputError, match=r"lost its train states[\s\S]*no checkpoint[\s\S]*remedy"):
        resume(world, run)
    assert contents(run) == before


def test_weights_of_another_program_are_not_overwritten(world: Path, tmp_path: Path) -> None:
    """Folders of the release have weights, but no train states and no metrics.jsonl of ours."""
    run = tmp_path / "run"
    checkpoint.save(run / "ckpt" / "model_step_2.pt", {})
    with pytest.raises(InputError, match="lost its train states"):
        resume(world, run)


def test_a_run_killed_before_its_first_checkpoint_starts_again(world: Path, run: Path) -> None:
    """A cluster starts it again by the same command. The old metrics are kept, and both runs are equal."""
    shutil.rmtree(run / "ckpt")
    (run / "log" / "newest_checkpoint.json").unlink()
    path, whole = run / "log" / "metrics.jsonl", kill_test.metrics(run)
    with pytest.raises(InputError, match="lost its train states"):
        resume(world, run)  # it has records of steps after a validation: its checkpoints are gone
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:9])  # as it was when the first checkpoint was written
    cut = path.read_bytes()
    resume(world, run)
    assert (run / "log" / "metrics_interrupted_1.jsonl").read_bytes() == cut
    assert re.search(r"WARNING .*starts again; its metrics: .*metrics_interrupted_1", (run / "log/log.txt").read_text())
    assert kill_test.metrics(run) == whole


def test_older_states_than_the_newest_are_mentioned(world: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output_dir.mark_checkpoint(run, 4)
    resume(world, run)
    assert "the newest checkpoint was of step 4; its train state cannot be used: back to 2" in capsys.readouterr().err


def test_damaged_weights_lead_back_to_the_state_before(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    whole = pretrain.main(["--config", str(pretrain_options(world, run, **PLAIN))])
    content = bytearray((run / "ckpt" / "model_step_4.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (run / "ckpt" / "model_step_4.pt").write_bytes(content)
    assert resume(world, run) == whole
    error = capsys.readouterr().err
    assert re.search(r"WARNING skipped .*train_state_4\.pt: [\s\S]*model_step_4\.pt", error) and "back to 2" in error


def test_weights_of_another_step_are_not_taken(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of the right name and shapes is not enough: the train state before it is used."""
    run = tmp_path / "run"
    whole = pretrain.main(["--config", str(pretrain_options(world, run, **PLAIN))])
    shutil.copyfile(run / "ckpt" / "model_step_2.pt", run / "ckpt" / "model_step_4.pt")
    assert resume(world, run) == whole
    error = capsys.readouterr().err
    assert re.search(r"WARNING skipped .*train_state_4\.pt: model_step_4\.pt does not hold the weights", error)
    assert "back to 2" in error
    shutil.copyfile(run / "ckpt" / "model_step_2.pt", run / "ckpt" / "model_step_4.pt")
    (run / "ckpt" / "train_state_2.pt").unlink()
    with pytest.raises(InputError, match="no train state can be used"):
        resume(world, run)


def test_the_same_weights_in_another_file_format_are_taken(world: Path, run: Path) -> None:
    path = run / "ckpt" / "model_step_2.pt"
    torch.save(checkpoint.load(path), path)
    resume(world, run)
    assert kill_test.newest(run, "train_state")["step"] == 4


def test_a_train_state_of_older_code_knows_no_weights(world: Path, run: Path) -> None:
    path = run / "ckpt" / "train_state_2.pt"
    state = checkpoint.load(path)
    assert state.pop("weights_sum") == state.pop("best_sum")
    checkpoint.save(path, state, old_format=False)
    resume(world, run)
    assert kill_test.newest(run, "train_state")["step"] == 4


def test_a_finished_run_writes_lost_copies_again(world: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    pretrain.main(["--config", str(pretrain_options(world, run, **PLAIN))])
    before = (run / "ckpt" / "model_step_best.pt").read_bytes()
    (run / "ckpt" / "model_step_best.pt").unlink()
    resume(world, run)
    assert (run / "ckpt" / "model_step_best.pt").read_bytes() == before
    warning = (
        r"WARNING .*model_step_best\.pt is missing or has other weights; it is written again from model_step_4\.pt"
    )
    assert re.search(warning, (run / "log" / "log.txt").read_text())


@pytest.mark.parametrize("loss", ["missing", "cut", "other weights"])
def test_lost_best_weights_are_written_again(run: Path, loss: str) -> None:
    """Other weights are what a killed run leaves that had written a later best file, but not yet its train state."""
    best, source, final = (run / "ckpt" / f"model_step_{name}.pt" for name in ("best", "2", "2_final"))
    if loss == "missing":
        best.unlink()
    elif loss == "cut":
        best.write_bytes(source.read_bytes()[:-100])
    arguments: dict[str, Any] = {"final_weights": True, "valid_steps": 2, "keep_states": 1, "record": {}}
    checkpoints = Checkpoints(run / "ckpt", numbered_by="step", **arguments)
    best_sum = checkpoint.values_sum(checkpoint.load(source))
    state = TrainState(valid_steps=2, step=2, best=(0.5, 2), best_sum=best_sum)
    checkpoints.restore_copies(state, is_last=True)
    assert best.read_bytes() == final.read_bytes() == source.read_bytes() and state.best == (0.5, 2)
    source.unlink()  # the best file is enough
    checkpoints.restore_copies(state, is_last=False)
    assert state.best == (0.5, 2)
    best.unlink()
    checkpoints.restore_copies(state, is_last=False)
    assert state.best is None and state.best_sum is None and not best.exists()


def test_best_weights_that_no_file_has_give_way_to_the_next(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    pretrain.main(["--config", str(pretrain_options(world, run, **PLAIN))])
    for name in ("best", "4"):
        shutil.copyfile(run / "ckpt" / "model_step_2.pt", run / "ckpt" / f"model_step_{name}.pt")
    state = checkpoint.load(run / "ckpt" / "train_state_4.pt")
    state["weights_sum"] = checkpoint.values_sum(checkpoint.load(run / "ckpt" / "model_step_4.pt"))
    checkpoint.save(run / "ckpt" / "train_state_4.pt", state, old_format=False)
    resume(world, run, num_train_steps=6)
    assert "no file has the best weights, of step 4; the next validation will be the best" in capsys.readouterr().err
    best = checkpoint.load(run / "ckpt" / "model_step_best.pt")
    assert kill_test.difference(kill_test.newest(run, "model_step"), best, "") is None


@pytest.mark.parametrize(
    ("name", "text", "warning"),
    [
        ("log/newest_checkpoint.json", "", r"newest_checkpoint\.json is damaged and is not used"),
        ("log/newest_checkpoint.json", "{}", r"newest_checkpoint\.json is damaged and is not used"),
        ("log/newest_checkpoint.json", '{"step": "2"}', r"newest_checkpoint\.json is damaged and is not used"),
        ("log/hps.json", "", r"hps\.json was damaged and is written again"),
        ("log/hps.json", "[1]", r"hps\.json was damaged and is written again"),
        ("log/model.json", "", ""),
        ("log/git_info.json", "{", ""),
        ("log/vocab.json", "", ""),
        ("log/metrics.jsonl", '7\n[]\n{"step": null}\n{"st', ""),
    ],
)
def test_small_files_that_a_power_cut_damaged_do_not_stop_a_run(
    world: Path, run: Path, name: str, text: str, warning: str
) -> None:
    before = (run / name).read_text()
    (run / name).write_text(text)
    resume(world, run)
    assert re.search(f"WARNING .*{warning}", (run / "log" / "log.txt").read_text())
    if name == "log/metrics.jsonl":
        assert [record["step"] for record in kill_test.metrics(run)] == [3, 4, 4]
    else:
        assert json.loads((run / name).read_text()).keys() == json.loads(before).keys()


def test_a_damaged_note_of_a_checkpoint_says_that_there_was_one(world: Path, run: Path) -> None:
    shutil.rmtree(run / "ckpt")
    (run / "log" / "metrics.jsonl").unlink()
    (run / "log" / "newest_checkpoint.json").write_text("")
    before = contents(run)
    with pytest.raises(InputError, match=r"lost its train states[\s\S]*beside the weights"):
        resume(world, run)
    assert contents(run) == before


def test_damaged_options_are_refused_where_the_train_state_has_none(world: Path, run: Path) -> None:
    """Before anything is written."""
    state = checkpoint.load(run / "ckpt" / "train_state_2.pt")
    del state["record"]
    checkpoint.save(run / "ckpt" / "train_state_2.pt", state, old_format=False)
    (run / "log" / "hps.json").write_text("")
    before = contents(run)
    with pytest.raises(InputError, match=r"hps\.json"):
        resume(world, run)
    assert contents(run) == before


def test_train_states_that_are_not_ours_are_named(world: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that was renamed is passed over; one without its parts is an error."""
    for kind in ("model", "train_state"):
        shutil.copyfile(run / "ckpt" / f"{kind}{'_step' * (kind == 'model')}_2.pt", run / "ckpt" / f"{kind}_3.pt")
    (run / "ckpt" / "model_3.pt").rename(run / "ckpt" / "model_step_3.pt")
    resume(world, run)
    assert re.search(r"skipped .*train_state_3.pt: not the train state of this step", capsys.readouterr().err)
    checkpoint.save(run / "ckpt" / "train_state_4.pt", {"step": 4}, old_format=False)
    with pytest.raises(InputError, match=r"not complete\n  file: .*train_state_4.pt\n  key: +stream, best"):
        resume(world, run)


def test_a_run_that_fails_at_the_start_leaves_no_folder(world: Path, tmp_path: Path) -> None:
    options = pretrain_options(
        world, tmp_path / "new" / "run", **PLAIN | {"train_datasets": [SOURCE | {"img": ["no"]}]}
    )
    with pytest.raises(InputError, match="image LMDB not found"):
        pretrain.main(["--config", str(options)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_batch_size": 5}, r"larger than a batch\n  key: +batch size of mlm_tiny"),
        ({"batching": "release", "train_batch_size": 30}, "batching makes no batch"),
        ({"val_batch_size": 5, "val_datasets": [SOURCE]}, r"larger than a batch\n  key: +batch size of mlm evaluation"),
    ],
)
def test_batches_that_cannot_be_made_are_found_before_anything_is_written(
    world: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        pretrain.main(["--config", str(pretrain_options(world, tmp_path / "run", **PLAIN | changes))])
    assert not list(tmp_path.iterdir())


HOLDER = """
import sys, time
from utils.output_dir import claimed
with claimed(sys.argv[1], True):
    print("claimed", flush=True)
    time.sleep(100)
"""


def test_a_second_run_in_the_folder_is_refused_while_the_first_lives(world: Path, run: Path) -> None:
    before = contents(run)
    first = subprocess.Popen([sys.executable, "-c", HOLDER, run], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert first.stdout is not None and first.stdout.readline() == b"claimed\n"
        for flags in (["--resume"], []):
            options = pretrain_options(world, run, **PLAIN)
            with pytest.raises(
                InputError, match=rf"another run is writing[\s\S]*process {first.pid} on {os.uname()[1]}"
            ):
                pretrain.main(["--config", str(options), *flags])
        assert {k: v for k, v in contents(run).items() if k != ".lock"} == before
    finally:
        first.kill()
        first.wait()
    resume(world, run)  # the lock has died with its process
    assert not (run / ".lock").exists() and kill_test.newest(run, "train_state")["step"] == 4


def test_a_folder_must_be_new_unless_resumed(tmp_path: Path) -> None:
    for folder in (tmp_path / "run", tmp_path / "absent" / "deep"):
        for resumes in (True, False):
            with output_dir.claimed(folder, resumes):
                assert (folder / ".lock").read_text().startswith(f"process {os.getpid()} on ")
        assert not list(tmp_path.iterdir())
    (tmp_path / ".hidden").write_text("")
    (tmp_path / ".link").symlink_to("nowhere")
    with output_dir.claimed(tmp_path, False):
        (tmp_path / "log").mkdir()
    with output_dir.claimed(tmp_path, True):
        pass
    refused = [
        (tmp_path, False, r"not empty[\s\S]*found: +log[\s\S]*--resume"),
        (tmp_path / ".hidden", True, r"\.hidden is not a folder"),
        (tmp_path / ".hidden" / "run", True, r"\.hidden is not a folder[\s\S]*remove that file"),
        (tmp_path / ".link", False, r"\.link is a link to nowhere, which does not exist[\s\S]*remove the link"),
        (tmp_path / ".link" / "run", True, r"\.link is a link to nowhere, which does not exist"),
    ]
    for path, resumes, message in refused:
        with pytest.raises(InputError, match=message), output_dir.claimed(path, resumes):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", ".link", "log"]


@pytest.mark.parametrize("name", ["train.out", "slurm-12.out", "nohup.out", "job.e123", "lost+found", "wandb", "a.log"])
def test_what_schedulers_and_shells_leave_does_not_count(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with output_dir.claimed(tmp_path, resume=False):
        pass
    (tmp_path / "ckpt").mkdir()
    with pytest.raises(InputError, match=r"found: +ckpt\n[\s\S]*give --resume"), output_dir.claimed(tmp_path, False):
        pass


@pytest.mark.parametrize("name", ["notes.txt", "images", "config.json"])
def test_other_files_are_no_run_to_resume(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    with pytest.raises(InputError, match=rf"not empty[\s\S]*{name}") as error, output_dir.claimed(tmp_path, False):
        pass
    assert "give --resume" not in str(error.value) and "name a new folder" in str(error.value)


def test_a_disk_that_cannot_be_written_is_no_matter_of_permissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="no permission to write"), output_dir.claimed(tmp_path, False):
        pass
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    message = r"on a disk that cannot be written[\s\S]*another disk"
    with pytest.raises(InputError, match=message), output_dir.claimed(tmp_path / "run", False):
        pass


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.lockf", refuse)
    monkeypatch.setattr(output_dir.LOG, "propagate", True)
    with output_dir.claimed(tmp_path / "run", False):
        pass
    assert "no lock (No locks available), so a second run" in caplog.text


def test_the_record_asks_a_dataset_for_units_only() -> None:
    """A dataset of one's own needs `lens` for batching "release" alone."""

    class Data:
        def __len__(self) -> int:
            return 3

        def id(self, i: int) -> str:
            return str(i)

        def pairs(self, draws: np.ndarray) -> np.ndarray:
            return np.zeros((len(draws), 2), np.int32)

        def units(self, pairs: np.ndarray) -> np.ndarray:
            return np.arange(len(pairs)) + self.longer

        longer = 0

    data: Any = Data()
    first = fingerprint(data)
    data.longer = 1
    assert first.startswith("3 examples, hash ") and fingerprint(data) != first
