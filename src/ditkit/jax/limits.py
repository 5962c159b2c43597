"""What the JAX backend cannot do, checked before anything heavy loads."""

from __future__ import annotations

from ..config import RunConfig
from ..errors import UsageError
from ..io.packages import check_packages

FLOW_SAMPLERS = ("flow-dpmpp", "flow-heun", "flow-euler")
DIFFUSION_SAMPLERS = ("dpmpp", "ddim")


def check_installed() -> None:
    """Raise UsageError where JAX or Optax are missing."""
    check_packages("the JAX backend", ["jax", "optax"], "jax", "use --backend torch")


def check_sampling(config: RunConfig) -> None:
    """Raise UsageError for a model, sampler or setting that only torch samples with."""
    if config.autoencoder.name != "pixel":
        raise UsageError("the JAX backend draws pixels, this is a model of latents", "use --backend torch")
    if config.sample.reuse > 1:
        raise UsageError("the JAX backend goes through all blocks in every call", "use --reuse 1, or --backend torch")
    if config.sample.guidance_rescale or config.sample.apg:
        wrong = "guidance rescale" if config.sample.guidance_rescale else "APG"
        raise UsageError(f"the JAX backend knows no {wrong}", "leave it out, or use --backend torch")
    samplers = FLOW_SAMPLERS if config.diffusion.process == "flow" else DIFFUSION_SAMPLERS
    if config.sample.sampler not in samplers:
        raise UsageError(
            f"the JAX backend has no sampler {config.sample.sampler!r} for this model",
            f"use --sampler {samplers[0]} (or {', '.join(samplers[1:])}), or --backend torch",
        )


def check_training(config: RunConfig) -> None:
    """Raise UsageError for a run that only torch trains."""
    if config.autoencoder.name != "pixel":
        raise UsageError("training in JAX is for pixels, these settings are for latents", "use ditkit.train")
    if config.diffusion.objective == "learned-sigma":
        raise UsageError("training in JAX knows no learned-sigma", "use another diffusion.objective, or ditkit.train")
