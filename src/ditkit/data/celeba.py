"""CelebA faces, downloaded or from your disk, labelled by any of their 40 attributes: female and male by default."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from .. import durable
from ..config import DataConfig
from ..downloads.hub import files_of, snapshot
from ..downloads.place import address
from ..downloads.watch import tell
from ..errors import DataError
from ..paths import cache_dir, expanded
from . import attributes
from .celeba_files import ATTRIBUTES, IMAGES, MALE, PARTITION, SITE, find_root, published
from .contract import Split
from .pictures import Pictures
from .places import is_address, local_folder
from .splits import by_split
from .tables import SUFFIX, table_pictures, tables_below

NAMES = (  # of the attributes: a wrong one is found before anything is downloaded
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair "
    "Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup "
    "High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose "
    "Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat "
    "Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young"
)
REPO, COMMIT = "flwrlabs/celeba", "2d738f56e0e7f925ea36ae7c808ea925264aacec"
LICENCE = f"CelebA is for non-commercial research only: {SITE}"
_WANTED = (
    f"put {IMAGES}/ (the .jpg files), {ATTRIBUTES} and, for the official split, {PARTITION} into one folder and give "
    f"it with --data-dir FOLDER; they come from {SITE}. A folder with train-*{SUFFIX} and valid-*{SUFFIX} of "
    f"{address(REPO)} will do as well"
)


def dataset(config: DataConfig, split: Split) -> Pictures:
    """The faces of the official split: of `config.path`, or fetched from the hub. Raises DitkitError without them."""
    found = _fetched(config, split) if config.path is None else _on_disk(config, split, config.path)
    _tell_licence()
    return found


def _fetched(config: DataConfig, split: Split) -> Pictures:
    config, revision = _labelled(config), config.revision or COMMIT
    attributes.chosen(str(config.label_by), NAMES.split())
    listed = files_of(REPO, revision=revision, by_hand=_WANTED)
    tables = [path for path in listed if path.endswith(SUFFIX)]
    files = by_split(tables, None, place=address(REPO, revision))
    wanted = {*files["train"], *files["validation"]}
    root = snapshot(REPO, revision=revision, wanted=wanted.__contains__, by_hand=_WANTED)
    return table_pictures(config, split, root, files, kind="attribute")


def _on_disk(config: DataConfig, split: Split, path: str) -> Pictures:
    if not is_address(path) and not expanded(path).exists():
        raise DataError(f"the folder {expanded(path)} does not exist", _WANTED)
    given = local_folder(path)
    if (root := find_root(given)) is not None:
        return published(config, split, root)
    if tables := tables_below(given):
        files = by_split(tables, None, place=str(given))
        return table_pictures(_labelled(config), split, given, files, kind="attribute")
    raise DataError(f"there is no folder {IMAGES} in {given}", _WANTED)


def _labelled(config: DataConfig) -> DataConfig:
    return replace(config, label_by=config.label_by or MALE)


def _tell_licence() -> None:
    """Once."""
    shown = cache_dir() / "celeba-licence-shown"
    if not shown.exists() and tell(LICENCE):
        with contextlib.suppress(OSError):
            durable.make_folder(shown.parent)
            shown.touch()
