"""Contents: what an upload is named by, how it is found again, and prepared sets that nothing uses any longer."""

import json
import os
from pathlib import Path
from shutil import copytree

import pytest

from mai_app.data.clean import older_uploads, remove_unused, unused_sets
from mai_app.data.contents import (
    IGNORE_TIMES,
    MARKER,
    hash_contents,
    known_contents,
    list_contents,
    read_marker,
    upload_name,
    uploaded_folder,
)
from mai_app.data.prepare import prepare
from mai_app.errors import DataError
from mai_app.remote.volume import find_data
from tests.conftest import write_data_set


def digest(folder: Path) -> str:
    return hash_contents(folder, list_contents(folder))


def upload(data: Path, volume: Path, uploaded: str = "2026-10-01T00:00:00+00:00") -> str:
    """What the client's upload leaves behind, without Modal; returns the upload's name."""
    contents = digest(data)
    name = upload_name(data.name, contents)
    copytree(data, volume / name / data.name)
    (volume / name / MARKER).write_text(json.dumps({"contents": contents, "uploaded": uploaded}))
    return name


def test_contents_change_with_what_is_in_a_folder_and_with_nothing_else(data_set: Path, tmp_path: Path) -> None:
    first = copytree(data_set, tmp_path / "a" / "photos")
    second = copytree(data_set, tmp_path / "b" / "otherwise")
    picture = next(second.rglob("*.png"))
    os.utime(picture, (0, 0))
    (second / ".DS_Store").write_text("not a person's")
    assert digest(first) == digest(second)
    moved = picture.rename(picture.with_name("moved.png"))
    assert digest(first) != digest(second)
    moved.rename(picture)
    assert digest(first) == digest(second)
    data = bytearray(picture.read_bytes())
    data[-1] ^= 1
    picture.write_bytes(bytes(data))  # of the same size
    assert digest(first) != digest(second)


def test_all_that_a_person_put_there_is_taken_linked_folders_too(data_set: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "train").mkdir(parents=True)
    (folder / "more").symlink_to(data_set, target_is_directory=True)
    (folder / "manifest.csv").write_text("file,label\n")
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "train" / "back").symlink_to(folder, target_is_directory=True)
    pictures = [path.relative_to(data_set).as_posix() for path in data_set.rglob("*") if path.is_file()]
    assert list_contents(folder) == sorted(["manifest.csv", *(f"more/{name}" for name in pictures)])


def test_an_upload_is_found_by_its_name_and_by_the_folders(data_set: Path, tmp_path: Path) -> None:
    volume, prepared = tmp_path / "data", tmp_path / "prepared"
    photos = copytree(data_set, tmp_path / "photos")
    name = upload(photos, volume)
    folder = volume / name / "photos"
    assert name == f"photos@{digest(photos)[:12]}"
    assert find_data(name, volume, prepared) == find_data("photos", volume, prepared) == folder
    assert find_data("photos/test", volume, prepared) == folder / "test"
    assert find_data("nothing", volume, prepared) == volume / "nothing"
    next(photos.rglob("*.png")).unlink()
    other = upload(photos, volume)
    with pytest.raises(DataError, match=rf"in several states; name one of {min(name, other)}, {max(name, other)}$"):
        find_data("photos", volume, prepared)
    assert find_data(other, volume, prepared) == volume / other / "photos"
    (volume / other / MARKER).unlink()
    with pytest.raises(DataError, match="its upload was interrupted"):
        find_data(other, volume, prepared)
    assert find_data("photos", volume, prepared) == folder
    copytree(data_set, volume / "photos")  # put there by hand
    assert find_data("photos", volume, prepared) == volume / "photos"
    copytree(prepare(data_set, tmp_path / "sets").folder, prepared / "six")
    assert find_data("six", volume, prepared) == prepared / "six"


def test_a_marker_speaks_for_the_upload_that_it_lies_in_alone(data_set: Path, tmp_path: Path) -> None:
    name = upload(data_set, tmp_path)
    assert known_contents(uploaded_folder(tmp_path / name)) == digest(data_set)
    assert known_contents(data_set) == ""
    renamed = (tmp_path / name).rename(tmp_path / f"{data_set.name}@0123456789ab")
    assert read_marker(renamed) is None
    (renamed / MARKER).write_text("[]")
    assert read_marker(renamed) is None


def test_an_upload_is_prepared_once_whatever_its_files_times_are(data_set: Path, tmp_path: Path) -> None:
    folder = uploaded_folder(tmp_path / upload(data_set, tmp_path))
    made = prepare(folder, tmp_path / "sets")
    assert made.name == data_set.name
    assert made.fingerprint == prepare(data_set, tmp_path / "here").fingerprint
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))
    assert prepare(folder, tmp_path / "sets").folder == made.folder


def test_where_times_say_nothing_the_files_are_read(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copytree(data_set, tmp_path / "photos")
    monkeypatch.setenv(IGNORE_TIMES, "1")
    made = prepare(folder, tmp_path / "sets")
    picture = next(folder.rglob("*.png"))
    os.utime(picture, (1, 1))
    assert prepare(folder, tmp_path / "sets").folder == made.folder
    other = next(path for path in folder.rglob("*.png") if path.read_bytes() != picture.read_bytes())
    picture.write_bytes(other.read_bytes())
    assert prepare(folder, tmp_path / "sets").folder != made.folder


def test_sets_of_folders_that_are_gone_or_changed_are_removed(tmp_path: Path) -> None:
    sets = tmp_path / "prepared"
    kept, changed, gone = (write_data_set(tmp_path / name, train=2, val=2, test=2) for name in ("a", "b", "c"))
    made = {data.name: prepare(data, sets).folder for data in (kept, changed, gone)}
    copytree(made["a"], sets / "six")
    (sets / "six" / "plan.json").write_text('{"sources": {}}')  # of the Hub
    copytree(made["a"], sets / "old")
    (sets / "old" / "plan.json").write_text('{"folder": "photos"}')  # who knows from where
    next(changed.rglob("*.png")).unlink()
    for path in sorted(gone.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    gone.rmdir()
    features = made["b"] / "features" / "0123456789abcdef" / "000000.npy"  # what training keeps beside it
    features.parent.mkdir(parents=True)
    features.write_bytes(b"0" * 20_000_000)
    assert [(unused.folder, unused.bytes > 10_000) for unused in unused_sets(sets)] == [
        (made["b"], True),
        (made["c"], True),
    ]
    said = remove_unused(sets).splitlines()
    assert said[0].startswith(f"{made['b']}: removed, 0.02 GB")
    assert said[0].endswith(f"{changed} has changed since")
    assert said[1].endswith(f"{gone} is gone")
    assert said[2] == f"0.03 GB freed in {sets}/"
    assert sorted(sets.iterdir()) == sorted([made["a"], sets / "six", sets / "old"])
    assert prepare(kept, sets).folder == made["a"]


def test_what_was_prepared_of_an_older_upload_is_removed(data_set: Path, tmp_path: Path) -> None:
    photos, volume, sets = copytree(data_set, tmp_path / "photos"), tmp_path / "data", tmp_path / "prepared"
    old = upload(photos, volume, "2026-10-01T00:00:00+00:00")
    first = prepare(uploaded_folder(volume / old), sets).folder
    assert older_uploads(volume) == []
    next(photos.rglob("*.png")).unlink()
    new = upload(photos, volume, "2026-10-02T00:00:00+00:00")
    second = prepare(uploaded_folder(volume / new), sets).folder
    assert older_uploads(volume) == [old]
    assert "photos was uploaded anew since" in remove_unused(sets)
    assert list(sets.iterdir()) == [second] != [first]
