"""The demo and its comparisons: their scripts accept all commands, and the tables are right. Nothing is run."""

import json
import re
from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest

import inf_itm
import inf_nlvr2
import inf_re
import inf_vcr
import prepro
import pretrain
import train_itm
import train_nlvr2
import train_re
import train_vcr
import train_ve
import train_vqa
from optim.infer import InferenceConfig
from scripts import compare_seeds, compare_tasks, demo
from scripts.demo_world import demo_tasks, runner
from utils.config import parse
from utils.errors import InputError

CONFIGS = {
    "pretrain.py": pretrain.PretrainConfig,
    "pretrain_vcr.py": pretrain.PretrainConfig,
    "train_vqa.py": train_vqa.VqaConfig,
    "train_nlvr2.py": train_nlvr2.Nlvr2Config,
    "train_ve.py": train_ve.VeConfig,
    "train_vcr.py": train_vcr.VcrConfig,
    "train_re.py": train_re.ReConfig,
    "train_itm.py": train_itm.ItmConfig,
    "inf_vqa.py": InferenceConfig,
    "inf_ve.py": InferenceConfig,
    "inf_nlvr2.py": inf_nlvr2.Nlvr2Inference,
    "inf_vcr.py": inf_vcr.VcrInference,
    "inf_re.py": inf_re.ReInference,
    "inf_itm.py": inf_itm.ItmInference,
}
SCORES = {name: 0.25 for task in demo_tasks.TASKS for name in task.metrics}
SCORES |= {"accuracy": 0.5, "r_mean": 0.125, "overall": 75.0}


@pytest.fixture
def typed(monkeypatch):
    """The commands of the demo. None is run; only the file that it writes last is made, with scores in it."""
    commands: list[list[str]] = []

    def call(self, last_output, command):
        if not last_output.exists():
            commands.append([str(part) for part in command])
            last_output.parent.mkdir(parents=True, exist_ok=True)
            last_output.write_text(json.dumps(SCORES))

    monkeypatch.setattr(runner.DemoRunner, "call", call)
    monkeypatch.setattr(demo_tasks, "vqa_chance", lambda _: 20.0)
    monkeypatch.setattr(
        demo_tasks, "TASKS", tuple(t if t.name != "re" else _guessing(t, 30.0) for t in demo_tasks.TASKS)
    )
    return commands


def _guessing(task, chance):
    return demo_tasks.DownstreamTask(task.name, {name: chance for name in task.metrics}, task.test)


def check(command):
    """Parse a command line with the options of its script; returns the script's name."""
    script = next((part for part in command if part in CONFIGS or part == "prepro.py"), command[1])
    flags = command[command.index(script) + 1 :]
    if script in CONFIGS:
        parse(CONFIGS[script], flags)
    elif script == "prepro.py":
        prepro.command_line("").parse_args(flags)
    return script


def test_the_whole_table(tmp_path, typed, capsys):
    config = demo.DemoConfig(output=str(tmp_path), all=True, table=True)
    made = runner.DemoRunner(config.output)
    made.make_data(n_pictures={"train": config.n_train, "val": config.n_val, "test": config.n_test})
    weights = tmp_path / "output/pretrain/ckpt/model_step_4000.pt"
    demo.test_all_tasks(made, config, weights, 75.0)
    scripts = defaultdict(int)
    for command in typed:
        scripts[check(command)] += 1
    assert all(scripts[f"train_{task.name}.py"] == 3 for task in demo_tasks.TASKS) and scripts["train_vqa.py"] == 2
    assert scripts["inf_itm.py"] == 4 and scripts["inf_re.py"] == 6 and scripts["prepro.py"] > 15
    rows = json.loads((tmp_path / "table.json").read_text())
    assert rows["vqa accuracy"] == {"pre-trained": 75.0, "chance": 20.0, "blind": 75.0, "scratch": 75.0}
    assert rows["re accuracy_gt"] == {"chance": 30.0, "pre-trained": 50.0, "blind": 50.0, "scratch": 50.0}
    shown = capsys.readouterr().out.splitlines()
    assert any(re.fullmatch(r"nlvr2 accuracy +50\.0 +50\.0 +50\.0 +50\.0", line) for line in shown)
    blind = [command for command in typed if "--blind" in command]
    assert len(blind) == 6 and all("--checkpoint" in command for command in blind)


def test_comparisons(tmp_path, typed, capsys):
    weights = tmp_path / "output/pretrain/ckpt/model_step_best.pt"
    weights.parent.mkdir(parents=True)
    weights.touch()
    compare_tasks.main(["--demo", str(tmp_path), "--steps", "20", "--stage_steps", "10"])
    assert {check(command) for command in typed} >= {"pretrain_vcr.py", "train_itm.py", "train_nlvr2.py", "inf_vcr.py"}
    trained = [command for command in typed if any(part.startswith("train_") for part in command)]
    sides = {side for _, task, *both in compare_tasks.PAIRS for side in [(task, name) for name in both]}
    assert len(trained) == 3 * len(sides) == 21
    for command in trained:  # both sides of a pair have the same steps and seeds, and no validation
        flags = dict(pairwise(command))
        assert flags["--num_train_steps"] == "20" and flags["--val_txt_db"] == "None"
    seeds = [dict(pairwise(command))["--seed"] for command in trained]
    assert {seed: seeds.count(seed) for seed in set(seeds)} == {"42": 7, "43": 7, "44": 7}
    found = json.loads((tmp_path / "compare_tasks.json").read_text())
    assert len(found) == len(compare_tasks.PAIRS) and all(
        len(values) == 3 for sides in found.values() for values in sides.values()
    )
    assert "nlvr2: paired-attn, triplet" in capsys.readouterr().out
    before = len(typed)
    compare_tasks.main(["--demo", str(tmp_path), "--steps", "20", "--stage_steps", "10"])
    assert len(typed) == before  # finished runs are not repeated


def test_a_difference_and_its_error(tmp_path, monkeypatch, capsys):
    """The paired differences are 3, 1 and 5 points: 3 ± 1.2."""
    values = {"pre": [60.0, 61.0, 65.0], "triplet": [57.0, 60.0, 60.0]}
    monkeypatch.setattr(compare_tasks, "PAIRS", (("nlvr2: paired-attn, triplet", "nlvr2", "pre", "triplet"),))
    comparison = compare_tasks.Comparison(compare_tasks.CompareConfig(demo=str(tmp_path)))
    comparison.weights = tmp_path
    monkeypatch.setattr(comparison, "score", lambda one: values[one.side][compare_tasks.SEEDS.index(one.seed)])
    comparison.compare()
    error = np.std([3, 1, 5], ddof=1) / np.sqrt(3)
    assert f"62.0   59.0   +3.0 ± {error:.1f}" in capsys.readouterr().out


@pytest.fixture
def finished_demo(tmp_path):
    """A demo's folder with what its seeds need: stores, and pre-training's weights and last validation."""
    for store in ("itm_test.db", "re_testB.db"):
        (tmp_path / "txt_db" / store).mkdir(parents=True)
    for name in ("pretrain", "seeds/pretrain_43", "seeds/pretrain_44"):
        for part in ("ckpt", "log"):
            (tmp_path / "output" / name / part).mkdir(parents=True)
        for step in (900, 7500):
            (tmp_path / "output" / name / "ckpt" / f"model_step_{step}.pt").touch()
        last = {"itm_demo/acc": 0.8, "mlm_demo/acc": 0.66, "mlm_demo@wrong_picture/acc": 0.55}
        (tmp_path / "output" / name / "log" / "metrics.jsonl").write_text("{}\n" + json.dumps(last))
    (tmp_path / "output" / "pretrain" / "ckpt" / "train_state_7500.pt").touch()
    return tmp_path


def test_the_demo_over_three_seeds(finished_demo, typed, monkeypatch, capsys):
    fractions = {name: 100 * share for name, share in SCORES.items()}
    monkeypatch.setattr(demo_tasks, "percent", lambda path: fractions)
    monkeypatch.setitem(SCORES, "question_type", {compare_seeds.VQA_PATTERNS: 61.0})
    for _ in range(2):  # finished runs are not repeated
        with pytest.raises(SystemExit) as stop:
            compare_seeds.main(["--demo", str(finished_demo)])
        assert stop.value.code == 1  # 50 % on referring expressions do not hold
        training = [line for line in typed if "torch.distributed.run" in line]
        assert len(training) == 2 + 3 * 2 * 6  # the first pre-training is the demo's
    for line in (training[0], training[2], training[-1]):
        check(line)
    trained = [dict(pairwise(line)) for line in training]
    outputs = [flags["--output_dir"].removeprefix(f"{finished_demo}/output/") for flags in trained]
    assert len(set(outputs)) == len(outputs) and {"vqa", "re_scratch"} <= set(outputs)  # the demo's own
    for flags in trained:
        name, seed = flags["--output_dir"], flags["--seed"]
        assert name.startswith(f"{finished_demo}/output/seeds/") == (seed != "42") and (seed == "42" or seed in name)
        if "--checkpoint" in flags:
            folder = f"{finished_demo}/output/" + ("pretrain" if seed == "42" else f"seeds/pretrain_{seed}")
            weights = "None" if "scratch" in name else f"{folder}/ckpt/model_step_7500.pt"
            assert flags["--checkpoint"] == weights
    shown = capsys.readouterr().out
    assert "VQA" in shown and re.search(r"referring expressions.*50\.0 ± 0\.0.*does not hold", shown)
    assert re.search(r"masked words.*11\.0 ± 0\.0 +11\.0 +≥ 10\n", shown)
    saved = json.loads((finished_demo / "seeds.json").read_text())
    assert saved["seeds/itm_scratch_44"]["r1"] == 25.0 and saved["vqa"]["overall"] == 75.0


@pytest.mark.parametrize(
    ("pretrained", "scratch", "holds"),
    [
        ([78, 79, 80], [70, 70, 70], True),
        ([75.5, 79, 80], [70, 70, 70], True),  # one seed may be up to 3 points below
        ([74.9, 80, 82], [70, 70, 70], False),
        ([77, 77, 77], [70, 70, 70], False),  # the mean is too low
        ([80, 81, 82], [80.9, 81.9, 82.9], True),  # within a point of training from scratch
        ([80, 81, 82], [81.1, 82.1, 83.1], False),
        ([80, 81, 82], [80, 81, 88], True),  # -2 points, but within two standard errors
    ],
)
def test_when_a_line_over_seeds_holds(pretrained, scratch, holds):
    line = compare_seeds.Line(title="VQA", task="vqa", metric="overall", expected=78, main=True)
    text, verdict = compare_seeds.judge(line, np.array(pretrained, float), np.array(scratch, float))
    assert verdict == holds and ("does not hold" in text) != holds


def test_the_seeds_need_a_finished_demo(finished_demo):
    """One that was pre-trained for fewer steps would be trained on, and its finetuned models kept."""
    (finished_demo / "output" / "pretrain" / "ckpt" / "train_state_7500.pt").unlink()
    with pytest.raises(InputError, match=r"demo\.sh --all"):
        compare_seeds.main(["--demo", str(finished_demo)])


def test_a_conversion_that_failed_is_repeated(tmp_path, typed):
    made = runner.DemoRunner(tmp_path)
    (tmp_path / "img_db" / "x").mkdir(parents=True)  # as a conversion that failed leaves it
    for _ in range(2):
        made.make_image_store("x", pictures=[tmp_path], boxes=[], naming=[], selection=runner.DETECTED_BOXES)
    assert [command[0] for command in typed].count("scripts/convert_imgdir.py") == 1
    assert (tmp_path / "img_db" / "x" / "feat_th0.2_max12_min3").exists()
