"""The toy task of docs/ADD_A_TASK.md: the page quotes the code, and its commands end with a score above chance."""

import json
import re
import shlex
import subprocess
import sys
from collections import Counter

import pytest

from tests.tiny_world import ROOT

PAGE = (ROOT / "docs" / "ADD_A_TASK.md").read_text()
TOY = ROOT / "examples" / "toy"


def last_words(raw, *splits):
    """The last word of each caption of these splits, by the caption's id."""
    images = json.loads((raw / "dataset_coco.json").read_text())["images"]
    captions = [caption for image in images if image["split"] in splits for caption in image["sentences"]]
    return {str(caption["sentid"]): caption["tokens"][-1] for caption in captions}


def test_the_page_quotes_the_files_as_they_are():
    files = [path.read_text() for path in TOY.glob("*.py")]
    quotes = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(quotes) >= 5
    assert [quote for quote in quotes if not any(quote in text for text in files)] == []


def test_the_task_has_at_most_150_lines():
    assert sum(len(path.read_text().splitlines()) for path in TOY.iterdir() if path.suffix in (".py", ".json")) <= 150


@pytest.mark.slow
def test_the_page_s_commands_end_with_a_score_above_chance(tmp_path):
    blocks = re.findall(r"<!-- tested -->\n```bash\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 3
    commands = "".join(blocks).replace("\\\n", " ").replace("output/toy", str(tmp_path)).splitlines()
    for command in commands:
        line = shlex.split(command)
        assert line[0] == "python"
        result = subprocess.run([sys.executable, *line[1:]], cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr[-3000:]
    score = re.search(r"^acc (0\.\d+)$", result.stdout + result.stderr, re.MULTILINE)
    assert score
    predictions = json.loads((tmp_path / "run" / "results_test" / "results_best_all.json").read_text())
    truth = last_words(tmp_path / "raw", "test")
    assert predictions.keys() == truth.keys()
    right = sum(predictions[id_] == word for id_, word in truth.items()) / len(truth)
    assert right == pytest.approx(float(score[1]), abs=0.01)  # a rare word has several tokens
    most_frequent = Counter(last_words(tmp_path / "raw", "train", "restval").values()).most_common(1)[0][0]
    chance = sum(word == most_frequent for word in truth.values()) / len(truth)
    assert right > 2 * chance
