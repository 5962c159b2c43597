"""A request to draw, judged: the model's images against the real ones, and the nearest of those to what it draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import RunConfig
from ..data.contract import Dataset
from ..io.progress import LOADING_TORCH, Watch, no_progress, notify
from ..runs.lookup import unfinished
from ..runtime.distributed import ProcessGroup
from ..sampling.request import SampleRequest, load_models

if TYPE_CHECKING:
    from ..checkpoint.loading import Trained
    from .evaluate import Evaluation
    from .judge import Judge


def judge_request(
    request: SampleRequest,
    dataset: Dataset,
    config: RunConfig,
    *,
    samples: int,
    features: str | None,
    labels_as: str,
    neighbours: int | None,
    picture: Path,
    npz: Path | None,
    device: str = "auto",
    group: ProcessGroup = ProcessGroup(),
    on_estimate: Callable[[float], None] = lambda _seconds: None,
    progress: Watch = no_progress,
) -> Evaluation:
    """Load the model of a request, draw many images and score them, in one or more processes (see `evaluate`).

    Args:
        request: which model draws, and how.
        dataset: the real images, prepared as `config` says.
        samples: images to draw.
        features: who looks at them, as in `open_judge`.
        labels_as: how often each label is drawn, as in `evaluate`.
        neighbours: how many of the images are shown with the training images nearest to them; None for none.
        picture, npz: where these are drawn, and where all images go, if anywhere.
        on_estimate: called with the seconds that drawing will take.
        progress: shown what is being done.
    """
    trained, guide, judge = _open(request, dataset, config, features, device, group, progress)
    from ..sampling.generate import sample
    from ..visual.grid import check_pictures
    from .evaluate import evaluate
    from .neighbours import add_neighbours

    how = {"settings": request.settings, "seed": request.seed, "batch_size": request.batch_size}
    if neighbours and group.is_main:
        check_pictures(trained.info.labels)
    with progress("drawing") as show:
        evaluation = evaluate(
            trained,
            judge,
            samples=samples,
            guide=guide,
            labels_as=labels_as,
            npz=npz,
            keep=True,  # until the figures are written
            on_image=show,
            on_estimate=on_estimate,
            part=(group.rank, group.size),
            collect=group.all_gather,
            **how,
        )
    if neighbours and group.is_main:
        labels = [label or "any" for label in evaluation.labels[:neighbours]]
        metadata = {**request.png_metadata, **trained.compute.record}
        drawn = [result.image for result in sample(trained, labels, guide=guide, **how)]
        with progress("comparing with real images") as show:
            add_neighbours(evaluation, drawn, dataset, picture, request.name, metadata, show)
    return evaluation


def _open(
    request: SampleRequest,
    dataset: Dataset,
    config: RunConfig,
    features: str | None,
    device: str,
    group: ProcessGroup,
    progress: Watch,
) -> tuple[Trained, Trained | None, Judge]:
    """The model, the worse one that guides it if there is one, and what judges its images."""
    if remark := unfinished(request.weights, request.info):
        notify(remark)
    with progress(LOADING_TORCH):
        from ..runtime.device import find_device
        from .judge import open_judge
    place = find_device(device)
    trained, guide = group.run_together(lambda: load_models(request, place))
    with progress("looking at real images") as show:
        judge = group.run_together(
            lambda: open_judge(config, features=features, device=place, dataset=dataset, on_image=show)
        )
    return trained, guide, judge
