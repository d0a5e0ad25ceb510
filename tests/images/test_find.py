"""Which files of a folder are taken for images, by name and by first bytes, and what is said of the others."""

import io
from pathlib import Path

import pytest
from PIL import Image

from mai_app.errors import ImageError
from mai_app.images.find import find_images, has_image_name, looks_like_image, named_paths

JPEG = b"\xff\xd8\xff\xe0\0\x10JFIF"


@pytest.mark.parametrize(
    "name",
    [
        *("a.jpg", "A.JPG", "a.jfif", "a.pjp", "a.pjpeg", "DSC1.HIF", "a.heic", "a.avifs", "a.jp2", "a.jpx", "a.jxr"),
        *("a.jpg_large", "a.jpg-large", "a.png:orig", "a.jpg_4096x4096", "a.jpg!w700", "a.webp@100w", "a.jpg?v=1.2"),
        *("a.jpg.1", "a.DNG", "a.nef", "a.cr2", "a.CR3", "a.arw", "a.raf", "a.orf", "a.rw2", "a.pef", "a.x3f"),
        *("a.arq", "a.ori", "a.ptx", "a.dcs", "a.drf", "a.k25"),
    ],
)
def test_names_of_images(name: str) -> None:
    assert has_image_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "a.txt",
        "jpg",
        "a.jpg.txt",
        "a.jpg_original",
        "a.jpg.part",
        "a.jpg.xmp",
        "a.jpg.2024",
        "a.mov",
        "a.zip",
        "manifest.csv",
    ],
)
def test_names_of_other_files(name: str) -> None:
    assert not has_image_name(name)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000"])
def test_first_bytes_of_images(file_format: str) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, file_format)
    assert looks_like_image(stream.getvalue()[:32])


@pytest.mark.parametrize(
    "head",
    [b"", b"BMW makes cars, and motorcycles", b"MIT License", b"%PDF-1.7", b"PK\3\4", b"\0\0\0\x18ftypisom"],
)
def test_first_bytes_of_other_files(head: bytes) -> None:
    assert not looks_like_image(head)


def test_files_without_a_suffix_are_rows_of_a_folder_only_if_they_are_images(tmp_path: Path) -> None:
    for name, data in {
        "photo": JPEG,
        "Screenshot at 10.15.30": b"\x89PNG\r\n\x1a\n",
        "Makefile": b"all:\n",
        "LICENSE": b"MIT",
        "empty": b"",
        "sensor.raw": b"II*\0",
        "weights.raw": b"\0\1\2\3",
        "b.cr3": b"whatever it is",
    }.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "gone").symlink_to("nowhere")
    names = [Path(str(path)).name for path in find_images([str(tmp_path)])]
    assert names == ["Screenshot at 10.15.30", "b.cr3", "gone", "photo", "sensor.raw"]
    # Named by a person, a file is a row whatever it is.
    assert list(find_images([str(tmp_path / "LICENSE")])) == [tmp_path / "LICENSE"]


def test_thumbnails_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["a.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg", "@eaDir/a.jpg/SYNOINDEX_MEDIA_INFO", ".thumbnails/a.jpg"]
    names += ["__MACOSX/._a.jpg", "sub/.@__thumb/b.jpg", "sub/@Recycle/c.jpg", "._a.jpg", ".DS_Store", "notes.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list(find_images([str(tmp_path)])) == [tmp_path / "a.jpg"]
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path}: left out: 3 files hidden by a dot in front of a name",
        f"{tmp_path}: left out: 3 files in folders of thumbnails, snapshots or deleted files",
    ]
    (only,) = find_images([str(tmp_path / "@eaDir")])  # named by a person, it is what is meant
    assert isinstance(only, Path)
    (none,) = find_images([str(tmp_path / "sub")])
    assert isinstance(none, ImageError)


def test_linked_folders_are_searched_and_loops_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.jpg").touch()
    (tmp_path / "a" / "to_b").symlink_to("../b")
    (tmp_path / "b" / "to_a").symlink_to("../a")
    found = [Path(str(path)).relative_to(tmp_path).as_posix() for path in find_images([str(tmp_path / "a")])]
    assert found == ["a/to_b/1.jpg"]
    assert (
        f"{tmp_path / 'a'}: left out: 1 linked folder that leads back to a folder that holds it"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("first", ["größe.jpg", "фото.jpg", "写真/1.jpg"])
def test_a_list_on_standard_input_in_any_unicode_encoding(
    monkeypatch: pytest.MonkeyPatch, encoding: str, first: str
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(f"{first}\r\n\r\nb.jpg".encode(encoding)))
    monkeypatch.setattr("sys.stdin", stream)
    assert list(named_paths(["a.jpg", "-"])) == ["a.jpg", first, "b.jpg"]


def test_quotes_around_a_name_of_a_list_are_taken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path('"really".jpg').touch()
    Path('"b"').touch()
    text = '"C:\\my photos\\a.jpg"\r\n"really".jpg\n"b"\n"\n""\n'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert list(named_paths(["-"])) == ["C:\\my photos\\a.jpg", '"really".jpg', '"b"', '"', '""']
