"""The judge: its distances are what they are called, and better images get better figures."""

from __future__ import annotations

import dataclasses
import errno
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ditkit.evaluation.evaluate as evaluate_module
from ditkit.cli.app import main
from ditkit.data.contract import open_dataset
from ditkit.errors import DataError, MachineError, UsageError
from ditkit.evaluation.evaluate import FeatureCache, evaluate, joined
from ditkit.evaluation.features import open_extractor
from ditkit.evaluation.judge import Judge, open_judge
from ditkit.evaluation.label_plan import plan_labels
from ditkit.evaluation.metrics import (
    frechet,
    frechet_error,
    inception_score,
    kernel_sums,
    kid,
    precision_recall,
    share_error,
    statistics,
    without_first,
)
from ditkit.evaluation.neighbours import nearest
from ditkit.evaluation.reference import Reference
from ditkit.recipes import load


def gaussians(count: int, mean: float, std: float, features: int = 8, seed: int = 0) -> np.ndarray:
    source = np.random.default_rng(seed)
    return source.normal(mean, std, (count, features)).astype(np.float32)


class Few:
    """The first images of MNIST."""

    def __init__(self, first: int, count: int):
        self._all, self._first, self._count = open_dataset(load("mnist").data, "train"), first, count
        self.labels, self.fingerprint = self._all.labels, f"{first}+{count}"

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        return self._all[self._first + index]


@pytest.fixture
def lenet_judge():
    return open_judge(load("mnist"), dataset=Few(0, 1500))


def test_the_frechet_distance_is_the_closed_form_of_gaussians():
    a = statistics(np.array([[-1.0, 0], [1, 0], [0, -2], [0, 2]]))
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    one, other = statistics(gaussians(200_000, 0, 1)), statistics(gaussians(200_000, 0.5, 2, seed=1))
    assert frechet(one, other) == pytest.approx(8 * (0.5**2 + (2 - 1) ** 2), rel=0.02)


def test_kid_is_unbiased_and_its_error_covers_it():
    real = gaussians(600, 0, 1)
    same = [kid(gaussians(300, 0, 1, seed=seed), real) for seed in range(1, 9)]
    assert abs(np.mean([value for value, _ in same])) < 2 * np.mean([error for _, error in same])
    value, error = kid(gaussians(300, 1, 1, seed=9), real)
    assert value > 8 * error > 0


@pytest.mark.parametrize("count", [20, 300, 1200])
@pytest.mark.parametrize("shift", [0, 0.3])
def test_the_errors_of_distances_are_about_how_far_repeated_draws_scatter(count, shift):
    real = statistics(gaussians(20_000, 0, 1, seed=99))
    values = []
    for seed in range(24):
        drawn = gaussians(count, shift, 1, seed=2 * seed)
        kernel = kid(drawn, gaussians(count, 0, 1, seed=2 * seed + 1))
        values.append((*kernel, frechet(statistics(drawn), real), frechet_error(drawn, real)))
    kids, kid_errors, distances, errors = np.array(values).T
    assert kid_errors.min() > 0 and errors.min() > 0
    assert 0.6 < kid_errors.mean() / kids.std() < 2.5 and 0.6 < errors.mean() / distances.std() < 2.5


def test_the_kid_of_all_images_expects_what_the_mean_over_subsets_does():
    drawn, real = gaussians(900, 0.2, 1), gaussians(1500, 0, 1, seed=1)
    source = np.random.default_rng(0)
    subsets = [kid(source.permutation(drawn)[:150], source.permutation(real)[:150])[0] for _ in range(100)]
    value, error = kid(drawn, real, real_sums_M=kernel_sums(real))
    assert value == kid(drawn, real)[0] and abs(np.mean(subsets) - value) < error


def test_labels_drawn_a_set_number_of_times_leave_the_kid_without_bias():
    """Drawn in turn, ten labels far apart have fewer pairs of one label than images drawn by chance."""
    middles = np.random.default_rng(0).normal(0, 2, (10, 8))
    plain, right = [], []
    for seed in range(1, 25):
        source = np.random.default_rng(seed)
        real, drawn = (
            middles[ids] + source.normal(0, 0.5, (len(ids), 8)) for ids in (np.arange(2000) % 10, np.arange(30) % 10)
        )
        labels = [str(number % 10) for number in range(30)]
        plain.append(kid(drawn, real)), right.append(kid(drawn, real, labels=labels))
    values, errors = np.array(right).T
    assert abs(values.mean()) < 3 * values.std() / len(values) ** 0.5 and 0.6 < errors.mean() / values.std() < 5
    assert np.mean([value for value, _ in plain]) < -5 * values.std()


def test_labels_that_were_drawn_once_say_nothing_of_pairs():
    drawn, real = gaussians(50, 0.2, 1), gaussians(80, 0, 1, seed=1)
    plain = kid(drawn, real)
    assert kid(drawn, real, labels=[str(number) for number in range(50)]) == pytest.approx(plain)
    assert kid(drawn, real, labels=["one"] * 50) == pytest.approx(plain)
    assert kid(drawn, real, labels=[None] * 50) == plain


def test_statistics_without_the_first_images_are_those_of_the_others():
    features = gaussians(50, 1, 2)
    rest, without = statistics(features[20:]), without_first(statistics(features), features[:20])
    assert without.images == 30
    np.testing.assert_allclose(without.mean_F, rest.mean_F, atol=1e-12)
    np.testing.assert_allclose(without.covariance_FF, rest.covariance_FF, atol=1e-12)


def test_a_share_of_few_images_is_never_sure():
    assert share_error(1.0, 20) > 0.02 and share_error(0.0, 20) == pytest.approx(share_error(1.0, 20))
    assert share_error(0.5, 10_000) == pytest.approx(0.005, rel=1e-3)


def test_precision_and_recall_tell_blurred_from_narrow():
    real = gaussians(500, 0, 1, features=2)
    narrow = precision_recall(gaussians(500, 0, 0.2, features=2, seed=1), real)
    wide = precision_recall(gaussians(500, 0, 5, features=2, seed=1), real)
    assert narrow[0] > 0.95 and narrow[1] < 0.4
    assert wide[0] < 0.3 and wide[1] > 0.9


def test_the_inception_score_counts_the_kinds():
    logits = 50 * np.eye(5)[np.arange(100) % 5]
    assert inception_score(logits) == pytest.approx(5)
    assert inception_score(np.ones((10, 5))) == pytest.approx(1)


def test_the_distances_are_those_of_torch_fidelity():
    fidelity = pytest.importorskip("torch_fidelity", reason='needs torch-fidelity: pip install "ditkit[evaluate]"')
    import torch
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric

    assert fidelity
    drawn, real = gaussians(1200, 0.2, 1.3, features=32), gaussians(2000, 0, 1, features=32, seed=1)
    theirs = [fid_features_to_statistics(torch.from_numpy(one)) for one in (drawn, real)]
    distance = fid_statistics_to_metric(*theirs, False)["frechet_inception_distance"]
    assert frechet(statistics(drawn), statistics(real)) == pytest.approx(distance, rel=1e-3)
    options = {"kid_subsets": 100, "kid_subset_size": 1000, "verbose": False}
    some = drawn[:1000], real[:1000]  # so that every subset is all of them
    kernel = kid_features_to_metric(*map(torch.from_numpy, some), **options)
    assert kid(*some)[0] == pytest.approx(kernel["kernel_inception_distance_mean"], rel=1e-3)


def test_a_torchvision_of_another_torch_is_one_clear_error(tmp_path, monkeypatch):
    (tmp_path / "torch_fidelity.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch_fidelity", raising=False)
    with pytest.raises(MachineError, match="needs the torchvision made for this torch") as caught:
        open_extractor("inception")
    assert "install torch and torchvision together" in str(caught.value.hint)


def test_half_of_the_real_images_score_well_and_noise_badly(lenet_judge):
    others = Few(1500, 1000)
    half = [others[index] for index in range(len(others))]
    labels = [str(label) for _, label in half]
    real = lenet_judge.score([image for image, _ in half], labels)
    noise = np.random.default_rng(0).integers(0, 256, (1000, 28, 28, 1), dtype=np.uint8)
    bad = lenet_judge.score(list(noise), labels)
    assert real["accuracy"] > 0.98 and abs(real["kid"]) < 4 * real["kid_error"]
    assert real["precision"] > 0.7 and real["recall"] > 0.7
    assert bad["frechet"] > 50 * real["frechet"] and bad["kid"] > 100 * abs(real["kid"])
    assert bad["accuracy"] < 0.3 and bad["precision"] < 0.05


def test_the_reference_comes_from_the_cache_and_changes_with_the_images(lenet_judge):
    looked: list[int] = []
    config = load("mnist")
    again = open_judge(config, dataset=Few(0, 1500), on_image=lambda done, _of: looked.append(done))
    assert not looked and again.reference.fingerprint == lenet_judge.reference.fingerprint
    np.testing.assert_array_equal(again.reference.features_NF, lenet_judge.reference.features_NF)
    other = open_judge(config, dataset=Few(1, 1500), on_image=lambda done, _of: looked.append(done))
    assert looked and other.reference.fingerprint != lenet_judge.reference.fingerprint


def test_the_reference_does_not_depend_on_how_images_are_loaded(lenet_judge):
    looked: list[int] = []
    loading = {"workers": 3, "worker_start": "spawn", "worker_timeout": 7, "max_bad": 0.5}
    again = open_judge(load("mnist", {"data": loading}), dataset=Few(0, 1500), on_image=lambda *done: looked.append(1))
    assert not looked and again.reference.fingerprint == lenet_judge.reference.fingerprint
    flipped = open_judge(load("mnist", {"data": {"flip": True}}), dataset=Few(0, 1500))
    assert flipped.reference.fingerprint != lenet_judge.reference.fingerprint


def test_copies_of_training_images_are_found():
    few = Few(0, 300)
    copies, fresh = [few[7][0], few[123][0]], [Few(300, 1)[0][0]]
    near = nearest([*copies, *fresh], few)
    assert near.indices_NK[:2, 0].tolist() == [7, 123] and near.distances_NK[:2, 0].tolist() == [0, 0]
    assert near.is_copy_N.tolist() == [True, True, False] and near.memorised == pytest.approx(2 / 3)
    assert (np.diff(near.distances_NK, axis=1) >= 0).all()


def test_cached_features_are_loaded_and_damaged_ones_computed_again(tmp_path, monkeypatch):
    monkeypatch.setenv("DITKIT_CACHE", str(tmp_path))
    cache = FeatureCache(identity={"seed": 0}, images=178, extractor=open_extractor("lenet"))
    images = [np.full((28, 28, 1), level, np.uint8) for level in range(50)]
    seen = cache.extract(128, images)
    kept = cache.load(128)
    assert cache.chunks() == [(0, 128), (128, 178)] and cache.load(0) is None and kept is not None
    np.testing.assert_array_equal(kept.features_NF, seen.features_NF)
    assert len(joined([seen, kept]).logits_NL) == 100
    part = next(cache.folder.iterdir())
    part.write_bytes(part.read_bytes()[:-10])
    assert cache.load(128) is None


def command(capsys, *line: str) -> tuple[int, str, str]:
    code = main(["evaluate", "--device", "cpu", *line])
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.fixture
def few_digits(monkeypatch):
    """The judge sees 400 images instead of all of MNIST, which takes twenty seconds."""
    monkeypatch.setattr("ditkit.evaluation.reference.MOST_IMAGES", 400)


def test_the_command_keeps_its_figures_with_what_they_depend_on(few_digits, tmp_path, capsys):
    line = ["mnist", "--samples", "20", "--steps", "2", "--json"]
    code, out, err = command(capsys, *line)
    record = json.loads(out)
    assert code == 0 and "warning: distances of 20 images" in err
    assert record["drawn"]["steps"] == 2 and record["drawn"]["samples"] == 20 and record["step"] == 5400
    assert record["features"]["distance"] == "Fréchet distance (LeNet)" and record["reference"]["images"] == 400
    assert 0 <= record["metrics"]["accuracy"] <= 1 and record["metrics"]["frechet"] > 0
    assert all(error > 0 for name, error in record["metrics"].items() if name.endswith("_error"))
    assert record["drawn"]["labels_as"] == "data" and "as often as the real images have them" in record["labels"]
    again = json.loads(command(capsys, *line, "--seed", "5")[1])
    kept = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert [one["drawn"]["first_seed"] for one in kept] == [0, 5] and kept[1]["metrics"] == again["metrics"]
    assert not list((tmp_path / "cache" / "evaluations").iterdir())


def test_the_report_says_of_which_labels_and_how_sure_its_figures_are(few_digits, capsys, monkeypatch):
    monkeypatch.setattr("ditkit.evaluation.judge.FEW", 2)
    line = ["mnist", "--samples", "20", "--steps", "1"]
    _, data, _ = command(capsys, *line)
    assert "\nlabels as often as the real images have them: " in data and "± is one standard error" in data
    assert "20 real images against the other 380 have" in data and "of 20 drawn and as many real" in data
    assert data.count(" ± ") == 5
    _, even, _ = command(capsys, *line, "--labels-as", "even")
    assert "\nlabels in turn, as --labels-as even asks" in even
    code, out, err = command(capsys, *line, "--labels-as", "evn")
    assert code == 2 and not out and "did you mean 'even'?" in err


def test_neighbours_are_those_of_the_first_images_that_were_judged(few_digits, tmp_path, monkeypatch, capsys):
    import ditkit

    seen: list[np.ndarray] = []

    def near(images, _dataset, *_):
        seen.extend(images)
        return nearest(images, Few(0, 50))

    monkeypatch.setattr("ditkit.evaluation.neighbours.nearest", near)
    code, out, _ = command(capsys, "mnist", "--samples", "20", "--steps", "1", "--neighbours", "3", "--json")
    record = json.loads(out)
    assert code == 0 and record["metrics"]["memorised_error"] > 0 and record["neighbours"]["images"] == 3
    real = open_judge(load("mnist")).reference
    labels = [label or "" for label in plan_labels(list(real.labels), real.labels, 20).labels]
    drawn = ditkit.sample(ditkit.load("mnist"), labels, steps=1)
    for image, sample in zip(seen, drawn, strict=False):
        np.testing.assert_array_equal(image, sample.image)
    assert (tmp_path / "evaluation-neighbours.png").is_file()


def test_what_was_drawn_before_a_stop_is_not_drawn_again(few_digits, monkeypatch):
    import ditkit

    class Stop(Exception):
        pass

    trained, looks, see = ditkit.load("mnist"), [], FeatureCache.extract
    monkeypatch.setattr("ditkit.evaluation.evaluate.CHUNK", 8)
    judge = open_judge(trained.info.config)

    def stops(self, start, images):
        if len(looks) == 2:
            raise Stop
        looks.append(start)
        return see(self, start, images)

    monkeypatch.setattr(FeatureCache, "extract", stops)
    with pytest.raises(Stop):
        evaluate(trained, judge, samples=24)
    monkeypatch.setattr(
        FeatureCache, "extract", lambda self, start, images: looks.append(start) or see(self, start, images)
    )
    stopped = evaluate(trained, judge, samples=24)
    assert looks == [0, 8, 16]
    whole = evaluate(trained, judge, samples=24)
    assert looks == [0, 8, 16, 0, 8, 16] and whole.metrics == stopped.metrics


def test_figures_say_what_drew_and_what_others_drew_is_drawn_anew(few_digits, monkeypatch):
    import torch

    import ditkit
    from ditkit.kernels.choice import Compute

    trained, draw, drawn = ditkit.load("mnist"), evaluate_module._draw, []
    how = {"samples": 10, "settings": dataclasses.replace(trained.info.config.sample, steps=1), "keep": True}
    judge = open_judge(trained.info.config)
    evaluate(trained, judge, **how)
    monkeypatch.setattr(evaluate_module, "_draw", lambda *words, **how: drawn.append(words[2]) or draw(*words, **how))
    record = evaluate(trained, judge, **how).record
    assert not drawn and (record["dtype"], record["kernels"]) == ("float32", "off")
    by_kernels = dataclasses.replace(trained, compute=Compute(dtype=torch.float32, kernels=True))
    record = evaluate(by_kernels, judge, **how).record
    assert drawn == [0] and (record["dtype"], record["kernels"]) == ("float32", "on")


def test_the_images_go_to_one_file_also_after_a_stop(few_digits, monkeypatch, tmp_path, capsys):
    import ditkit

    monkeypatch.setattr("ditkit.evaluation.evaluate.CHUNK", 8)
    trained, draw = ditkit.load("mnist"), evaluate_module._draw
    settings = dataclasses.replace(trained.info.config.sample, steps=1)
    judge, path = open_judge(trained.info.config), tmp_path / "images.npz"

    def stops(*words, **how):
        if words[2] == 16:  # the third chunk
            raise KeyboardInterrupt
        return draw(*words, **how)

    monkeypatch.setattr(evaluate_module, "_draw", stops)
    with pytest.raises(KeyboardInterrupt):
        evaluate(trained, judge, samples=20, settings=settings, npz=path)
    assert not path.exists()
    drawn = []
    monkeypatch.setattr(evaluate_module, "_draw", lambda *words, **how: drawn.append(words[2]) or draw(*words, **how))
    evaluation = evaluate(trained, judge, samples=20, settings=settings, npz=path)
    images = ditkit.sample(trained, list(evaluation.labels), settings=settings)
    with np.load(path) as arrays:
        np.testing.assert_array_equal(arrays["arr_0"][..., :1], np.stack([image.image for image in images]))
        assert arrays["arr_1"].tolist() == [int(image.label) for image in images]
    assert drawn == [16]
    code, _, err = command(capsys, "mnist", "--samples", "20", "--npz", str(path))
    assert code == 2 and "images.npz is there already" in err and "another name with --npz" in err
    assert "--force" not in err  # which it does not have


def test_several_processes_give_the_same_figures_and_the_same_file(few_digits, monkeypatch, tmp_path):
    """Threads stand for the processes."""
    import ditkit

    monkeypatch.setattr("ditkit.evaluation.evaluate.CHUNK", 8)
    trained = ditkit.load("mnist")
    judge, settings = open_judge(trained.info.config), dataclasses.replace(trained.info.config.sample, steps=1)
    barrier, gathered = threading.Barrier(2), [None, None]

    def part(rank: int):
        def collect(value):
            gathered[rank] = value
            barrier.wait()
            values = list(gathered)
            barrier.wait()
            return values

        how = {"npz": tmp_path / "two.npz", "part": (rank, 2), "collect": collect}
        return evaluate(trained, judge, samples=20, settings=settings, **how)

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(part, range(2)))
    alone = evaluate(trained, judge, samples=20, settings=settings, npz=tmp_path / "one.npz")
    assert both[0].metrics == both[1].metrics == alone.metrics
    assert (tmp_path / "two.npz").read_bytes() == (tmp_path / "one.npz").read_bytes()


@pytest.mark.slow
def test_more_training_scores_better(few_digits, tmp_path):
    import ditkit
    from ditkit import recipes

    tiny = {"width": 48, "depth": 2, "heads": 2, "patch": 4}
    train = {"steps": 240, "batch_size": 32, "save_every": 40, "sample_every": 10_000, "keep": 100}
    config = recipes.build(recipes.tree("mnist"), {"model": tiny, "train": train, "data": {"validation": 10}})
    run = ditkit.train(config, tmp_path / "runs" / "tiny")
    folder = tmp_path / "runs" / "tiny" / "checkpoints"
    judge = open_judge(config)
    scores = [evaluate(ditkit.load(folder / f"step-{step:07d}"), judge, samples=100) for step in (40, 120, 240)]
    distances = [one.metrics["frechet"] for one in scores]
    assert run and distances == sorted(distances, reverse=True) and distances[0] > 1.5 * distances[2]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["mnist", "--features", "lennet"], "did you mean 'lenet'"),
        (["mnist", "--features", "none.onnx"], "there is no file none.onnx"),
        (["mnist", "--out", "figures.txt"], "is not the name of a .json file"),
        (["mnist", "--data-dir", "nowhere"], "is not a folder"),
        (["nothing"], "there is no run"),
    ],
)
def test_mistakes_are_said_in_one_line(few_digits, capsys, line, said):
    code, out, err = command(capsys, *line)
    assert code == 2 and not out and said in err and len(err.splitlines()) == 2


def test_another_file_is_not_written_over(few_digits, tmp_path, capsys):
    (tmp_path / "evaluation.json").write_text('{"mine": 1}', encoding="utf-8")
    code, _, err = command(capsys, "mnist", "--samples", "20")
    assert code == DataError.exit_code and "is not a list of evaluations" in err
    assert (tmp_path / "evaluation.json").read_text(encoding="utf-8") == '{"mine": 1}'


def test_a_judge_needs_enough_images(few_digits):
    import ditkit

    extractor = open_extractor("lenet")
    features = gaussians(20, 0, 1, features=64)
    judge = Judge(
        extractor=extractor,
        reference=Reference(statistics=statistics(features), features_NF=features, fingerprint="x"),
    )
    with pytest.raises(UsageError, match="say nothing"):
        evaluate(ditkit.load("mnist"), judge, samples=3)


def test_figures_that_cannot_be_written_cost_no_image(few_digits, monkeypatch, tmp_path, capsys):
    """A full disk at the end: what was drawn is kept, and the same command only writes the figures."""
    drawn, draw = [], evaluate_module._draw

    def draw_and_count(*words, **how):
        drawn.append(words[2])
        return draw(*words, **how)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "evaluation.json"))

    monkeypatch.setattr(evaluate_module, "_draw", draw_and_count)
    line = ["evaluate", "mnist", "--samples", "12", "--steps", "1", "--device", "cpu", "--out", "evaluation.json"]
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("ditkit.runs.metrics.write_atomically", full)
        assert main(line) == 6
    assert len(drawn) == 1 and not (tmp_path / "evaluation.json").exists()
    assert main(line) == 0
    assert len(drawn) == 1 and (tmp_path / "evaluation.json").is_file()
    assert main(line) == 0 and len(drawn) == 2  # nothing was kept of what is written
