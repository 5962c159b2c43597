"""GIFs: frames, times, colours and size, read back from the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ditkit import animate
from ditkit.config import SampleConfig
from ditkit.errors import DitkitError
from ditkit.visual.gif import denoising_gif, durations, thinned, training_gif, write_gif


def noise(seed: int, side: int = 250, channels: int = 3) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (side // 10, side // 10, channels)).astype(np.uint8)
    return Image.fromarray(pixels.repeat(10, 0).repeat(10, 1))


def read(path: Path) -> tuple[list[np.ndarray], list[int], dict]:
    with Image.open(path) as image:
        info, frames, times = dict(image.info), [], []
        for index in range(image.n_frames):  # pyright: ignore
            image.seek(index)
            times.append(image.info["duration"])
            frames.append(np.asarray(image.convert("RGB")))
    return frames, times, info


def test_a_gif_loops_forever_and_rests_on_its_last_frame(tmp_path: Path):
    training_gif([(f"step {index}", noise(index)) for index in range(10)], tmp_path / "a.gif", seconds=4.0)
    frames, times, info = read(tmp_path / "a.gif")
    assert info["loop"] == 0 and len(frames) == 10
    assert times[:-1] == [400] * 9 and times[-1] == 400 + 2000


@pytest.mark.parametrize(("count", "seconds", "hold"), [(7, 4.0, 1.5), (120, 8.0, 2.0), (33, 1.0, 0.0)])
def test_durations_add_up_to_what_was_asked_for(count: int, seconds: float, hold: float):
    times = durations(count, seconds, hold)
    assert len(times) == count and sum(times) == 1000 * (seconds + hold)
    assert all(time % 10 == 0 and time >= 20 for time in times)


def test_no_frame_is_too_short_for_browsers_or_boringly_long():
    assert durations(100, 0.5, 0.0) == [20] * 100
    assert durations(2, 60.0, 1.0) == [1000, 2000]


def test_thinning_keeps_the_first_and_the_last_and_spreads_evenly():
    kept = thinned(1000, 120)
    assert len(kept) == 120 and kept[0] == 0 and kept[-1] == 999
    assert set(np.diff(kept)) <= {8, 9}
    assert thinned(1, 120) == [0] and thinned(5, 120) == [0, 1, 2, 3, 4]


def test_a_gif_of_many_frames_has_at_most_120(tmp_path: Path):
    write_gif([("", noise(index, 240)) for index in range(130)], tmp_path / "a.gif", seconds=3.0)
    assert len(read(tmp_path / "a.gif")[0]) == 120


def test_what_stands_still_does_not_shimmer(tmp_path: Path):
    still = noise(0)
    frames = []
    for index in range(6):
        picture = still.copy()
        picture.paste(noise(index + 1, 100), (0, 0))
        frames.append((f"step {index}", picture))
    denoising_gif(frames, tmp_path / "a.gif")
    shown, _, _ = read(tmp_path / "a.gif")
    assert all(np.array_equal(frame[100:250], shown[0][100:250]) for frame in shown)
    assert not np.array_equal(shown[0][:100, :100], shown[5][:100, :100])
    assert (shown[3][255:262, :20] == 255).all(), "the background is not the pages' white"
    assert np.abs(shown[3][:250].astype(int) - np.asarray(frames[3][1])).mean() < 12


def test_grey_frames_stay_grey_and_close_to_the_originals(tmp_path: Path):
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None].repeat(256, 0))
    write_gif([("a", ramp), ("b", ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT))], tmp_path / "a.gif")
    shown, _, _ = read(tmp_path / "a.gif")
    assert all((frame == frame[..., :1]).all() for frame in shown)
    assert np.abs(shown[0][:256, :, 0].astype(int) - np.asarray(ramp)).max() <= 3
    assert np.abs(shown[1][:256, ::-1, 0].astype(int) - np.asarray(ramp)).max() <= 3


def test_a_caption_changes_the_strip_and_nothing_else(tmp_path: Path):
    picture = noise(0)
    write_gif([("step 1", picture), ("step 200", picture)], tmp_path / "a.gif")
    shown, _, _ = read(tmp_path / "a.gif")
    assert np.array_equal(shown[0][:250], shown[1][:250])
    first, second = (frame[250:-3] for frame in shown)
    assert (first < 100).any() and not np.array_equal(first, second)


def test_frames_of_other_sizes_are_centred_and_large_ones_shrunk(tmp_path: Path):
    large, small = Image.new("RGB", (1600, 1000), (9, 9, 9)), Image.new("RGB", (800, 500), (9, 9, 9))
    write_gif([("", large), ("", small)], tmp_path / "a.gif")
    shown, _, _ = read(tmp_path / "a.gif")
    assert max(shown[0].shape) == 800
    height, width = np.ptp(np.argwhere(shown[1][:500, :, 0] < 60), axis=0) + 1
    assert (height, width) == (250, 400)
    assert np.argwhere(shown[1][:500, :, 0] < 60).min(0).tolist() == [125, 200]


def test_a_tiny_frame_is_enlarged_by_whole_pixels(tmp_path: Path):
    picture = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8).repeat(14, 0).repeat(14, 1))
    write_gif([("", picture), ("", picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT))], tmp_path / "a.gif")
    shown, _, _ = read(tmp_path / "a.gif")
    assert shown[0].shape[1] == 224
    assert np.array_equal(shown[0][:224, :, 0], np.asarray(picture).repeat(8, 0).repeat(8, 1))


def test_one_frame_makes_a_gif(tmp_path: Path):
    write_gif([("only", noise(0))], tmp_path / "a.gif")
    assert len(read(tmp_path / "a.gif")[0]) == 1


def test_no_frames_and_no_room_are_errors_with_words(tmp_path: Path):
    with pytest.raises(DitkitError, match="no frames"):
        write_gif([], tmp_path / "a.gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(DitkitError, match=r"cannot write .*a\.gif"):
        write_gif([("", noise(0))], tmp_path / "file" / "a.gif")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_called_from_python_it_draws_and_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    settings = SampleConfig(steps=2)
    path = animate("mnist", tmp_path / "a.gif", kind="denoise", labels=["3", "1"], settings=settings, device="cpu")
    assert path == tmp_path / "a.gif" and len(read(path)[0]) == 3 + 1  # calls of flow-heun in 2 steps, and the end
    path = animate(
        "mnist", tmp_path / "b.gif", kind="interpolate", labels=["3"], settings=settings, frames=2, device="cpu"
    )
    assert len(read(path)[0]) == 4
    assert capsys.readouterr() == ("", "")
    with pytest.raises(DitkitError, match="unknown kind 'denoised'"):
        animate("mnist", kind="denoised")
