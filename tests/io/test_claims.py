"""Names that are claimed for results."""

from __future__ import annotations

import pytest

from ditkit.io import paths


@pytest.mark.parametrize("folder", [True, False])
def test_no_name_is_looked_for_without_end_where_a_folder_above_is_a_file(tmp_path, folder):
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        paths.claim_free(tmp_path / "file" / "name", folder=folder)


def test_a_name_that_another_process_takes_meanwhile_is_passed_over(tmp_path, monkeypatch):
    free = paths.free_name
    taken = []

    def raced(path, ending=""):
        name = free(path, ending)
        if not taken:
            taken.append(name)
            name.mkdir()
        return name

    monkeypatch.setattr(paths, "free_name", raced)
    assert paths.claim_free(tmp_path / "name", folder=True).name == "name-2"
