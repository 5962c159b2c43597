"""Autoguidance: away from what a worse model draws, and only from one that models the same."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ditkit.checkpoint.loading import Trained, build_network
from ditkit.cli.app import main
from ditkit.errors import UsageError
from ditkit.latents.codec import Codec
from ditkit.recipes import build, load, tree
from ditkit.runs.model_info import ModelInfo, check_guide
from ditkit.sampling.generate import sample
from ditkit.sampling.guidance import Guidance, guided

LABELS = ("cat", "dog")


def model(seed: int, **settings) -> Trained:
    size = {"model": {"width": 16, "depth": 2, "heads": 2, "patch": 14, **settings}, "sample": {"steps": 3}}
    config = build(tree("mnist"), size)
    torch.manual_seed(seed)
    network = build_network(config, len(LABELS))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    from ditkit.autoencoders.pixel import Pixel

    info = ModelInfo(config=config, labels=LABELS, step=seed)
    return Trained(info=info, network=network.eval(), codec=Codec(Pixel(1), None), source=None)  # type: ignore


def drawn(trained: Trained, **how) -> torch.Tensor:
    return torch.stack([torch.from_numpy(one.image) for one in sample(trained, ["cat", "dog"], **how)]).float()


def test_the_output_leads_from_the_guide_through_the_model():
    strong, weak = model(0).network, model(1).network
    x, timestep, label = torch.randn(2, 1, 28, 28), torch.full((2,), 300.0), torch.tensor([0, 1])
    guidance = Guidance(scale=2.5, start=0.0, stop=1.0, null_label=2, has_guide=True)
    with torch.inference_mode():
        found = guided(strong, x, timestep, label, 0.3, guidance, weak)
        expected = weak(x, timestep, label) + 2.5 * (strong(x, timestep, label) - weak(x, timestep, label))
    torch.testing.assert_close(found, expected)


def test_a_model_that_guides_itself_changes_nothing_and_another_one_does():
    trained = model(0)
    plain = drawn(trained, guidance=1.0)
    assert (drawn(trained, guidance=3.0, guide=trained) - plain).abs().max() <= 1  # one level: rounding
    assert (drawn(trained, guidance=3.0, guide=model(1)) - plain).abs().mean() > 1
    assert torch.equal(drawn(trained, guidance=1.0, guide=model(1)), plain)


def test_images_do_not_depend_on_their_batch_and_guides_may_be_smaller():
    trained, guide = model(0), model(1, width=8, depth=1)
    how = {"guidance": 2.0, "guide": guide, "seed": 5}
    together = sample(trained, ["cat", "dog", "cat"], **how)
    single = sample(trained, ["cat", "dog", "cat"], batch_size=1, **how)
    for one, other in zip(together, single, strict=True):
        assert abs(one.image.astype(int) - other.image).max() <= 1
    assert len(sample(trained, ["cat"], reuse=2, **how)) == 1


def test_unconditional_models_can_be_guided_by_another():
    config = dataclasses.replace(load("mnist"))
    guidance = Guidance(scale=2.0, start=0.0, stop=1.0, null_label=0, has_guide=True)
    assert guidance.active(0.5) and not dataclasses.replace(guidance, has_guide=False).active(0.5)
    assert config.sample.guidance > 1


def test_a_guide_of_something_else_is_refused():
    ours = model(0).info
    with pytest.raises(UsageError, match="has other labels than"):
        check_guide(ours, dataclasses.replace(ours, labels=("cat", "cow")))
    flow = dataclasses.replace(ours.config.diffusion, objective="epsilon")
    with pytest.raises(UsageError, match="has other objective than"):
        check_guide(ours, dataclasses.replace(ours, config=dataclasses.replace(ours.config, diffusion=flow)))
    diffusion = load(
        "mnist", {"diffusion": {"process": "diffusion", "objective": "epsilon"}, "sample": {"sampler": "ddim"}}
    )
    ours = dataclasses.replace(ours, config=diffusion)
    check_guide(ours, ours)
    other = dataclasses.replace(diffusion.diffusion, beta_end=0.01)
    with pytest.raises(UsageError, match="the guide has other betas than the model"):
        check_guide(ours, dataclasses.replace(ours, config=dataclasses.replace(diffusion, diffusion=other)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    import ditkit

    folder = tmp_path_factory.mktemp("guided") / "runs" / "tiny"
    train = {"steps": 6, "save_every": 2, "sample_every": 1000, "keep": 9, "batch_size": 4, "sample_columns": 1}
    config = build(tree("mnist"), {"model": {"width": 16, "depth": 1, "heads": 2, "patch": 14}, "train": train})
    ditkit.train(config, folder)
    return folder


def test_the_command_finds_an_early_checkpoint_and_says_so_in_the_images(run, tmp_path):
    from PIL import Image

    line = ["sample", "--model", str(run), "--labels", "3", "--device", "cpu", "--guidance", "2", "--steps", "2"]
    assert main([*line, "--autoguide", "@2", "--out", "a"]) == 0
    assert main([*line, "--autoguide", f"{run}@2", "--out", "b"]) == 0
    assert main([*line, "--out", "c"]) == 0
    images = [Image.open(tmp_path / name / "000-3.png") for name in "abc"]
    assert images[0].tobytes() == images[1].tobytes() != images[2].tobytes()
    assert "step-0000002" in images[0].text["autoguide"] and "autoguide" not in images[2].text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--autoguide", "@3"], "there are: 2, 4, 6"),
        (["--autoguide", "@"], "no checkpoint of step (nothing)"),
        (["--autoguide", "@6"], "names the model itself"),
        (["--autoguide", "@2", "--guidance", "1"], "does nothing at guidance 1"),
        (["--autoguide", "nobody@2"], "there is no run"),
    ],
)
def test_mistakes_are_found_before_torch_loads(run, words, said, capsys, monkeypatch):
    monkeypatch.setattr("ditkit.sampling.request.draw", lambda *_, **__: pytest.fail("it draws"))
    assert main(["sample", "--model", str(run), *words]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 2
