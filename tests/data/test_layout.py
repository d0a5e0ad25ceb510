"""Folders to records, and what a user names to image files: layouts, class names, manifests, patterns, errors."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mai_app.data.layout import Record, scan
from mai_app.errors import DataError, ImageError
from mai_app.images.find import find_images, walk_images

ROOT = Path(__file__).parents[2]


def touch(root: Path, *names: str) -> Path:
    """Empty files below root: finding images opens none of them."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def facts(records: Iterable[Record]) -> list[tuple[str, int, str, str]]:
    return [(record.file, record.label, record.split, record.source) for record in records]


def found(*names: object) -> list[str]:
    """What find_images finds, errors as their texts."""
    return [str(item) for item in find_images([str(name) for name in names])]


# scan: layouts


def test_split_folders_give_the_split_and_the_folders_below_the_class_the_source(tmp_path: Path) -> None:
    touch(tmp_path, "train/authentic/films/a.jpg", "train/synthetic/b.png", "val/authentic/c.jpg")
    touch(tmp_path, "val/synthetic/posters/deep/d.webp", "test/authentic/e.jpg", "test/synthetic/f.jpg")
    name = tmp_path.name
    assert facts(scan(tmp_path)) == [
        ("test/authentic/e.jpg", 0, "test", name),
        ("test/synthetic/f.jpg", 1, "test", name),
        ("train/authentic/films/a.jpg", 0, "train", "films"),
        ("train/synthetic/b.png", 1, "train", name),
        ("val/authentic/c.jpg", 0, "val", name),
        ("val/synthetic/posters/deep/d.webp", 1, "val", "posters"),
    ]


def test_two_class_folders_alone_give_no_split(tmp_path: Path) -> None:
    touch(tmp_path, "authentic/a.jpg", "synthetic/b.jpg")
    assert facts(scan(tmp_path)) == [
        ("authentic/a.jpg", 0, "", tmp_path.name),
        ("synthetic/b.jpg", 1, "", tmp_path.name),
    ]


@pytest.mark.parametrize(
    ("authentic", "synthetic"),
    [("real", "fake"), ("nature", "ai"), ("0_real", "1_fake"), ("Authentic", "SYNTHETIC"), ("REAL", "Ai")],
)
def test_the_fields_other_class_names_are_known(tmp_path: Path, authentic: str, synthetic: str) -> None:
    touch(tmp_path, f"{authentic}/a.jpg", f"{synthetic}/b.jpg")
    assert sorted((record.label, record.file) for record in scan(tmp_path)) == [
        (0, f"{authentic}/a.jpg"),
        (1, f"{synthetic}/b.jpg"),
    ]


@pytest.mark.parametrize(
    ("folder", "split"),
    [("training", "train"), ("valid", "val"), ("validation", "val"), ("testing", "test"), ("Train", "train")],
)
def test_other_names_of_splits_are_known(tmp_path: Path, folder: str, split: str) -> None:
    touch(tmp_path, f"{folder}/real/a.jpg", f"{folder}/fake/b.jpg")
    assert {record.split for record in scan(tmp_path)} == {split}


def test_the_folder_above_the_class_names_the_generator_as_in_genimage(tmp_path: Path) -> None:
    for generator in ("midjourney", "sdv5"):
        touch(tmp_path, f"{generator}/train/nature/a.jpg", f"{generator}/train/ai/b.png", f"{generator}/val/ai/c.png")
    records = scan(tmp_path)
    assert [(record.file, record.label, record.split, record.source) for record in records[:3]] == [
        ("midjourney/train/ai/b.png", 1, "train", "midjourney"),
        ("midjourney/train/nature/a.jpg", 0, "train", "midjourney"),
        ("midjourney/val/ai/c.png", 1, "val", "midjourney"),
    ]
    assert {record.source for record in records[3:]} == {"sdv5"}


def test_a_split_below_the_class_counts_too(tmp_path: Path) -> None:
    touch(tmp_path, "fake/test/b.jpg", "real/train/a.jpg")
    assert facts(scan(tmp_path)) == [
        ("fake/test/b.jpg", 1, "test", tmp_path.name),
        ("real/train/a.jpg", 0, "train", tmp_path.name),
    ]


def test_the_outermost_class_folder_decides(tmp_path: Path) -> None:
    touch(tmp_path, "x/y/synthetic/portraits/fake/b.jpg", "authentic/ai/a.jpg")
    assert facts(scan(tmp_path)) == [
        ("authentic/ai/a.jpg", 0, "", "ai"),
        ("x/y/synthetic/portraits/fake/b.jpg", 1, "", "portraits"),
    ]


def test_hidden_files_archives_leftovers_and_other_files_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "authentic/a.JPG", "authentic/.b.jpg", "authentic/.cache/c.jpg", "authentic/notes.txt")
    touch(tmp_path, "synthetic/d.jpg", "synthetic/__MACOSX/e.jpg", "__MACOSX/synthetic/f.jpg", "synthetic/g.heic")
    touch(tmp_path, "synthetic/no suffix", "synthetic/video.mp4", "synthetic/Thumbs.db", "synthetic/README")
    (tmp_path / "synthetic" / "no suffix").write_bytes(b"\xff\xd8\xff\xe0")
    assert [record.file for record in scan(tmp_path)] == [
        "authentic/a.JPG",
        "synthetic/d.jpg",
        "synthetic/g.heic",
        "synthetic/no suffix",
    ]


def test_linked_files_are_taken_and_links_that_lead_back_not_followed(tmp_path: Path) -> None:
    touch(tmp_path / "data", "authentic/a.jpg", "synthetic/b.jpg")
    touch(tmp_path / "elsewhere", "c.jpg")
    (tmp_path / "data" / "authentic" / "linked.jpg").symlink_to(tmp_path / "elsewhere" / "c.jpg")
    (tmp_path / "data" / "authentic" / "loop").symlink_to(tmp_path / "data", target_is_directory=True)
    assert [record.file for record in scan(tmp_path / "data")] == [
        "authentic/a.jpg",
        "authentic/linked.jpg",
        "synthetic/b.jpg",
    ]


def test_a_link_to_itself_is_left_for_the_reader_to_refuse(tmp_path: Path) -> None:
    touch(tmp_path, "authentic/a.jpg", "synthetic/b.jpg")
    (tmp_path / "authentic" / "loop.jpg").symlink_to("loop.jpg")
    assert [record.file for record in scan(tmp_path)] == ["authentic/a.jpg", "authentic/loop.jpg", "synthetic/b.jpg"]


def test_beside_split_folders_what_lies_in_none_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "train/real/a.jpg", "train/fake/b.jpg", "fake/c.jpg")
    assert [record.file for record in scan(tmp_path)] == ["train/fake/b.jpg", "train/real/a.jpg"]


# scan: manifest.csv


def data_set_of_two(root: Path, manifest: str | bytes) -> Path:
    touch(root, "authentic/a.jpg", "synthetic/b.jpg")
    (root / "manifest.csv").write_bytes(manifest.encode() if isinstance(manifest, str) else manifest)
    return root


def test_a_manifest_gives_source_generator_and_kind(tmp_path: Path) -> None:
    text = (
        "file,source,generator,kind\n"
        'authentic/a.jpg,"films, old",camera,photo\n'
        "synthetic/b.jpg,web,sdxl,poster\n"
        "synthetic/not-there.jpg,web,sdxl,poster\n"
    )
    authentic, synthetic = scan(data_set_of_two(tmp_path, text))
    # Nothing generated an authentic image, whatever the manifest says.
    assert authentic == Record("authentic/a.jpg", 0, "", "films, old", "", "photo")
    assert synthetic == Record("synthetic/b.jpg", 1, "", "web", "sdxl", "poster")


def test_without_a_column_generator_the_kind_of_a_synthetic_image_is_it(tmp_path: Path) -> None:
    text = "file,kind\nauthentic/a.jpg,painting\nsynthetic/b.jpg,midjourney\n"
    authentic, synthetic = scan(data_set_of_two(tmp_path, text))
    assert (authentic.generator, authentic.kind, authentic.source) == ("", "painting", tmp_path.name)
    assert (synthetic.generator, synthetic.kind) == ("midjourney", "")


def test_a_manifest_may_carry_a_byte_order_mark_crlf_and_short_rows(tmp_path: Path) -> None:
    text = "file,source,kind\r\nauthentic/a.jpg,films\r\nsynthetic/b.jpg,web,sdxl,surplus\r\n\r\n"
    authentic, synthetic = scan(data_set_of_two(tmp_path, b"\xef\xbb\xbf" + text.encode()))
    assert (authentic.source, authentic.kind) == ("films", "")
    assert (synthetic.source, synthetic.generator) == ("web", "sdxl")


def test_a_file_that_the_manifest_lacks_keeps_what_its_folders_say(tmp_path: Path) -> None:
    root = data_set_of_two(tmp_path, "file,source,generator\nauthentic/a.jpg,films,\n")
    touch(root, "synthetic/web/c.jpg")
    assert scan(root)[2] == Record("synthetic/web/c.jpg", 1, "", "web", "", "")


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ("path,source\nauthentic/a.jpg,web\n", "has no column 'file'; its columns are ['path', 'source']"),
        ("", "has no column 'file'"),
        ("file\nsynthetic/Größe.jpg\n".encode("latin-1"), "can't be read as UTF-8"),
        ("file,source\nauthentic/a.jpg," + "x" * 200_000 + "\n", "can't be read as UTF-8 comma-separated values"),
    ],
    ids=["other columns", "empty", "Latin-1", "huge field"],
)
def test_a_manifest_that_can_not_be_used_is_refused_by_name(tmp_path: Path, manifest: str | bytes, words: str) -> None:
    with pytest.raises(DataError) as caught:
        scan(data_set_of_two(tmp_path, manifest))
    assert str(caught.value).startswith(f"{tmp_path / 'manifest.csv'}: ")
    assert words in str(caught.value)


# scan: errors


def test_a_missing_class_is_named(tmp_path: Path) -> None:
    touch(tmp_path / "one", "authentic/a.jpg", "synthetic/notes.txt")
    with pytest.raises(DataError, match=r"holds no synthetic image; .*both classes .*fake"):
        scan(tmp_path / "one")
    touch(tmp_path / "two", "train/fake/a.jpg")
    with pytest.raises(DataError, match=r"holds no authentic image in its split folders; .*both classes .*real"):
        scan(tmp_path / "two")


def test_a_class_that_lies_only_beside_the_split_folders_is_missing(tmp_path: Path) -> None:
    touch(tmp_path, "train/authentic/a.jpg", "synthetic/b.jpg")
    with pytest.raises(DataError, match="holds no synthetic image in its split folders"):
        scan(tmp_path)


def test_an_empty_or_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no image in a class folder\. Lay it out as"):
        scan(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        scan(tmp_path / "missing")
    touch(tmp_path, "a.jpg")
    with pytest.raises(DataError, match="no such folder"):
        scan(tmp_path / "a.jpg")


def test_without_class_folders_the_error_tells_the_layout_and_what_was_seen(tmp_path: Path) -> None:
    touch(tmp_path, "cats/1.jpg", "cats/2.jpg", "dogs/3.jpg", "loose.jpg")
    with pytest.raises(DataError) as caught:
        scan(tmp_path)
    text = str(caught.value)
    for words in ("cats/ (2 images)", "dogs/ (1 images)", f"{tmp_path.name}/authentic/…", "train/, val/", "0_real"):
        assert words in text


# find_images


def test_images_come_in_the_order_in_which_they_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a.jpg", "folder/z.png", "folder/sub/y.png", "folder/notes.txt")
    named = [tmp_path / "b.jpg", tmp_path / "missing.jpg", tmp_path / "folder", tmp_path / "a.jpg", tmp_path / "b.jpg"]
    assert found(*named) == [
        str(tmp_path / name) for name in ("b.jpg", "missing.jpg", "folder/sub/y.png", "folder/z.png", "a.jpg", "b.jpg")
    ]


def test_a_file_is_taken_by_whatever_name_it_has(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt", ".hidden.jpg")
    assert found(tmp_path / "notes.txt", tmp_path / ".hidden.jpg") == [
        str(tmp_path / "notes.txt"),
        str(tmp_path / ".hidden.jpg"),
    ]


def test_patterns_are_sorted_and_may_be_relative_absolute_and_recursive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = [f"many/{i * 7 % 40:02}.jpg" for i in range(40)]  # made in no order, for file systems that keep it
    touch(tmp_path, "c.jpg", "a.jpg", "b.png", "sub/d.jpg", "sub/deep/e.jpg", *numbers)
    assert found(tmp_path / "many" / "*.jpg") == [str(tmp_path / name) for name in sorted(numbers)]
    assert found(tmp_path / "*.jpg") == [str(tmp_path / "a.jpg"), str(tmp_path / "c.jpg")]
    assert found(tmp_path / "**" / "*.jpg") == [
        str(tmp_path / name) for name in ("a.jpg", "c.jpg", *sorted(numbers), "sub/d.jpg", "sub/deep/e.jpg")
    ]
    monkeypatch.chdir(tmp_path)
    assert found("*.jpg", "sub/[d].jpg", "?.png") == ["a.jpg", "c.jpg", "sub/d.jpg", "b.png"]


def test_a_pattern_takes_files_and_not_the_folders_between_them(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "sub/b.jpg")
    assert found(tmp_path / "**") == [str(tmp_path / "a.jpg"), str(tmp_path / "sub" / "b.jpg")]
    assert found(tmp_path / "*") == [str(tmp_path / "a.jpg")]
    assert found(tmp_path / "s*") == [f"{tmp_path / 's*'}: no file matches the pattern"]


def test_a_file_or_folder_whose_name_is_a_pattern_is_itself(tmp_path: Path) -> None:
    touch(tmp_path, "[1].jpg", "1.jpg", "[x]/a.jpg", "what?.jpg")
    for name, expected in (("[1].jpg", "[1].jpg"), ("[x]", "[x]/a.jpg"), ("what?.jpg", "what?.jpg")):
        assert found(tmp_path / name) == [str(tmp_path / expected)]


def test_what_names_nothing_is_an_error_in_its_place_and_the_rest_goes_on(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "empty/notes.txt")
    items = list(find_images([str(tmp_path / name) for name in ("*.gif", "empty", "a.jpg")]))
    assert isinstance(items[0], ImageError)
    assert (items[0].name, items[0].reason) == (str(tmp_path / "*.gif"), "no file matches the pattern")
    assert isinstance(items[1], ImageError)
    assert (items[1].name, items[1].reason) == (str(tmp_path / "empty"), "is a folder without an image file")
    assert items[2:] == [tmp_path / "a.jpg"]


@pytest.mark.parametrize("name", ["a" * 300, "a" * 300 + "*.jpg", "a\0b.jpg", "a\0b/*.jpg"])
def test_a_name_that_no_file_can_have_is_handed_on_to_be_refused(name: str) -> None:
    items = list(find_images([name]))
    assert len(items) == 1
    assert str(items[0]).startswith(name)


def test_folders_that_may_not_be_listed_are_errors_and_the_rest_goes_on() -> None:
    # A folder that everyone may enter: pytest's own are closed to other users.
    with TemporaryDirectory() as folder:
        root = touch(Path(folder), "photos/a.jpg", "photos/locked/b.jpg", "photos/z.jpg", "last.jpg")
        root.chmod(0o755)
        (root / "photos" / "locked").chmod(0)
        # Root may list everything, so root looks as nobody.
        script = (
            "import os, sys; from mai_app.images.find import find_images, walk_images\n"
            "from mai_app.errors import DataError; from pathlib import Path\n"
            "if os.geteuid() == 0: os.setuid(65534)\n"
            "os.chdir(sys.argv[1])\n"
            "for item in find_images(['photos', 'photos/locked', 'photos/locked/b.jpg', 'last.jpg']): print(item)\n"
            "try: list(walk_images(Path('photos')))\n"
            "except DataError as error: print('DataError', error)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, folder],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            check=False,
        )
        (root / "photos" / "locked").chmod(0o755)  # to be removed
    assert done.stdout.splitlines() == [
        "photos/a.jpg",
        "photos/locked: can't be listed (Permission denied)",
        "photos/z.jpg",
        "photos/locked: can't be listed (Permission denied)",
        "photos/locked/b.jpg",
        "last.jpg",
        "DataError photos/locked: can't be listed (Permission denied)",
    ], done.stderr


def test_images_are_found_as_they_are_asked_for(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    asked: list[str] = []

    def names() -> Iterable[str]:
        for name in ("a.jpg", "b.jpg", "c.jpg"):
            asked.append(name)
            yield str(tmp_path / name)

    items = find_images(names())
    assert asked == []
    assert next(items) == tmp_path / "a.jpg"
    assert asked == ["a.jpg"]


def test_a_walk_is_depth_first_in_the_order_of_names(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.jpg", "b/1.jpg", "a.jpg", "c.jpg", "B.jpg")
    assert [path.relative_to(tmp_path).as_posix() for path in walk_images(tmp_path)] == [
        "B.jpg",
        "a.jpg",
        "b/1.jpg",
        "b/2.jpg",
        "c.jpg",
    ]


def test_an_empty_name_is_not_the_current_folder() -> None:
    (only,) = find_images([""])
    assert isinstance(only, ImageError)
