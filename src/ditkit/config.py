"""What a run is: one frozen, checked tree of settings, the same for the command line, TOML files and Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from .errors import UsageError, unknown
from .registry import AUTOENCODERS, OBJECTIVES, SAMPLERS

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Count = Annotated[int, Field(ge=1, le=10**9)]
CountOrZero = Annotated[int, Field(ge=0, le=10**9)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
NotNegative = Annotated[float, Field(ge=0, le=1e6)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Side = Annotated[int, Field(ge=1, le=16384)]


def _sides(value: Any) -> Any:
    """64, "64", "96x64" (height x width) and (96, 64) all name an image size."""
    if isinstance(value, str):
        parts = [part.strip() for part in value.lower().split("x")]
        if len(parts) > 2 or not all(part.isascii() and part.isdigit() and len(part) < 9 for part in parts):
            raise PydanticCustomError("image_size", "should be a number of pixels, or height x width as in 96x64")
        value = (parts * 2)[:2]
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


ImageSize = Annotated[tuple[Side, Side], BeforeValidator(_sides)]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DataConfig:
    """Which images, and what is done to them before the network sees them."""

    name: str = "mnist"
    reading: Literal[1, 2] = 2  # version of how files become pixels; a run keeps the one that it began with
    path: str | None = None  # where the images are: a folder, an archive, an address; each dataset says what it reads
    revision: str | None = None  # commit of a hub repository; the dataset's own, or the newest, when not given
    image_size: ImageSize = (28, 28)  # height, width in pixels
    channels: Literal[1, 3] = 1
    label_by: str | None = None  # attributes (celeba) or the column (tables) that give the labels
    label_file: str | None = None  # a CSV or JSON-lines table of file names and labels
    label_from: str | None = None  # a regular expression whose first group is the label in a file's name; none; folders
    image_column: str | None = None  # of a table of images
    black: float | None = None  # of images of 16 bits, 32 bits or floats; None: once for the set, from some images
    white: float | None = None  # likewise (data/levels.py has the rule)
    background: Literal["white", "black"] | None = None  # of transparent images; None: once for the set, likewise
    crop: Literal["center", "top", "pad", "stretch"] = "center"  # how an image gets the wanted aspect ratio
    flip: bool = False  # mirror half of the training images
    balance: bool = False  # train on each label equally often, however many images it has
    validation: CountOrZero = 500  # images held out for the validation loss
    workers: Annotated[int, Field(ge=0, le=64)] = 0  # processes that decode; 0: a thread beside the training
    worker_start: Literal["auto", "fork", "spawn", "forkserver"] = "auto"  # auto: the system's default
    worker_timeout: Count = 300  # seconds without a batch after which the run stops
    max_bad: Fraction = 0.01  # unreadable images are replaced by others up to this part of the set


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ModelConfig:
    """The network; the defaults are the paper's DiT (Peebles & Xie 2022)."""

    patch: Annotated[int, Field(ge=1, le=64)] = 2
    width: Annotated[int, Field(ge=8, le=8192)] = 384
    depth: Annotated[int, Field(ge=1, le=128)] = 12
    heads: Annotated[int, Field(ge=1, le=128)] = 6
    mlp_ratio: Annotated[float, Field(gt=0, le=16)] = 4.0
    conditioning: Literal["in-context", "cross-attention", "adaln", "adaln-zero"] = "adaln-zero"
    positions: Literal["2d", "1d", "1d-interleaved"] = "2d"  # fixed sine-cosine table, added to the tokens
    rope: bool = False  # 2-D rotary positions in every attention, besides
    norm: Literal["layer", "rms"] = "layer"
    mlp: Literal["gelu-tanh", "gelu", "swiglu"] = "gelu-tanh"
    qk_norm: bool = False
    learned_sigma: bool = False  # 2x output channels; set by the objective learned-sigma
    time_activation: Literal["silu", "selu"] = "silu"
    frequency_size: Annotated[int, Field(ge=8, le=4096, multiple_of=2)] = 256
    frequency_shift: Literal[0, 1] = 0  # frequencies end at 10000^-(1-1/n) (0) or at 10000^-1 (1, as in diffusers)
    final_activation: Literal["silu", "selu"] = "silu"  # of the condition, before the final layer's modulation

    def __post_init__(self) -> None:
        if self.width % self.heads:
            wrong = f"model.width {self.width} is not a multiple of model.heads {self.heads}"
            fits = next(heads for heads in range(self.heads, 0, -1) if self.width % heads == 0)
            raise UsageError(wrong, f"change --set model.heads, to {fits} for example")
        if self.width % 4:
            raise UsageError(f"model.width {self.width} is not a multiple of 4", "change --set model.width")
        if self.rope and (self.width // self.heads) % 4:
            raise UsageError(
                f"rotary positions need a head width that is a multiple of 4, not {self.width // self.heads}",
                "change --set model.heads",
            )


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DiffusionConfig:
    """The forward process, what the network predicts, and how timesteps are drawn and weighted."""

    process: Literal["diffusion", "flow"] = "flow"
    objective: str = "velocity"
    timesteps: Annotated[int, Field(ge=1, le=100_000)] = 1000  # of a flow: what the network calls pure noise
    beta_start: Annotated[float, Field(gt=0, lt=1)] | None = None  # None: 1e-4 times 1000 / timesteps
    beta_end: Annotated[float, Field(gt=0, lt=1)] | None = None  # None: 0.02 times 1000 / timesteps, or 0.999
    timestep_sampling: Literal["uniform", "logit-normal"] = "uniform"
    logit_mean: Annotated[float, Field(ge=-10, le=10)] = 0.0
    logit_std: Annotated[float, Field(gt=0, le=10)] = 1.0
    stratified: bool = True  # one timestep from each of B equal parts of the range
    weighting: Literal["none", "min-snr", "velocity"] = "none"
    min_snr_gamma: Positive = 5.0
    weight_floor: Annotated[float, Field(ge=0.001, le=1)] = 0.05  # velocity weights divide by no less than this
    label_drop: Fraction = 0.1  # labels replaced by the null label, for classifier-free guidance

    def __post_init__(self) -> None:
        OBJECTIVES.check(self.objective)
        if self.betas[1] < self.betas[0]:
            raise UsageError("diffusion.beta_end is below diffusion.beta_start", "swap them")
        if self.process == "diffusion" and self.timesteps < 2:
            raise UsageError("a diffusion needs two timesteps or more", "change --set diffusion.timesteps")
        if self.objective == "learned-sigma" and self.process == "flow":
            raise UsageError("learned-sigma needs a diffusion process", "use --set diffusion.process=diffusion")

    @property
    def betas(self) -> tuple[float, float]:
        """The first and the last: Ho et al. 2020's, scaled to the timesteps as by Nichol & Dhariwal 2021."""
        scale = 1000 / self.timesteps
        return self.beta_start or 1e-4 * scale, self.beta_end or min(2e-2 * scale, 0.999)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AutoencoderConfig:
    """How images become what the transformer sees; `pixel` is the identity."""

    name: str = "pixel"
    source: str | None = None  # its weights: a folder in diffusers' layout, or a repository on the hub
    revision: str | None = None  # commit of the hub repository
    channels: Annotated[int, Field(ge=1, le=1024)] | None = None  # of a latent; None: those of the image
    shrink: Annotated[int, Field(ge=1, le=256)] = 1  # an image of height H has a latent of height H / shrink

    def __post_init__(self) -> None:
        AUTOENCODERS.check(self.name)
        if self.name == "pixel" and (self.shrink != 1 or self.channels is not None or self.source is not None):
            raise UsageError(
                "the autoencoder pixel is the identity: it has no source, channels or shrink",
                "choose one with --autoencoder",
            )


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class OptimConfig:
    """AdamW, its learning-rate schedule and the EMA of the weights."""

    lr: Annotated[float, Field(gt=0, le=10)] = 1e-4  # peak learning rate
    schedule: Literal["constant", "cosine", "linear"] = "constant"  # after the warm-up, to 0 at train.steps
    warmup_steps: CountOrZero = 0
    beta1: Decay = 0.9
    beta2: Decay = 0.99
    weight_decay: NotNegative = 0.0
    clip: Positive | None = 1.0  # largest gradient norm
    ema_decay: Decay = 0.9999


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SampleConfig:
    """How images are drawn by default."""

    sampler: str = "flow-heun"
    steps: Annotated[int, Field(ge=1, le=10_000)] = 20
    guidance: Annotated[float, Field(ge=0, le=100)] = 2.0  # 1 is plain conditional sampling
    guidance_from: Fraction = 0.0  # guided where the noise level lies in this part of the range
    guidance_to: Fraction = 1.0
    guidance_rescale: Fraction = 0.0  # how far strong guidance keeps the contrast of no guidance (Lin et al. 2023)
    apg: bool = False  # adaptive projected guidance (Sadat et al. 2024), which does not saturate
    apg_norm: Positive | None = None  # the largest step that it takes away from no label, as a norm
    apg_momentum: Annotated[float, Field(ge=-1, lt=1)] = 0.0  # of those steps; negative ones as in the paper
    clamp: bool = False  # keep every estimate of the clean image in [-1, 1]
    reuse: Annotated[int, Field(ge=1, le=100)] = 1  # network calls that share the output of one pass through the blocks

    def __post_init__(self) -> None:
        SAMPLERS.check(self.sampler)
        if self.guidance_from > self.guidance_to:
            raise UsageError("sample.guidance_from is above sample.guidance_to", "swap them")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrainConfig:
    """How long, how much at once, and how often to look and save."""

    steps: Count = 10_000
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    accumulate: Annotated[int, Field(ge=1, le=100_000)] = 1  # parts that a batch is split into
    log_every: Count = 1
    save_every: Count = 1000
    sample_every: Count = 1000
    sample_columns: Annotated[int, Field(ge=1, le=32)] = 4  # images per class in the sample grids
    validate_every: Count = 250
    evaluate_every: Count | None = None  # steps between measurements of the KID of a few drawn images
    evaluate_samples: Annotated[int, Field(ge=10, le=100_000)] = 256  # images drawn for it
    evaluate_labels: Literal["data", "even"] = "data"  # their labels: as often as the images have them, or in turn
    keep: Annotated[int, Field(ge=1, le=1000)] = 2  # newest checkpoints kept, besides that of the best validation loss
    keep_every: Count | None = None  # checkpoints at multiples of this step are kept permanently
    spike: Annotated[float, Field(gt=1, le=1e9)] = 20.0  # a loss this many times its running mean is not learnt from
    max_skips: Count = 5  # steps skipped in a row before the run goes back to its last good checkpoint
    rollbacks: CountOrZero = 3  # times it may go back, each with other noise and half the learning rate
    snapshot_every: Count | None = None  # multiples of this step keep two averages of the weights (posthoc_ema)
    init_from: str | None = None  # weights file that the run starts from

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint is due after this step, besides the last."""
        return step % self.save_every == 0 or (self.keep_every is not None and step % self.keep_every == 0)

    def __post_init__(self) -> None:
        if self.batch_size % self.accumulate:
            raise UsageError(
                f"train.batch_size {self.batch_size} is not a multiple of train.accumulate {self.accumulate}",
                "change --set train.accumulate",
            )


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class RunConfig:
    """Everything needed to repeat a run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    def __post_init__(self) -> None:
        shrink = self.autoencoder.shrink
        if any(side % (self.model.patch * shrink) for side in self.data.image_size):
            height, width = self.data.image_size
            by = f"by the patch size {self.model.patch}"
            if shrink > 1:
                by = f"by {self.model.patch * shrink}: the patch size {self.model.patch} × the autoencoder's {shrink}"
            raise UsageError(
                f"image size {height}x{width} is not divisible {by}",
                "change data.image_size (--image-size) or --set model.patch",
            )
        if self.sample.clamp and self.autoencoder.name != "pixel":
            raise UsageError("sample.clamp is for pixels: latents are not in [-1, 1]", "use --set sample.clamp=false")
        if self.model.learned_sigma != (self.diffusion.objective == "learned-sigma"):
            raise UsageError("model.learned_sigma and the objective learned-sigma go together", "set both, or neither")

    @property
    def shape(self) -> tuple[int, int, int]:
        """What the network models, of one image: (channels, height, width) of its latent, or of its pixels."""
        height, width = self.data.image_size
        shrink = self.autoencoder.shrink
        return self.autoencoder.channels or self.data.channels, height // shrink, width // shrink


_ADAPTER = TypeAdapter(RunConfig)


def from_dict(tree: Mapping[str, Any]) -> RunConfig:
    """A RunConfig from nested dicts (TOML, JSON). Raises UsageError naming the first wrong key and what is allowed."""
    try:
        return _ADAPTER.validate_python(dict(tree))
    except ValidationError as error:
        raise _explain(error) from None


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Nested plain dicts, without the settings that are not given; from_dict reads them back."""
    return {
        key: {name: list(v) if isinstance(v, tuple) else v for name, v in value.items() if v is not None}
        if isinstance(value, dict)
        else value
        for key, value in asdict(config).items()
    }


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as {"optim.lr": value}."""
    named: dict[str, Any] = {}
    for key, value in tree.items():
        named |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return named


def _explain(error: ValidationError) -> UsageError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "_flat")
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        wrong = unknown("setting", where, flat(asdict(RunConfig())))
        return UsageError(wrong.message, f"{wrong.hint}; `ditkit show mnist` prints them all")
    value = first.get("input")
    return UsageError(
        f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}, not {value!r}"[:400],
        "change it; `ditkit show mnist` prints a valid set",
    )
