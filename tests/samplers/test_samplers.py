"""Every sampler against exact answers: a known mixture of Gaussians, and a point, whose denoisers are closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from exact import ExactNetwork, Mixture
from platforms import NoFloat64
from torch import Tensor

from ditkit.config import DiffusionConfig, SampleConfig
from ditkit.errors import UsageError
from ditkit.objectives.contract import PREDICTIONS, Process, from_clean_and_noise, over_image, process_of
from ditkit.registry import SAMPLERS
from ditkit.samplers.contract import open_scheduler, set_steps
from ditkit.sampling import generate
from ditkit.sampling.generate import draw

CONFIGS = {
    "diffusion": DiffusionConfig(process="diffusion", objective="epsilon"),
    "flow": DiffusionConfig(process="flow", objective="velocity"),
}


def _kind_of(name: str) -> str:
    """The process that a sampler takes."""
    kinds = []
    for kind, config in CONFIGS.items():
        try:
            open_scheduler(name, process_of(config))
        except UsageError:
            continue
        kinds.append(kind)
    assert kinds, f"sampler {name} takes neither process"
    return kinds[0]


KINDS = {name: _kind_of(name) for name in SAMPLERS.names()}
DETERMINISTIC = [name for name in KINDS if name != "ddpm"]
every_sampler = pytest.mark.parametrize("name", KINDS)
STEPS = {"ddpm": 500, "ddim": 250, "flow-euler": 250}  # first-order methods; 50 suffice for the others


def _draw(
    network, config: DiffusionConfig, name: str, steps: int, *, images: int = 4, side: int = 50, **more
) -> Tensor:
    return draw(
        network,
        config,
        shape=(2, side, side),
        labels=[0] * images,
        null_label=0,
        seeds=range(images),
        settings=SampleConfig(sampler=name, steps=steps, guidance=1, clamp=more.pop("clamp", False)),
        device="cpu",
        **more,
    )


ALLOWANCE = 0.006  # for the discretisation; the coordinates have variances 0.44 and 0.37


def _faults(image_BCHW: Tensor) -> list[str]:
    """Where mean or covariance of the drawn points leave five standard errors and the allowance."""
    point_ND = image_BCHW.movedim(1, -1).reshape(-1, 2)
    off_ND = point_ND - Mixture().mean()
    product_NDD = off_ND[:, :, None] * off_ND[:, None, :]
    found = []
    for what, value, expected in (
        ("mean", off_ND, torch.zeros(2)),
        ("covariance", product_NDD, Mixture().covariance()),
    ):
        error = (value.mean(0) - expected).abs()
        allowed = 5 * value.std(0) / len(point_ND) ** 0.5 + ALLOWANCE
        if (error > allowed).any() or not error.isfinite().all():
            found.append(f"{what} off by {error.tolist()}, allowed {allowed.tolist()}")
    return found


@every_sampler
def test_every_sampler_reproduces_the_mean_and_covariance_of_a_known_mixture(name):
    config = CONFIGS[KINDS[name]]
    assert _faults(_draw(ExactNetwork(config), config, name, STEPS.get(name, 50))) == []


@every_sampler
@pytest.mark.parametrize("late", [-40, 40])
def test_timesteps_that_are_off_by_four_percent_fail_the_same_check(name, late):
    config = CONFIGS[KINDS[name]]
    assert _faults(_draw(ExactNetwork(config, late), config, name, min(STEPS.get(name, 50), 250)))


@every_sampler
def test_stopping_early_fails_the_same_check(name):
    config = CONFIGS[KINDS[name]]
    estimates: list[Tensor] = []
    _draw(ExactNetwork(config), config, name, 50, on_step=lambda *step: estimates.append(step[2]))
    assert _faults(estimates[len(estimates) * 3 // 5])


def _point_faults(name: str, steps: int) -> list[str]:
    """Draws a data set of one point, x_0 being known: the noise left in x_t must be what the process says at t."""
    config = CONFIGS[KINDS[name]]
    process, point = process_of(config), 0.6
    left: list[Tensor] = []

    def network(x_BCHW: Tensor, timestep_B: Tensor, label_B: Tensor) -> Tensor:
        signal, noise = (over_image(value_B) for value_B in process.signal_noise(timestep_B))
        clean_BCHW = torch.full_like(x_BCHW, point)
        left.append((x_BCHW - signal * clean_BCHW) / noise)
        return from_clean_and_noise(config.objective, clean_BCHW, left[-1], signal, noise)

    image_BCHW = _draw(network, config, name, steps, images=2)
    found = [] if (image_BCHW - point).abs().max() < 1e-4 else [f"ends up to {(image_BCHW - point).abs().max()} away"]
    start_BCHW = torch.stack([torch.randn(2, 50, 50, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)])
    if not torch.allclose(left[0], start_BCHW, atol=0.02, rtol=0.01):  # the last 1 % of the signal is missing
        found.append("starts elsewhere than at the noisiest timestep")
    for call, eps_BCHW in enumerate(left):
        if name in DETERMINISTIC:  # the same noise all the way
            fault = not torch.allclose(eps_BCHW, left[0], atol=2e-3, rtol=1e-3)
        else:  # fresh noise, whose power is one: 10,000 values, relative standard error of the variance 1.4 %
            fault = abs(eps_BCHW.var().item() - 1) > 0.07
        found += [f"call {call}: another noise"] if fault else []
    return found


@every_sampler
@pytest.mark.parametrize("steps", [1, 2, 7, 30])
def test_a_point_is_reached_exactly_along_the_processes_own_noise_levels(name, steps):
    assert _point_faults(name, steps) == []


@every_sampler
def test_telling_the_network_a_neighbouring_timestep_fails_that_check(name, monkeypatch):
    """Off by one of the T timesteps of a diffusion, by one of the sampler's steps on a flow, which has no others."""
    steps = 30 if name in DETERMINISTIC else 250
    assert _point_faults(name, steps) == []

    def late(*given) -> Tensor:
        timestep_N = set_steps(*given)
        if KINDS[name] == "diffusion":
            return (timestep_N - 1).clamp(min=0)
        return torch.cat([timestep_N[1:], timestep_N[-1:] / 2])

    monkeypatch.setattr(generate, "set_steps", late)
    assert _point_faults(name, steps)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind == "diffusion"])
def test_betas_and_abar_that_are_indexed_off_by_one_fail_that_check(name, monkeypatch):
    right = Process.betas
    monkeypatch.setattr(Process, "betas", lambda self: np.append(right(self)[1:], self.beta_end))
    assert _point_faults(name, 30 if name in DETERMINISTIC else 1000)


@every_sampler
@pytest.mark.parametrize("steps", [5, 20, 100])
def test_an_error_of_the_predicted_image_is_not_magnified_on_the_way(name, steps):
    """With diffusers' own noise levels flow-heun's last corrector would throw it 1 / (2 * 0.001 * steps) times off."""
    config = replace(CONFIGS[KINDS[name]], objective="x0")
    process, point, error = process_of(config), 0.6, 0.05
    thrown: list[float] = []
    start_BCHW = torch.randn(2, 50, 50, generator=torch.Generator().manual_seed(0))[None]

    def network(x_BCHW: Tensor, timestep_B: Tensor, label_B: Tensor) -> Tensor:
        signal, noise = (over_image(value_B) for value_B in process.signal_noise(timestep_B))
        thrown.append((x_BCHW - signal * point - noise * start_BCHW).abs().max().item())
        return torch.full_like(x_BCHW, point + error * (-1) ** len(thrown))

    _draw(network, config, name, steps, images=1)
    assert max(thrown) < (2 * error if name in DETERMINISTIC else 10)


@every_sampler
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_any_objective_works_with_any_sampler_of_its_process(name, prediction):
    config = replace(CONFIGS[KINDS[name]], objective=prediction)
    other = replace(config, objective="x0")
    image, same = (_draw(ExactNetwork(each), each, name, 20, images=1, side=16) for each in (config, other))
    # Epsilon on a flow starts from no information on x_0, and says so: a little way off the others.
    tolerance = 0.05 if (prediction, config.process) == ("epsilon", "flow") else 2e-3
    assert (image - same).abs().quantile(0.95) < tolerance


def test_an_epsilon_model_of_a_flow_still_reproduces_the_mixture():
    config = replace(CONFIGS["flow"], objective="epsilon")
    assert _faults(_draw(ExactNetwork(config), config, "flow-heun", 50)) == []


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind == "flow"])
def test_an_epsilon_model_of_a_flow_survives_an_error_where_there_is_hardly_any_signal(name):
    """At noise level 0.999 the estimate of x_0 is a thousand times the error of the noise off."""
    config = replace(CONFIGS["flow"], objective="epsilon")

    def network(off: float):
        def call(x_BCHW: Tensor, timestep_B: Tensor, label_B: Tensor) -> Tensor:
            noisiest = timestep_B[0] > 950
            return ExactNetwork(config)(x_BCHW, timestep_B, label_B) + (off if noisiest else 0)

        return call

    right, wrong = (_draw(network(off), config, name, 20, images=1) for off in (0, 0.02))
    assert (right.mean() - wrong.mean()).abs() < 0.05


@every_sampler
@pytest.mark.parametrize("steps", [1, 3, 30, 61, 103, 1000])
def test_any_number_of_steps_descends_from_the_noisiest_timestep_to_the_last(name, steps):
    process = process_of(CONFIGS[KINDS[name]])
    scheduler = open_scheduler(name, process)
    timestep_N = set_steps(scheduler, process, steps)
    assert len(timestep_N) == (2 * steps - 1 if name == "flow-heun" else steps)
    assert timestep_N[0].item() == pytest.approx(999, abs=1e-3)
    falls_N = timestep_N.diff()
    assert (falls_N < 0).sum() == steps - 1 and (falls_N <= 0).all()
    assert 0 <= timestep_N[-1] <= 1000 / steps
    if hasattr(scheduler, "sigmas"):
        assert scheduler.sigmas[-1] == 0 and (scheduler.sigmas[:-1] > 0).all()


@every_sampler
def test_a_sampler_of_the_other_process_is_refused_with_one_that_fits(name):
    other = {"diffusion": "flow", "flow": "diffusion"}[KINDS[name]]
    process = process_of(CONFIGS[other])
    with pytest.raises(UsageError) as caught:
        open_scheduler(name, process)
    assert caught.value.message == f"sampler '{name}' needs a {KINDS[name]} process, this model is a {other}"
    suggested = (caught.value.hint or "").removeprefix("use --sampler ")
    open_scheduler(suggested, process)


def test_more_steps_than_timesteps_are_refused():
    config = replace(CONFIGS["diffusion"], timesteps=100)
    with pytest.raises(UsageError, match="101 steps are more than the 100 timesteps") as caught:
        _draw(ExactNetwork(config), config, "dpmpp", 101)
    assert caught.value.hint == "use --steps 100 or fewer"


@every_sampler
@pytest.mark.parametrize("timesteps", [20, 4000])
def test_other_numbers_of_timesteps_than_1000_work(name, timesteps):
    config = replace(CONFIGS[KINDS[name]], timesteps=timesteps, beta_end=0.02 if timesteps == 4000 else 0.6)
    seen: list[float] = []

    def network(x_BCHW: Tensor, timestep_B: Tensor, label_B: Tensor) -> Tensor:
        seen.append(timestep_B[0].item())
        return ExactNetwork(config)(x_BCHW, timestep_B, label_B)

    assert _draw(network, config, name, 20, images=1).abs().max() < 3
    assert max(seen) == pytest.approx(timesteps - 1 if config.process == "diffusion" else 0.999 * timesteps)


def test_ddim_is_the_ddim_of_diffusers_where_that_one_steps_to_what_it_evaluates():
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    config = CONFIGS["diffusion"]
    network = ExactNetwork(config)
    theirs = DDIMScheduler(timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True)
    theirs.set_timesteps(50)
    x_BCHW = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))[None]
    for timestep in theirs.timesteps:
        output = network(x_BCHW, timestep.float()[None], torch.zeros(1))
        x_BCHW = theirs.step(output, int(timestep), x_BCHW).prev_sample  # pyright: ignore
    ours = _draw(network, config, "ddim", 50, images=1, side=8)
    torch.testing.assert_close(ours, x_BCHW, atol=2e-3, rtol=0)


def test_ddpm_uses_the_learned_variance_and_every_other_sampler_drops_it():
    config = replace(CONFIGS["diffusion"], objective="learned-sigma")
    plain = replace(config, objective="epsilon")

    def network(range_of_variance: float):
        def call(x_BCHW: Tensor, timestep_B: Tensor, label_B: Tensor) -> Tensor:
            mean = ExactNetwork(plain)(x_BCHW, timestep_B, label_B)
            return torch.cat([mean, torch.full_like(mean, range_of_variance)], dim=1)

        return call

    for name in (name for name, kind in KINDS.items() if kind == "diffusion"):
        small, large = (_draw(network(value), config, name, 30, images=1, side=8) for value in (-1, 1))
        torch.testing.assert_close(small, _draw(ExactNetwork(plain), plain, name, 30, images=1, side=8))
        assert torch.equal(small, large) == (name != "ddpm")


@every_sampler
def test_clamping_keeps_every_estimate_of_the_image_in_range(name):
    config = CONFIGS[KINDS[name]]
    estimates: list[Tensor] = []

    def network(x_BCHW: Tensor, timestep_B: Tensor, label_B: Tensor) -> Tensor:
        return 3 * ExactNetwork(config)(x_BCHW, timestep_B, label_B)

    image = _draw(network, config, name, 10, images=1, clamp=True, on_step=lambda *step: estimates.append(step[2]))
    assert max(estimate.abs().max() for estimate in estimates) <= 1 and image.isfinite().all()
    estimates.clear()
    _draw(network, config, name, 10, images=1, on_step=lambda *step: estimates.append(step[2]))
    assert max(estimate.abs().max() for estimate in estimates) > 1


@every_sampler
def test_clamping_is_drawing_from_a_network_that_never_leaves_the_range(name):
    config = replace(CONFIGS[KINDS[name]], objective="x0")
    paths: list[list[Tensor]] = []
    for value, clamp in ((3.0, True), (1.0, False)):
        path: list[Tensor] = []

        def network(x_BCHW: Tensor, timestep_B: Tensor, label_B: Tensor, value=value, path=path) -> Tensor:
            path.append(x_BCHW)
            return torch.full_like(x_BCHW, value)

        _draw(network, config, name, 4, images=1, clamp=clamp)
        paths.append(path)
    torch.testing.assert_close(torch.stack(paths[0]), torch.stack(paths[1]))


def test_a_process_has_the_same_noise_levels_in_sampler_and_training():
    for timesteps in (50, 1000):
        process = Process(kind="diffusion", timesteps=timesteps, beta_start=1e-4, beta_end=2e-2)
        signal_B, _ = process.signal_noise(torch.arange(timesteps))
        for name in (name for name, kind in KINDS.items() if kind == "diffusion"):
            theirs_B = open_scheduler(name, process).alphas_cumprod
            torch.testing.assert_close(theirs_B.sqrt(), signal_B, rtol=1e-4, atol=0)


@pytest.mark.parametrize("clamp", [False, True])
@every_sampler
def test_drawing_needs_no_float64_on_the_device(name, clamp):
    calls: list[int] = []
    settings = SampleConfig(sampler=name, steps=6, guidance=3.0, clamp=clamp)
    with NoFloat64(), pytest.raises(NotImplementedError, match="copy out of meta"):  # the images, when all is done
        draw(
            lambda x_BCHW, *_: x_BCHW * 0.5,
            CONFIGS[KINDS[name]],
            shape=(1, 4, 4),
            labels=[0, 1],
            null_label=2,
            seeds=[0, 1],
            settings=settings,
            device="meta",
            batch_size=2,
            on_step=lambda call, *_: calls.append(call),
        )
    assert len(calls) >= 6
