"""Change an image with a trained model: paint over a part of it, or draw it again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from . import console
from .opt import examples, only, opt
from .options import DATA, DIFFUSION, Model, NetworkDevice, Output, SampleSettings
from .outputs import output_folder

EXAMPLES = (
    "Examples:\n\nditkit edit inpaint face.png --mask mask.png --labels female\n"
    "ditkit edit img2img three.png --labels 8 --strength 0.7"
)
MAX_IMAGES = 100
Settings = Annotated[SampleSettings, only("labels steps guidance sampler seed")]
Weights = Annotated[Model, only("model no_ema autoencoder")]
Written = Annotated[
    Output,
    only("out force yes json runs_dir quiet", out=opt("--out DIR", "Where images go.", shown="a new folder in edits/")),
]
IMAGE = "The image to change: PNG, JPEG, WebP …"


@dataclass(frozen=True, kw_only=True)
class Inpaint:
    """What to change, and where."""

    image: Path | None = opt("IMAGE", IMAGE, shown=False)
    mask: Path | None = opt(
        "--mask FILE", "An image of the same size: white is painted, black stays.", panel=DATA, shown=False
    )


@dataclass(frozen=True, kw_only=True)
class Img2Img:
    """What to change, and how much."""

    image: Path | None = opt("IMAGE", IMAGE, shown=False)
    strength: float = opt(
        "--strength 0..1",
        "How much noise to begin with: little keeps the composition, 1 keeps nothing.",
        default=0.6,
        panel=DIFFUSION,
    )


@examples('ditkit edit inpaint three.png --mask mask.png --labels "3*4"')
def inpaint(source: Inpaint, settings: Settings, model: Weights, output: Written, device: NetworkDevice) -> None:
    """Paint over a part of an image, so that it fits the rest, which stays as it is.

    The image is cut and resized as the model's training images were. One result for each label.
    """
    from ..errors import UsageError

    if source.mask is None:
        raise UsageError("missing option: the part to paint", "give an image that is white there: --mask FILE")
    _edit(source.image, settings, model, output, device, mask=source.mask)


@examples("ditkit edit img2img three.png --labels 8 --strength 0.7")
def img2img(source: Img2Img, settings: Settings, model: Weights, output: Written, device: NetworkDevice) -> None:
    """Draw an image again from a noisy copy of it: another one of the same composition, perhaps of another label.

    The image is cut and resized as the model's training images were. One result for each label.
    """
    from ..errors import UsageError

    if not 0 < source.strength <= 1:
        raise UsageError(f"--strength: {source.strength:g} is not above 0 and at most 1", "e.g. --strength 0.6")
    _edit(source.image, settings, model, output, device, strength=source.strength)


COMMANDS = {"inpaint": inpaint, "img2img": img2img}


def _edit(
    image: Path | None,
    settings: SampleSettings,
    model: Model,
    output: Output,
    device: NetworkDevice,
    *,
    mask: Path | None = None,
    strength: float = 1.0,
) -> None:
    """Check everything, draw one image for each label, and write them beside a grid that begins with the original."""
    from ..data.edit_input import read_for_edit
    from ..errors import UsageError
    from ..io import text
    from ..io.paths import expanded
    from ..sampling.edit_to_folder import edit_to_folder
    from ..sampling.request import GRID
    from .datasets import watching
    from .sample import show_images
    from .sample_request import resolve_request

    if image is None:
        raise UsageError("missing argument: the image to change", "e.g. `ditkit edit img2img photo.png`")
    with watching(quiet=output.quiet, yes=output.yes):
        request = resolve_request(settings, model, device, output.runs)
    if len(request.labels) > MAX_IMAGES:
        raise UsageError(f"{len(request.labels)} images are more than {MAX_IMAGES}", "ask for fewer with --labels")
    default = Path("edits") / f"{text.slug(image.stem)}-{request.name}"
    original, paint = read_for_edit(expanded(image), expanded(mask) if mask else None, request.info.config.data)
    folder = output_folder(output, default, [*request.file_names, GRID])
    records = edit_to_folder(
        request,
        original,
        folder,
        name=image.name,
        paint=paint,
        strength=strength,
        device=device.device,
        progress=console.watch(quiet=output.quiet),
    )
    show_images(records, folder, output)
