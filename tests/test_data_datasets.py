"""The datasets: which text meets which picture, what is masked, what stays fixed."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data.concat import Concat
from data.itm import Itm
from data.loader import BatchBuilder
from data.mlm import Mlm
from data.mrm import Mrm
from data.rng import generator
from data.sampler import eval_plans
from data.vqa import Vqa
from utils.errors import InputError

CLS, SEP, MASK = 1, 2, 3


class Texts:
    """A text store in memory: text `i` has `lens[i]` word pieces and is about picture `of[i]`."""

    path = Path("texts.db")
    meta = SimpleNamespace(cls=CLS, sep=SEP, mask=MASK, unk=4, v_range=(10, 50))

    def __init__(self, lens, of, targets=None):
        self.lens, self.targets = np.array(lens, np.int32), targets
        self.img_names, index = np.unique(np.array([f"{name}.npz".encode() for name in of]), return_inverse=True)
        self.img_index = index.astype(np.int32)[:, None]

    def __len__(self):
        return len(self.lens)

    def id(self, i):
        return f"t{i}"

    def close(self):
        pass

    def read(self, i):
        record = {"input_ids": [10 + (i + k) % 40 for k in range(self.lens[i])]}
        return record | ({"target": self.targets[i]} if self.targets else {})


class Images:
    """An image store in memory; picture `i` is said to have `nbb[i]` regions and holds `real[i]`."""

    path, folder = "images", "images/all"
    img_dim = 6

    def __init__(self, names, nbb, real=None):
        self.names, self.n_announced = [f"{name}.npz".encode() for name in names], np.array(nbb, np.int32)
        self.real = np.array(real if real is not None else nbb)
        self.n_stored = np.minimum(self.n_announced, self.real)

    def rows(self, names):
        return np.array([self.names.index(name) if name in self.names else -1 for name in names], np.int32)

    def read(self, row, soft_labels=False):
        n = min(self.n_announced[row], self.real[row])
        rng = np.random.default_rng(row)
        labels = rng.random((n, 5)).astype(np.float16) if soft_labels else None
        feat = rng.random((n, 6)).astype(np.float16)
        return SimpleNamespace(features=feat, pos=rng.random((n, 7), np.float32), soft_labels=labels)


def stores():
    of = [0, 0, 0, 1, 1, 2, 3, 3, 3, 3]
    return Texts([3, 9, 4, 5, 6, 2, 8, 7, 1, 30], of), Images([3, 2, 1, 0, 9], [4, 5, 6, 7, 8])


def uniform(n, seed=0):
    return np.random.default_rng(seed).random((n, 3))


@pytest.mark.parametrize("negative", ["image", "text", "both"])
def test_negatives_are_never_the_pair_itself(negative):
    texts, images = stores()
    data = Itm(texts, images, negative=negative, neg_prob=0.5)
    positives = replaced_texts = replaced_images = 0
    for seed in range(300):
        pairs = data.pairs(uniform(len(data), seed))
        for i, (text, picture) in enumerate(pairs):
            label = int(data.example([text, picture], generator(0)).seqs[0].targets["itm_labels"][0])
            own_text, own_picture = text == i, picture == data.pictures[i]
            assert label == (own_text and own_picture)
            assert own_text or own_picture  # one side is replaced, never both
            assert picture in data.pictures  # a picture that some text of the store is about
            positives += label
            replaced_texts += not own_text
            replaced_images += not own_picture
    total = 300 * len(data)
    assert positives / total == pytest.approx(0.5, abs=0.04)
    share = {"image": 0.0, "text": 1.0, "both": 0.5}[negative]
    assert replaced_texts / (replaced_texts + replaced_images) == pytest.approx(share, abs=0.06)


def test_negative_texts_and_pictures_are_drawn_evenly():
    texts, images = stores()
    for negative, other in (("text", 0), ("image", 1)):
        data = Itm(texts, images, negative=negative, neg_prob=1.0)
        drawn = [data.pairs(uniform(len(data), seed))[5, other] for seed in range(3000)]
        values, counts = np.unique(drawn, return_counts=True)
        assert len(values) == (9 if negative == "text" else 3)  # all but its own
        assert counts.min() / counts.max() > 0.7


def test_lens_are_those_of_the_drawn_pairs():
    texts, images = stores()
    data = Itm(texts, images, negative="both")
    pairs = data.pairs(uniform(len(data)))
    for (text, picture), length in zip(pairs, data.lens(pairs)):
        seq = data.example([text, picture], generator(0)).seqs[0]
        assert length + 2 == len(seq.input_ids) + len(seq.images[0].feat)


def test_wrong_picture_is_always_another():
    texts, images = stores()
    for data in (Mlm(texts, images, wrong_picture=True), Itm(texts, images, wrong_picture=True)):
        pairs = data.pairs(uniform(len(data)))
        assert (pairs[:, 1] != data.pictures).all() and (pairs[:, 0] == np.arange(len(data))).all()


def test_one_picture_alone_has_no_negative():
    """It is refused when it is opened, so that validation does not fail after training; also a single text."""
    for texts in (Texts([3, 4], [0, 0]), Texts([3], [0])):
        with pytest.raises(InputError, match="no other image"):
            Itm(texts, Images([0], [4]))
        with pytest.raises(InputError, match="no other image"):
            Mlm(texts, Images([0], [4]), wrong_picture=True)
        positives = Itm(texts, Images([0], [4]), neg_prob=0)
        assert positives.pairs(uniform(len(texts)))[:, 1].tolist() == positives.pictures.tolist()


def test_texts_that_are_all_empty_have_no_word_to_mask():
    with pytest.raises(InputError, match="every text of the store is empty"):
        Mlm(Texts([0, 0], [0, 1]), Images([0, 1], [4, 5]))
    assert len(Mlm(Texts([0, 1], [0, 1]), Images([0, 1], [4, 5]))) == 2


def test_a_picture_missing_from_the_store_is_named():
    with pytest.raises(InputError, match=r"7\.npz"):
        Mlm(Texts([3, 4], [0, 7]), Images([0], [4]))


@pytest.mark.parametrize("masking", ["conditional", "joint"])
def test_what_is_masked(masking):
    texts, images = stores()
    mlm = Mlm(texts, images, masking=masking).example([9, 0], generator(1)).seqs[0]
    original = np.array(texts.read(9)["input_ids"])
    labels, places = mlm.targets["mlm_labels"], mlm.unit_targets["mlm_index"]
    np.testing.assert_array_equal(labels, original[places - 1])  # places count [CLS]
    assert (mlm.input_ids[0], mlm.input_ids[-1]) == (CLS, SEP)
    untouched = np.setdiff1d(np.arange(30), places - 1)
    np.testing.assert_array_equal(mlm.input_ids[1:-1][untouched], original[untouched])
    assert (mlm.img_mask is not None) == (masking == "joint")
    mrm = Mrm(texts, images, "mrfr", masking=masking).example([9, 0], generator(1)).seqs[0]
    np.testing.assert_array_equal(mrm.region_targets["mrm_row"], np.flatnonzero(mrm.img_mask))
    np.testing.assert_array_equal(mrm.unit_targets["mrm_index"], 32 + np.flatnonzero(mrm.img_mask))
    assert ((mrm.input_ids[1:-1] != original).any()) == (masking == "joint")
    assert "mlm_labels" not in mrm.targets  # the loss stays the step's own
    mrc = Mrm(texts, images, "mrc").example([9, 0], generator(1)).seqs[0]
    np.testing.assert_array_equal(mrc.targets["soft_labels"], images.read(0, True).soft_labels[mrc.img_mask])


def test_a_record_with_fewer_regions_than_announced():
    texts = Texts([4], [0])
    seq = Mrm(texts, Images([0], [10], real=[6]), "mrckl").example([0, 0], generator(0)).seqs[0]
    assert len(seq.images[0].feat) == len(seq.img_mask) == 6
    assert seq.unit_targets["mrm_index"].max() < 6 + 6


def test_text_alone():
    data = Mlm(Texts([4, 7], [0, 1]), None)
    assert data.lens(data.pairs(uniform(2))).tolist() == [4, 7] and data.img_dim == 1
    assert data.example([1, -1], generator(0)).seqs[0].images == []
    with pytest.raises(InputError, match="needs images"):
        Itm(Texts([4], [0]), None)


def test_vqa_targets():
    targets = [{"labels": [2, 0], "scores": [1.0, 0.3]}, {"labels": [], "scores": []}]
    data = Vqa(Texts([3, 4], [0, 0], targets), Images([0], [4]), num_answers=4)
    np.testing.assert_allclose(data.example([0, 0], generator(0)).targets["answer_scores"], [[0.3, 0, 1, 0]])
    assert data.example([1, 0], generator(0)).targets["answer_scores"].sum() == 0
    with pytest.raises(InputError, match="answer vocabulary"):
        Vqa(Texts([3], [0], targets[:1]), Images([0], [4]), num_answers=2).example([0, 0], generator(0))


def test_parts_laid_end_to_end_are_their_own_examples():
    first, second = Itm(*stores(), negative="both"), Itm(*stores(), negative="both")
    both = Concat([first, second])
    numbers = uniform(20)
    pairs = both.pairs(numbers)
    np.testing.assert_array_equal(both.lens(pairs)[10:], second.lens(second.pairs(numbers[10:])))
    for i in (0, 9, 10, 19):
        part, k = (first, i) if i < 10 else (second, i - 10)
        text, picture = part.pairs(numbers[10 * (i // 10) :][:10])[k]
        ours, theirs = both.example(pairs[i], generator(0)), part.example([text, picture], generator(0))
        np.testing.assert_array_equal(ours.seqs[0].input_ids, theirs.seqs[0].input_ids)
        assert ours.seqs[0].images[0].key == theirs.seqs[0].images[0].key
        assert both.id(i) == part.id(k)


def test_evaluation_is_fixed_by_ids():
    data = Itm(*stores())
    whole = eval_plans(data, budget=40)
    assert sorted(i for work in whole for i in work.indices) == list(range(10))
    again = eval_plans(data, budget=200)  # other batches, the same pairs
    by_example = [{int(i): tuple(p) for w in works for i, p in zip(w.indices, w.pairs)} for works in (whole, again)]
    assert by_example[0] == by_example[1]
    assert [w.step for w in whole] == list(range(len(whole)))  # by which the predictions of ranks are put in order


def validation(task, wrong_picture):
    """The plan of 400 texts of 12 words about images of 3 to 9 regions, with its batch and the texts' own images."""
    texts = Texts([12] * 400, np.arange(400) % 40)
    images = Images(range(40), 3 + np.arange(40) % 7)
    options = {"wrong_picture": wrong_picture, "masking": "joint"}
    data = Mlm(texts, images, **options) if task == "mlm" else Mrm(texts, images, task, **options, words_first=True)
    (plan,) = eval_plans(data, budget=10**6)
    return plan, BatchBuilder([data], by_id=True)(plan), data.pictures[plan.indices]


@pytest.mark.parametrize("task", ["mlm", "mrfr"])
def test_the_masked_words_of_the_control_are_those_of_the_validation_set(task):
    (own_plan, own, _), (plan, control, _) = validation(task, False), validation(task, True)
    words = [dict(zip(batch.ids, batch.input_ids.reshape(-1, 14).tolist())) for batch in (own, control)]
    assert len(words[0]) == 400 and words[0] == words[1]
    assert dict(zip(own_plan.indices, own_plan.pairs[:, 1])) != dict(zip(plan.indices, plan.pairs[:, 1]))


def test_which_words_are_masked_says_nothing_about_which_image_the_control_drew():
    """Pairs and masks have keys of their own. With one key, a number masks the third word and chooses the image."""
    plan, batch, own = validation("mlm", True)
    pictures = plan.pairs[:, 1]
    numbers = (pictures - (pictures > own)) / 39  # of the other images, as shares of their number
    third_is_masked = batch.input_ids.numpy().reshape(-1, 14)[:, 3] == MASK
    assert third_is_masked.sum() > 20 and abs(numbers[third_is_masked].mean() - numbers.mean()) < 0.15
