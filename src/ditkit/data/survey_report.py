"""A survey of a data set in words for people, and as one JSON object for scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..io import text as io_text
from ..io.text import plural
from .formats import sentence
from .settle import sentences

if TYPE_CHECKING:
    from ..config import RunConfig
    from .survey import Duplicate, Survey


_MOST_LABELS = 30  # lines
_MOST_SIZES = 8
_MOST_LISTED = 10  # unreadable images and groups of equal ones; the JSON has all that the survey lists
_MOST_COPIES = 4
_BAR = 24  # characters
_LABEL = 40


def lines(survey: Survey, config: RunConfig, name: str) -> Iterator[str]:
    """The report, no line much wider than 80 characters but for names."""
    place = f" in {io_text.flat(config.data.path)}" if config.data.path else ""
    yield f"{io_text.flat(name)}: {plural(survey.images, 'image')}{place}"
    if survey.examined < survey.images:
        yield f"{survey.examined:,} of them are examined: what follows is about these" + (
            ", but for the counts" if survey.all_counted else ""
        )
    yield ""
    yield from _counts(survey)
    if survey.layout:
        yield f"labels: {io_text.flat(survey.layout.labels_from)}"
        yield from map(io_text.flat, survey.layout.notes)
    yield ""
    yield from _sizes(survey, config)
    counters = {"formats": survey.formats, "colours": survey.modes, "colour profiles, made sRGB": survey.profiles}
    for title, counter in counters.items():
        if counter:
            yield f"{title}: " + ", ".join(f"{kind} {number:,}" for kind, number in counter.most_common())
    yield from sentences(survey.config)
    yield ""
    yield from _duplicates(survey)
    yield from _unreadable(survey)
    yield sentence(survey.left_out) or "left out: none"


def warnings(survey: Survey, config: RunConfig) -> Iterator[str]:
    """What is wrong with the images, and what to do."""
    readable = survey.examined - survey.unreadable
    if survey.unreadable:
        yield _remedy(survey, config)
    if 2 * survey.flat > readable:
        on = "; see data.background" if survey.config.background else ""
        yield f"warning: {survey.flat:,} of {readable:,} images are of one colour all over{on}"
    elif 2 * survey.dark > readable:
        how = "set data.white" if survey.config.white is not None else "make them brighter before training"
        yield f"warning: {survey.dark:,} of {readable:,} images have no level above a sixteenth of white: {how}"


def _remedy(survey: Survey, config: RunConfig) -> str:
    """The warning about unreadable images: what training would do, and what to do."""
    allowed = survey.unreadable <= config.data.max_bad * survey.examined
    then = "training would replace them by others" if allowed else "training would stop (data.max_bad)"
    return f"warning: {plural(survey.unreadable, 'image')} cannot be read, and {then}: mend them or take them away"


def as_json(survey: Survey, config: RunConfig, name: str, picture: Path | None) -> dict[str, Any]:
    """The whole survey; at most a thousand unreadable images and groups of duplicates by name."""
    labels = survey.labels or ("",)
    sizes = [{"width": size[0], "height": size[1], "images": number} for size, number in survey.sizes.most_common()]
    return {
        "name": name,
        "path": config.data.path,
        "labels": list(survey.labels),
        "images": survey.images,
        "examined": survey.examined,
        "counts": {split: dict(zip(labels, numbers, strict=True)) for split, numbers in survey.counts.items()},
        "image_size": list(config.data.image_size),
        "sizes": sizes,
        "enlarged": survey.enlarged,
        "formats": dict(survey.formats.most_common()),
        "modes": dict(survey.modes.most_common()),
        "profiles": dict(survey.profiles.most_common()),
        "black": survey.config.black,
        "white": survey.config.white,
        "background": survey.config.background,
        "dark": survey.dark,
        "flat": survey.flat,
        "duplicates": {
            "groups": survey.duplicate_groups,
            "images": survey.duplicate_images,
            "across_splits": survey.across_splits,
            "across_labels": survey.across_labels,
            "listed": [[asdict(copy) for copy in group] for group in survey.duplicates_listed],
        },
        "left_out": dict(survey.left_out),
        "labels_from": survey.layout.labels_from if survey.layout else None,
        "layout": list(survey.layout.notes) if survey.layout else [],
        "unreadable": survey.unreadable,
        "unreadable_listed": [{"place": place, "why": why} for place, why in survey.unreadable_listed],
        "picture": str(picture) if picture else None,
    }


def _counts(survey: Survey) -> Iterator[str]:
    """A table: a line for each label, a column for each split."""
    splits = list(survey.counts)
    names = [label if len(label) <= _LABEL else f"{label[: _LABEL - 1]}…" for label in map(io_text.flat, survey.labels)]
    names = names or ["(no labels)"]
    rows = [(name, [survey.counts[split][row] for split in splits]) for row, name in enumerate(names)]
    total = ("in all", [sum(survey.counts[split]) for split in splits])
    shown = [*rows[:_MOST_LABELS], total] if len(rows) > 1 else rows
    width = max(len("label"), *(len(name) for name, _ in shown))
    yield f"{'label':<{width}}" + "".join(f"{split:>12}" for split in splits)
    for name, numbers in shown:
        if name == "in all" and len(rows) > _MOST_LABELS:
            yield f"… and {len(rows) - _MOST_LABELS:,} more labels"
        yield f"{name:<{width}}" + "".join(f"{number:>12,}" for number in numbers)


def _sizes(survey: Survey, config: RunConfig) -> Iterator[str]:
    height, width = config.data.image_size
    if not survey.sizes:
        return
    what = "sizes of the originals" if survey.encoded else "sizes as the data set gives them"
    yield f"{what}, width x height:"
    if len(survey.sizes) <= _MOST_SIZES:
        yield from _bars([(f"{size[0]}x{size[1]}", number) for size, number in survey.sizes.most_common()])
    else:
        yield from _bars(_by_shorter_side(survey))
        common = ", ".join(f"{size[0]}x{size[1]} ({number:,})" for size, number in survey.sizes.most_common(3))
        yield f"  {_spread(survey)}"
        yield f"  most common of {len(survey.sizes):,}: {common}"
    if survey.enlarged:
        part = 100 * survey.enlarged / sum(survey.sizes.values())
        yield f"  {plural(survey.enlarged, 'image')} ({part:.1f} %) smaller than {width}x{height}: enlarged, so blurred"


def _by_shorter_side(survey: Survey) -> list[tuple[str, int]]:
    """How many images have a shorter side of 64 to 127 pixels, 128 to 255, and so on."""
    bins: dict[int, int] = {}
    for size, number in survey.sizes.items():
        bits = min(size).bit_length()
        bins[bits] = bins.get(bits, 0) + number
    return [(f"shorter side {1 << (bits - 1)} to {(1 << bits) - 1}", bins[bits]) for bits in sorted(bins)]


def _spread(survey: Survey) -> str:
    """The smallest, median and largest shorter side."""
    sides = sorted((min(size), number) for size, number in survey.sizes.items())
    until, half = 0, sum(number for _, number in sides) / 2
    for median, number in sides:
        until += number
        if until >= half:
            return f"shorter side: {sides[0][0]} to {sides[-1][0]} pixels, median {median}"
    return ""


def _bars(rows: Sequence[tuple[str, int]]) -> Iterator[str]:
    width, most, total = max(len(name) for name, _ in rows), max(number for _, number in rows), sum(dict(rows).values())
    for name, number in rows:
        bar = "█" * max(1, round(_BAR * number / most))
        yield f"  {name:<{width}}  {number:>11,}  {100 * number / total:5.1f} %  {bar}"


def _duplicates(survey: Survey) -> Iterator[str]:
    if not survey.duplicate_groups:
        yield "duplicates: none"
        return
    groups = plural(survey.duplicate_groups, "group")
    if survey.across_splits:
        groups += f", {survey.across_splits:,} across train and validation"
    if survey.across_labels:
        groups += f", {survey.across_labels:,} with different labels"
    yield f"duplicates: {plural(survey.duplicate_images, 'image')} in {groups}"
    for group in survey.duplicates_listed[:_MOST_LISTED]:
        more = len(group) - _MOST_COPIES
        yield "  " + " = ".join(map(_copy, group[:_MOST_COPIES])) + (f" … and {more:,} more" if more > 0 else "")
    if survey.duplicate_groups > _MOST_LISTED:
        yield f"  … and {survey.duplicate_groups - _MOST_LISTED:,} more groups"


def _copy(copy: Duplicate) -> str:
    return io_text.flat(copy.name) + (" (validation)" if copy.split == "validation" else "")


def _unreadable(survey: Survey) -> Iterator[str]:
    if not survey.unreadable:
        yield "unreadable: none"
        return
    yield f"unreadable: {plural(survey.unreadable, 'image')}"
    for place, why in survey.unreadable_listed[:_MOST_LISTED]:
        yield f"  {io_text.flat(place)}: {io_text.flat(why)}"
    if survey.unreadable > _MOST_LISTED:
        yield f"  … and {survey.unreadable - _MOST_LISTED:,} more"
