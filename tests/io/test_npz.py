"""Images in the .npz file that the field's evaluators read."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

import ditkit
from ditkit.cli.app import main
from ditkit.errors import MachineError
from ditkit.io.npz import ImageFile


def images(count: int, channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 6, 4, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("label_ids", [None, [3, 0, 1, 2, 3, 1, 0]])
def test_numpy_reads_what_was_written_in_parts(tmp_path, channels, label_ids):
    path, whole = tmp_path / "new" / "images.npz", images(7, channels)
    with ImageFile(path, 7, label_ids) as file:
        file.add(whole[:3])
        file.add(whole[3:])
        assert not path.exists()
    with np.load(path) as arrays:
        assert arrays.files == ["arr_0"] + (["arr_1"] if label_ids else [])
        assert arrays["arr_0"].dtype == np.uint8 and arrays["arr_0"].shape == (7, 6, 4, 3)
        np.testing.assert_array_equal(arrays["arr_0"], np.broadcast_to(whole, (7, 6, 4, 3)))
        if label_ids:
            assert arrays["arr_1"].dtype == np.int64 and arrays["arr_1"].tolist() == label_ids
    assert [entry.name for entry in path.parent.iterdir()] == ["images.npz"]


def test_it_is_read_as_guided_diffusion_reads_it(tmp_path):
    """Its evaluator opens the member and reads the header itself, to take a part at a time."""
    path, whole = tmp_path / "images.npz", images(5, 3)
    with ImageFile(path, 5, None) as file:
        file.add(whole)
    with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as member:
        assert np.lib.format.read_magic(member) == (1, 0)
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(member)
        assert shape == (5, 6, 4, 3) and not fortran_order and dtype == np.uint8
        assert member.read(2 * 6 * 4 * 3) == whole[:2].tobytes()


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError, ValueError])
def test_what_stops_on_the_way_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    path = tmp_path / "images.npz"
    path.write_bytes(b"old")
    with pytest.raises(failure), ImageFile(path, 5, [0] * 5) as file:
        file.add(images(2, 1))
        raise failure("stopped")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_too_few_images_make_no_file(tmp_path):
    with (
        pytest.raises(ValueError, match="2 images were added to a file of 5"),
        ImageFile(tmp_path / "a.npz", 5, None) as f,
    ):
        f.add(images(2, 1))
    assert not list(tmp_path.iterdir())


def test_a_disk_that_takes_no_more_is_one_clear_error(tmp_path, monkeypatch):
    import errno

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    message, path = r"cannot write .*images\.npz: No space left", tmp_path / "images.npz"
    with pytest.raises(MachineError, match=message), ImageFile(path, 5, None) as file:
        monkeypatch.setattr(file._member, "write", full)
        file.add(images(5, 1))
    assert not list(tmp_path.iterdir())


def test_sample_writes_its_images_into_one_file_too(tmp_path, capsys):
    line = ["sample", "--model", "mnist", "--labels", "7", "1", "7", "--steps", "1", "--device", "cpu"]
    assert main([*line, "--batch-size", "2", "--npz", "all.npz", "--out", "a"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "all.npz"
    drawn = ditkit.sample(ditkit.load("mnist"), ["7", "1", "7"], steps=1)
    with np.load(tmp_path / "all.npz") as arrays:
        assert arrays["arr_1"].tolist() == [7, 1, 7]
        np.testing.assert_array_equal(arrays["arr_0"][..., :1], np.stack([image.image for image in drawn]))
    for other, said in (("all.npz", "all.npz is there already"), ("all.zip", "--npz: all.zip is not the name of")):
        assert main([*line, "--npz", other, "--out", "b"]) == 2
        assert said in capsys.readouterr().err
    assert main([*line, "--npz", "all.npz", "--force", "--out", "a"]) == 0
