"""What a checkpoint says about itself is believed before any guess, and what was guessed is said."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from autoencoders import write_kl
from diffusers_folder import write_stock
from foreign import Meta, Original
from torch import Tensor

from ditkit.autoencoders.files import settings
from ditkit.checkpoint.loading import build_network
from ditkit.cli import complete
from ditkit.errors import CheckpointError, UsageError
from ditkit.interop.base import ForeignModel
from ditkit.interop.class_names import read_class_names
from ditkit.interop.detect import read_foreign
from ditkit.interop.projects import PROJECTS

HEADS = {"model": {"heads": 4}}
TIMES = torch.tensor([0.2, 0.9])
CLASSES = torch.tensor([1, 3])
X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(7))
SIT = {"model": "SiT-S/4", "path_type": "Linear", "prediction": "velocity", "vae": "ema", "image_size": 64}
REPA = {"model": "SiT-XL/2", "path_type": "linear", "prediction": "v", "enc_type": "dinov2-vit-b", "resolution": 64}
LIGHTNING = {"model": {"model_type": "LightningDiT-S/2", "in_chans": 4}, "data": {"image_size": 64}}
LIGHTNING |= {"transport": {"path_type": "Linear", "prediction": "velocity"}}


def saved(network: Meta, path: Path, **beside: Any) -> Path:
    """As a training script writes it: both weights and what else it keeps."""
    state = network.state_dict()
    torch.save({"model": state, "ema": state, "opt": {"state": {}, "param_groups": [{"lr": 1.0}]}, **beside}, path)
    return path


def namespace(**arguments: Any) -> argparse.Namespace:
    return argparse.Namespace(num_heads=4, num_classes=3, **arguments)


def output(foreign: ForeignModel, time_N: Tensor = TIMES) -> Tensor:
    network = build_network(foreign.info.config, len(foreign.info.labels))
    network.load_state_dict(foreign.ema)
    with torch.no_grad():
        return network.eval()(X, time_N, CLASSES)


def assert_predicts(foreign: ForeignModel, expected: Tensor, process: str, objective: str) -> None:
    diffusion = foreign.info.config.diffusion
    assert (diffusion.process, diffusion.objective) == (process, objective)
    time_N = TIMES if process == "flow" else TIMES * 1000
    assert expected.std() > 0.3 and (output(foreign, time_N) - expected).abs().max() < 1e-5


def theirs(network: Meta, time_N: Tensor) -> Tensor:
    """The channels that are used."""
    with torch.no_grad():
        return network.eval()(X, time_N, CLASSES)[:, :4]


# --- what it predicts


@pytest.mark.parametrize("twice", [True, False])
@pytest.mark.parametrize("name", ["0400000.pt", "dit-vs-sit-ablation.pt"])
def test_a_sit_is_known_by_its_arguments_whatever_its_channels_and_name(tmp_path: Path, twice: bool, name: str) -> None:
    sit = Meta(classes=3, twice=twice)
    foreign = read_foreign(saved(sit, tmp_path / name, args=namespace(**SIT)))
    assert foreign.origin == "SiT" and not foreign.notes
    assert_predicts(foreign, -theirs(sit, 1 - TIMES), "flow", "velocity")


def test_a_sit_that_predicts_noise_is_a_flow_that_predicts_noise(tmp_path: Path) -> None:
    sit = Meta(classes=3)
    foreign = read_foreign(saved(sit, tmp_path / "a.pt", args=vars(namespace(**{**SIT, "prediction": "noise"}))))
    assert_predicts(foreign, theirs(sit, 1 - TIMES), "flow", "epsilon")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({**SIT, "path_type": "GVP"}, "a SiT of the GVP path that predicts velocity"),
        ({**SIT, "path_type": "VP"}, "the VP path"),
        ({**SIT, "prediction": "score"}, "predicts score"),
        ({**REPA, "path_type": "cosine"}, "a REPA's SiT of the cosine path"),
        ({"noise_schedule": "squaredcos_cap_v2", "model": "DiT-S/2"}, "noise schedule squaredcos_cap_v2"),
    ],
)
def test_what_ditkit_does_not_have_is_refused_by_name(tmp_path: Path, arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(CheckpointError, match=word) as caught:
        read_foreign(saved(Meta(classes=3), tmp_path / "SiT.pt", args=namespace(**arguments)))
    assert "ditkit has" in str(caught.value.hint)


def test_repas_time_runs_as_ditkits(tmp_path: Path) -> None:
    repa = Meta(classes=3, twice=False)
    foreign = read_foreign(saved(repa, tmp_path / "0400000.pt", args=namespace(**REPA), steps=400_000))
    assert foreign.origin == "REPA's SiT" and foreign.info.step == 400_000
    assert_predicts(foreign, theirs(repa, TIMES), "flow", "velocity")


def test_a_lightningdit_of_plain_blocks_is_read_as_its_transport_says(tmp_path: Path) -> None:
    network = Meta(classes=3, twice=False)
    foreign = read_foreign(saved(network, tmp_path / "a.pt", config={**LIGHTNING, "num_classes": 3}), HEADS)
    assert foreign.origin == "LightningDiT"
    assert_predicts(foreign, -theirs(network, 1 - TIMES), "flow", "velocity")
    with pytest.raises(CheckpointError, match="latent_norm"):
        read_foreign(saved(network, tmp_path / "a.pt", config={**LIGHTNING, "latent_norm": True}), HEADS)


@pytest.mark.parametrize(
    ("name", "word"),
    [("feat_rope.freqs_cos", "rotary"), ("blocks.0.mlp.w12.weight", "SwiGLU"), ("mask_token", "MaskDiT")],
)
def test_blocks_of_another_kind_are_named(tmp_path: Path, name: str, word: str) -> None:
    torch.save({**Meta().state_dict(), name: torch.ones(4)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=word):
        read_foreign(tmp_path / "a.pt", HEADS)


def test_fewer_modulations_are_named(tmp_path: Path) -> None:
    state = Meta(depth=1).state_dict()
    for name in ("weight", "bias"):
        state[f"blocks.0.adaLN_modulation.1.{name}"] = state[f"blocks.0.adaLN_modulation.1.{name}"][: 4 * 64]
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="4 modulations a block instead of 6"):
        read_foreign(tmp_path / "a.pt", HEADS)


def test_where_nothing_is_told_the_assumption_is_said_and_the_user_decides(tmp_path: Path) -> None:
    bare = Meta(classes=3, twice=False)
    path = bare.save(tmp_path / "weights.pt")
    assumed = read_foreign(path, HEADS)
    assert "assumed: it predicts noise; if it is a flow: --project sit" in assumed.notes[0]
    assert_predicts(assumed, theirs(bare, TIMES * 1000), "diffusion", "epsilon")
    assert_predicts(read_foreign(path, HEADS, "dit"), theirs(bare, TIMES * 1000), "diffusion", "epsilon")
    assert_predicts(read_foreign(path, HEADS, "sit"), -theirs(bare, 1 - TIMES), "flow", "velocity")
    assert_predicts(read_foreign(path, HEADS, "repa"), theirs(bare, TIMES), "flow", "velocity")
    with pytest.raises(UsageError, match="no network of original"):
        read_foreign(path, HEADS, "original")
    named = read_foreign(bare.save(tmp_path / "SiT-S-4.pt"), HEADS)
    assert named.origin == "SiT" and "by its name; if" in named.notes[0]


def test_a_network_called_dit_may_be_a_flow_unless_something_says_otherwise(tmp_path: Path) -> None:
    once = Meta(classes=3, twice=False)
    for arguments, said in (({}, True), ({"diffusion_steps": 1000}, False), ({"prediction": "eps"}, False)):
        path = saved(once, tmp_path / "a.pt", args=namespace(model="DiT-S/2", vae="ema", **arguments))
        assert ("it predicts noise; if it is a flow" in " ".join(read_foreign(path).notes)) == said


def test_half_of_the_channels_unused_is_a_sits_or_the_users_word(tmp_path: Path) -> None:
    network: Any = Meta(classes=3)
    for parameter in network.final_layer.linear.parameters():
        parameter.data.view(4, 8, -1)[:, 4:] = 0
    path = network.save(tmp_path / "a.pt")
    assumed = read_foreign(path, HEADS)
    assert assumed.origin == "SiT" and "half of its output channels were never used" in assumed.notes[0]
    assert_predicts(read_foreign(path, HEADS, "dit"), theirs(network, TIMES * 1000), "diffusion", "epsilon")


def test_projectors_are_repas_and_are_left_out(tmp_path: Path) -> None:
    network = Meta(classes=3, twice=False)
    torch.save({**network.state_dict(), "projectors.0.0.weight": torch.ones(2, 2)}, tmp_path / "a.pt")
    foreign = read_foreign(tmp_path / "a.pt", HEADS)
    assert foreign.origin == "REPA's SiT" and "projectors.0.0.weight" in " ".join(foreign.notes)
    assert_predicts(foreign, theirs(network, TIMES), "flow", "velocity")


@pytest.mark.parametrize("prediction", ["v_prediction", "pred_v"])
def test_other_predictions_of_a_diffusion_are_believed(tmp_path: Path, prediction: str) -> None:
    path = saved(Meta(classes=3), tmp_path / "a.pt", config={"heads": 4, "prediction_type": prediction})
    foreign = read_foreign(path)
    assert_predicts(foreign, theirs(Meta(classes=3), TIMES * 1000), "diffusion", "v")


def test_a_noise_schedule_that_the_file_holds_is_read_or_refused(tmp_path: Path) -> None:
    network = {f"model.{name}": value for name, value in Meta(classes=3).state_dict().items()}
    torch.save({"state_dict": {**network, "betas": torch.linspace(2e-4, 0.03, 400)}}, tmp_path / "a.pt")
    diffusion = read_foreign(tmp_path / "a.pt", HEADS).info.config.diffusion
    assert (diffusion.timesteps, diffusion.beta_start, diffusion.beta_end) == (400, 2e-4, 0.03)
    torch.save({"ema": {**network, "betas": torch.linspace(0.01, 0.2, 400) ** 2}}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="betas of its own, which are not linear"):
        read_foreign(tmp_path / "a.pt", HEADS)


def test_a_network_without_a_label_table_has_no_labels(tmp_path: Path) -> None:
    state = Meta().state_dict()
    del state["y_embedder.embedding_table.weight"]
    torch.save(state, tmp_path / "a.pt")
    foreign = read_foreign(tmp_path / "a.pt", HEADS)
    assert foreign.info.labels == () and foreign.ema["label.weight"].shape == (1, 64)
    assert "as it has no label table" in " ".join(foreign.notes)


def test_a_stated_guidance_is_the_models(tmp_path: Path) -> None:
    foreign = read_foreign(saved(Meta(classes=3), tmp_path / "a.pt", args=namespace(**SIT, cfg_scale=1.5)))
    assert foreign.info.config.sample.guidance == 1.5


def test_a_prediction_without_its_path_is_asked_about(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="predicts velocity, but not on which path") as caught:
        read_foreign(saved(Meta(classes=3), tmp_path / "a.pt", args=namespace(prediction="velocity")))
    assert "--project" in str(caught.value.hint)


def test_a_last_layer_of_zeros_is_no_sign_of_a_sit(tmp_path: Path) -> None:
    dit: Any = Meta(classes=3)
    for parameter in dit.final_layer.linear.parameters():
        parameter.data.zero_()
    assert read_foreign(dit.save(tmp_path / "a.pt"), HEADS).origin == "Meta's DiT"


def test_settings_of_the_diffusion_are_believed(tmp_path: Path) -> None:
    dit = Meta(classes=3)
    arguments = namespace(model="DiT-S/2", predict_xstart=True, diffusion_steps=500, lr=2e-4)
    config = read_foreign(saved(dit, tmp_path / "a.pt", args=arguments)).info.config
    assert (config.diffusion.objective, config.diffusion.timesteps) == ("x0", 500)
    assert (config.diffusion.beta_start, config.diffusion.beta_end) == (2e-4, 0.04)
    assert config.optim.lr == 2e-4


# --- heads


def test_heads_are_those_that_the_file_states_where_they_fit_its_width(tmp_path: Path) -> None:
    network = Meta(classes=3, width=384, depth=1, heads=12)

    def heads(**arguments: Any) -> tuple[int, str]:
        foreign = read_foreign(saved(network, tmp_path / "a.pt", args=argparse.Namespace(num_classes=3, **arguments)))
        return foreign.info.config.model.heads, " ".join(foreign.notes)

    assert heads(num_heads=12, model="DiT-S/2", vae="ema") == (12, "")
    assert heads(model="DiT-S/2", vae="ema") == (6, "")
    found, note = heads(model="DiT-XL/2", vae="ema")  # an argument left at its default
    assert found == 6 and "6 attention heads, as usual at width 384" in note
    assert heads(num_heads=7, vae="ema")[0] == 6


def test_an_unusual_width_is_asked_about_with_numbers_that_divide_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="its width 256 is no usual one") as caught:
        read_foreign(Meta(classes=3, width=256, depth=1).save(tmp_path / "a.pt"))
    assert "--set model.heads=16 (2, 4, 8, 16 are possible)" in str(caught.value.hint)


# --- classes


@pytest.mark.parametrize("arguments", [{"num_classes": 10}, {"class_dropout_prob": 0}, {"cfg_prob": 0.0}])
def test_a_network_that_never_dropped_a_label_keeps_its_last_class(tmp_path: Path, arguments: dict[str, Any]) -> None:
    network = Meta(classes=9)  # and one row more, which is the tenth
    foreign = read_foreign(saved(network, tmp_path / "a.pt", args=argparse.Namespace(num_heads=4, **arguments)))
    config = foreign.info.config
    assert foreign.info.labels == tuple("0123456789")
    assert (config.diffusion.label_drop, config.sample.guidance) == (0, 1)
    assert "never dropped in training" in " ".join(foreign.notes)
    assert torch.equal(foreign.ema["label.weight"][10], torch.zeros(64))
    assert torch.equal(foreign.ema["label.weight"][:10], network.state_dict()["y_embedder.embedding_table.weight"])


def test_without_a_word_on_classes_the_last_row_is_no_label_and_that_is_said(tmp_path: Path) -> None:
    path = Meta(classes=9).save(tmp_path / "a.pt")
    foreign = read_foreign(path, HEADS)
    assert len(foreign.info.labels) == 9 and "9 classes, and the last row" in " ".join(foreign.notes)
    told = read_foreign(path, {**HEADS, "diffusion": {"label_drop": 0}})
    assert len(told.info.labels) == 10 and "last row" not in " ".join(told.notes)
    other = saved(Meta(classes=9), tmp_path / "b.pt", args=argparse.Namespace(num_classes=1000, num_heads=4))
    assert "although it says 1000 classes" in " ".join(read_foreign(other).notes)


def test_one_row_is_a_network_without_labels(tmp_path: Path) -> None:
    foreign = read_foreign(Meta(classes=0).save(tmp_path / "a.pt"), HEADS)
    assert foreign.info.labels == () and foreign.info.config.sample.guidance == 1


# --- images


@pytest.mark.parametrize("channels", [1, 3])
def test_one_and_three_channels_are_pixels(tmp_path: Path, channels: int) -> None:
    foreign = read_foreign(Meta(classes=3, channels=channels).save(tmp_path / "a.pt"), HEADS)
    config = foreign.info.config
    assert config.autoencoder.name == "pixel" and foreign.info.latents is None
    assert config.shape == (channels, 8, 8) and config.data.channels == channels


def test_latents_of_grey_images_are_those_of_an_autoencoder_of_grey_images(tmp_path: Path) -> None:
    grey = write_kl(tmp_path / "grey", channels=4, in_channels=1, out_channels=1)
    path = Meta(classes=3).save(tmp_path / "a.pt")
    assert read_foreign(path, {**HEADS, "autoencoder": settings(str(grey))}).info.config.data.channels == 1


def test_other_latents_need_their_autoencoder(tmp_path: Path) -> None:
    path = Meta(classes=3, channels=16).save(tmp_path / "a.pt")
    with pytest.raises(UsageError, match="models 16 channels, and does not say whose latents") as caught:
        read_foreign(path, HEADS)
    assert "--autoencoder" in str(caught.value.hint)
    tiny = {"name": "tiny", "source": "madebyollin/taesd3", "channels": 16, "shrink": 8}
    assert read_foreign(path, {**HEADS, "autoencoder": tiny}).info.config.data.image_size == (64, 64)
    for wrong in ({**tiny, "channels": 4}, {"name": "pixel"}):
        with pytest.raises(UsageError, match="models 16 channels"):
            read_foreign(path, {**HEADS, "autoencoder": wrong})


@pytest.mark.parametrize(
    ("arguments", "source"),
    [
        ({"vae": "mse"}, "stabilityai/sd-vae-ft-mse"),
        ({"vae": "stabilityai/sd-vae-ft-mse"}, "stabilityai/sd-vae-ft-mse"),
        ({"vae": "ema"}, "stabilityai/sd-vae-ft-ema"),
        ({"autoencoder": "/models/taesd/"}, "madebyollin/taesd"),
        ({"model": "DiT-S/2"}, "stabilityai/sd-vae-ft-ema"),
    ],
)
def test_the_autoencoder_is_the_one_that_the_file_states(
    tmp_path: Path, arguments: dict[str, Any], source: str
) -> None:
    foreign = read_foreign(saved(Meta(classes=3), tmp_path / "a.pt", args=namespace(**arguments)))
    assert foreign.info.config.autoencoder.source == source
    assert ("latents of sd-vae-ft-ema" in " ".join(foreign.notes)) == ("model" in arguments)


def test_an_autoencoder_that_is_not_known_and_another_size_are_asked_about(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="models 4 channels of vavae_f16"):
        read_foreign(saved(Meta(classes=3), tmp_path / "a.pt", args=namespace(model="DiT-S/2", vae="vavae_f16")))
    with pytest.raises(UsageError, match="of stabilityai/sdxl-vae") as caught:
        read_foreign(saved(Meta(classes=3), tmp_path / "a.pt", args=namespace(vae_path="stabilityai/sdxl-vae")))
    assert "--autoencoder stabilityai/sdxl-vae" in str(caught.value.hint)
    with pytest.raises(UsageError, match="models 3 channels of vq-f4"):
        read_foreign(saved(Meta(classes=3, channels=3), tmp_path / "a.pt", args=namespace(vae="vq-f4")))
    with pytest.raises(UsageError, match="images have 128 pixels a side, and its network models 8"):
        read_foreign(saved(Meta(classes=3), tmp_path / "a.pt", args=namespace(downsample_ratio=16)))
    path = saved(Meta(classes=3, channels=3), tmp_path / "a.pt", args=namespace(model="DiT-S/2", image_size=[32, 32]))
    with pytest.raises(UsageError, match="32 pixels a side, and its network models 8: that is not pixels"):
        read_foreign(path)
    assert read_foreign(path, {"autoencoder": {"name": "pixel"}}).info.config.data.image_size == (8, 8)


def test_without_a_table_of_positions_the_size_is_stated_or_asked_for(tmp_path: Path) -> None:
    network = Meta(classes=3)
    state = {name: value for name, value in network.state_dict().items() if name != "pos_embed"}
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(UsageError, match="how large its images are"):
        read_foreign(tmp_path / "a.pt", HEADS)
    typed = read_foreign(tmp_path / "a.pt", {**HEADS, "data": {"image_size": 64}})
    torch.save({"ema": state, "args": namespace(model="DiT-S/2", image_size=64)}, tmp_path / "b.pt")
    for foreign in (typed, read_foreign(tmp_path / "b.pt")):
        assert foreign.info.config.shape == (4, 8, 8)


def test_another_autoencoder_of_a_pipeline_has_to_be_of_the_same_latents(tmp_path: Path) -> None:
    stock = write_stock(tmp_path / "stock")
    elsewhere = write_kl(tmp_path / "elsewhere", channels=4, seed=1)
    foreign = read_foreign(stock, {"autoencoder": settings(str(elsewhere))})
    assert foreign.info.latents and foreign.info.latents.autoencoder == ""
    assert foreign.info.config.autoencoder.source == str(elsewhere)
    for word in ("pixel", "taesd", str(write_kl(tmp_path / "other", channels=3))):
        with pytest.raises(UsageError, match="models other latents"):
            read_foreign(stock, {"autoencoder": settings(word)})
    with pytest.raises(UsageError, match="--project is for weights that do not say"):
        read_foreign(stock, project="dit")


# --- the original


def test_a_bare_state_dict_of_its_digits_has_ten_and_its_timesteps(tmp_path: Path) -> None:
    digits = Original(size=(28, 28), channels=1, width=288, depth=1, patch=7, rows=10)
    torch.save(digits.state_dict(), tmp_path / "a.pt")
    foreign = read_foreign(tmp_path / "a.pt")
    assert len(foreign.info.labels) == 10 and foreign.info.config.diffusion.timesteps == 399
    assert foreign.notes[:3] == (
        "assumed: num_timesteps=400; if not: --set diffusion.timesteps=N-1",
        "assumed: cfg_dropout_rate=0.0; if not: --set diffusion.label_drop=N",
        "assumed: num_heads=6; if not: --set model.heads=N",
    )
    typed = {"model": {"heads": 6}, "diffusion": {"timesteps": 399, "label_drop": 0}}
    told = read_foreign(tmp_path / "a.pt", typed)
    assert not any("assumed" in note for note in told.notes) and told.info.config == foreign.info.config


def test_a_bare_state_dict_of_images_that_are_no_squares_is_asked_about(tmp_path: Path) -> None:
    torch.save(Original(size=(8, 12)).state_dict(), tmp_path / "a.pt")
    with pytest.raises(UsageError, match="24 positions") as caught:
        read_foreign(tmp_path / "a.pt", HEADS)
    assert "--set data.image_size=96x64" in str(caught.value.hint)
    assert read_foreign(tmp_path / "a.pt", {**HEADS, "data": {"image_size": "8x12"}}).info.config.shape == (3, 8, 12)


def test_two_classes_in_colour_are_faces_only_where_something_says_so(tmp_path: Path) -> None:
    (tmp_path / "celeba").mkdir()
    for path, labels in ((tmp_path / "ckpt.pt", ("0", "1")), (tmp_path / "celeba/ckpt.pt", ("female", "male"))):
        Original().save(path)
        foreign = read_foreign(path)
        assert foreign.info.labels == labels and foreign.info.config.data.name == ("folder", "celeba")[labels[0] > "0"]
    torch.save(Original().state_dict(), tmp_path / "bare.pt")
    changed = read_foreign(tmp_path / "bare.pt", {**HEADS, "diffusion": {"label_drop": 0}})
    assert len(changed.info.labels) == 3 and changed.info.config.sample.guidance == 1


# --- names of classes


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("names.txt", "cat\nred panda\n\ndog\n"),
        ("names.txt", "\ufeff1: red panda\n2: dog\n0: cat"),
        ("names.csv", "0,cat\n1,red panda\n2,dog\n"),
        ("names.json", json.dumps(["cat", "red panda", "dog"])),
        ("names.json", json.dumps({"1": "red panda", "0": "cat", "2": "dog"})),
        ("names.json", json.dumps({"cat": 0, "dog": 2, "red panda": 1})),
        ("names.json", json.dumps({"0": ["n1", "cat"], "1": ["n2", "red panda"], "2": ["n3", "dog"]})),
    ],
)
def test_classes_are_named_by_files_of_any_usual_form(tmp_path: Path, file: str, content: str) -> None:
    (tmp_path / file).write_text(content, encoding="utf-8")
    assert read_class_names(tmp_path / file, 3) == ("cat", "red panda", "dog")


def test_classes_are_named_by_a_folder_as_image_folder_sorts_it_and_by_words(tmp_path: Path) -> None:
    for name in ("b", "Z", "a", ".cache"):
        (tmp_path / name).mkdir()
    (tmp_path / "file.txt").touch()
    assert read_class_names(tmp_path, 3) == ("Z", "a", "b")
    assert read_class_names("female,male", 2) == ("female", "male")


@pytest.mark.parametrize(
    ("content", "word"),
    [("a\nb\n", "has 2 names"), ("a\na\nb", "two classes are called 'a'"), ("a\nb\nc\td", "cannot be the name")],
)
def test_names_that_cannot_be_are_refused(tmp_path: Path, content: str, word: str) -> None:
    (tmp_path / "names.txt").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=word):
        read_class_names(tmp_path / "names.txt", 3)
    with pytest.raises(UsageError, match="no file or folder"):
        read_class_names(tmp_path / "nothing.txt", 3)


def test_the_command_line_knows_the_projects() -> None:
    assert complete.PROJECTS == PROJECTS
