"""DINOv2 as a judge, with a small network of random weights on a hub of the tests' own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hub_server import hub

from ditkit.errors import DitkitError
from ditkit.evaluation.features import open_extractor

transformers = pytest.importorskip("transformers", reason='needs transformers: pip install "ditkit[dinov2]"')
pytestmark = pytest.mark.extras


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    config = transformers.Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=14)
    return transformers.Dinov2Model(config).eval()


@pytest.fixture
def server(small, tmp_path, monkeypatch):
    from ditkit.evaluation.features import REPOSITORY

    small.save_pretrained(tmp_path / "small")
    files = {name: (tmp_path / "small" / name).read_bytes() for name in ("config.json", "model.safetensors")}
    with hub({("model", REPOSITORY): files}) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        yield running


def test_the_features_are_the_class_token_of_normalised_images(server, small):
    extractor = open_extractor("dinov2")
    images = [np.random.default_rng(seed).integers(0, 256, (224, 224, 3), dtype=np.uint8) for seed in range(3)]
    seen = extractor.extract(images)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(one)[:, None, None] for one in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = small(pixel_values=(pixels - mean) / std).last_hidden_state[:, 0]
    assert seen.features_NF.shape == (3, 32) and extractor.distance == "Fréchet distance (DINOv2)"
    assert np.allclose(seen.features_NF, expected.numpy(), atol=1e-5)


def test_grey_and_small_images_are_seen_too_and_later_without_a_network(server, monkeypatch):
    first = open_extractor("dinov2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    again = open_extractor("dinov2")
    image = np.full((28, 28, 1), 200, dtype=np.uint8)
    assert first.fingerprint == again.fingerprint
    assert np.array_equal(first.extract([image]).features_NF, again.extract([image]).features_NF)


def test_another_model_in_its_place_is_refused(server):
    from ditkit.evaluation.features import REPOSITORY

    server.repositories["model", REPOSITORY]["config.json"] = json.dumps({"hidden_size": "wide"}).encode()
    with pytest.raises(DitkitError):
        open_extractor("dinov2")
