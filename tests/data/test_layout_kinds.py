"""Folders as people and published data sets have them: categories named like splits or classes, links, leftovers.

Every file below a data set's folder is used or left out with a reason, and a label is what an independent reading of
the tree says.
"""

import unicodedata
from collections import Counter
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mai_app.data.layout import NO_CLASS, NO_SPLIT, Folder, Layout, read_layout, scan
from mai_app.errors import DataError
from mai_app.images.find import BY_PROGRAMS, HIDDEN, NO_IMAGE, OTHER_NAME
from tests.data.test_layout import touch

PLAIN = {"authentic": 0, "real": 0, "0_real": 0, "synthetic": 1, "fake": 1, "1_fake": 1}
CONTENT = {"nature": 0, "ai": 1}
SPLITS = {"train": "train", "val": "val", "test": "test", "validation": "val"}


def counts(layout: Layout) -> dict[tuple[int, str], int]:
    return dict(Counter((record.label, record.split) for record in layout.records))


def every_file(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def all_are_counted(root: Path, layout: Layout) -> None:
    used = [record.file for record in layout.records]
    assert sorted(used + [file for files in layout.left_out.values() for file in files]) == every_file(root)


def attempt(root: Path) -> Layout | DataError:
    try:
        return read_layout(root)
    except DataError as error:
        return error


# Layouts of published data sets


def test_forensynths_has_a_category_called_train(tmp_path: Path) -> None:
    for category in ("airplane", "bird", "train", "tvmonitor"):
        touch(tmp_path, f"progan/{category}/0_real/0.png", f"progan/{category}/1_fake/0.png")
    touch(tmp_path, "stargan/0_real/0.png", "stargan/1_fake/0.png")
    layout = read_layout(tmp_path)
    assert counts(layout) == {(0, ""): 5, (1, ""): 5}
    assert {record.source for record in layout.records if "/train/" in record.file} == {"train"}
    assert [note for note in layout.notes if "progan/train: taken for categories" in note]


def test_forensynths_as_downloaded_has_the_category_below_its_splits(tmp_path: Path) -> None:
    for folder in ("train", "val", "test/progan"):
        for category in ("airplane", "train"):
            touch(tmp_path, f"{folder}/{category}/0_real/0.png", f"{folder}/{category}/1_fake/0.png")
    layout = read_layout(tmp_path)
    assert counts(layout) == {(label, split): 2 for label in (0, 1) for split in ("train", "val", "test")}
    assert not layout.notes
    assert {record.source for record in layout.records} == {"airplane", "train"}


def test_genimage_with_a_generator_that_has_no_train_part(tmp_path: Path) -> None:
    for part in ("Midjourney/imagenet_midjourney/train", "Midjourney/imagenet_midjourney/val", "ADM/imagenet_adm/val"):
        touch(tmp_path, f"{part}/ai/0.png", f"{part}/nature/0.JPEG")
    layout = read_layout(tmp_path)
    assert counts(layout) == {(0, "train"): 1, (1, "train"): 1, (0, "val"): 2, (1, "val"): 2}
    assert {record.source for record in layout.records} == {"imagenet_midjourney", "imagenet_adm"}


def test_cifake_and_an_image_folder_of_the_two_classes(tmp_path: Path) -> None:
    touch(tmp_path / "cifake", "train/REAL/0 (1).jpg", "train/FAKE/0.jpg", "test/REAL/1.jpg", "test/FAKE/1.jpg")
    assert counts(read_layout(tmp_path / "cifake")) == {(i, split): 1 for i in (0, 1) for split in ("train", "test")}
    touch(tmp_path / "folder", "fake/n01/0.png", "fake/n02/0.png", "real/n01/0.png")
    assert counts(read_layout(tmp_path / "folder")) == {(0, ""): 1, (1, ""): 2}


def test_an_image_folder_of_other_classes_is_refused_with_what_to_write_and_then_read(tmp_path: Path) -> None:
    touch(
        tmp_path, "train/camera/0.png", "train/flux/0.png", "train/flux/1.png", "test/camera/1.png", "test/flux/2.png"
    )
    with pytest.raises(DataError) as caught:
        scan(tmp_path)
    for words in ("train/flux/ (2 images)", "test/camera/ (1 images)", "manifest.csv", "train/flux,synthetic"):
        assert words in str(caught.value)
    rows = ["train/flux,synthetic", "test/flux,synthetic", "train/camera,authentic", "test/camera,authentic"]
    (tmp_path / "manifest.csv").write_text("\n".join(["file,label", *rows]))
    layout = read_layout(tmp_path)
    assert counts(layout) == {(1, "train"): 2, (0, "train"): 1, (1, "test"): 1, (0, "test"): 1}
    assert [record.source for record in layout.records] == ["camera", "flux", "camera", "flux", "flux"]
    all_are_counted(tmp_path, layout)


def test_diffusion_forensics_names_its_fakes_by_generator(tmp_path: Path) -> None:
    for part in ("train/lsun_bedroom", "test/imagenet"):
        touch(tmp_path, f"{part}/real/0.png", f"{part}/adm/000/0.png", f"{part}/adm/001/0.png")
    with pytest.raises(DataError, match=r"holds no synthetic image.*manifest.csv.*train/lsun_bedroom/adm,synthetic"):
        scan(tmp_path)
    (tmp_path / "manifest.csv").write_text(
        "file,label,generator\ntrain/lsun_bedroom/adm/,synthetic,adm\ntest/imagenet/adm/,fake,adm\n"
    )
    layout = read_layout(tmp_path)
    assert counts(layout) == {(0, "train"): 1, (1, "train"): 2, (0, "test"): 1, (1, "test"): 2}
    assert {record.generator for record in layout.records if record.label} == {"adm"}


def test_community_forensics_sorted_by_generator_and_class(tmp_path: Path) -> None:
    for name in ("StableDiffusion/runwayml", "GAN/stylegan3", "real_sources/coco"):
        label = "real" if "coco" in name else "fake"
        touch(tmp_path, f"PublicEval/{name}/{label}/0.png")
    assert counts(read_layout(tmp_path)) == {(0, ""): 1, (1, ""): 2}


# Names that are those of splits


@pytest.mark.parametrize("name", ["test", "train", "val", "Validation"])
def test_a_folder_of_ones_own_that_is_called_like_a_split(tmp_path: Path, name: str) -> None:
    for label in ("authentic", "synthetic"):
        touch(tmp_path, *(f"{label}/{album}/{i}.jpg" for album in ("city", "nature", name) for i in range(3)))
    layout = read_layout(tmp_path)
    assert counts(layout) == {(0, ""): 9, (1, ""): 9}
    assert f"authentic/{name}, synthetic/{name}: taken for categories" in layout.notes[0]
    # A row of the manifest makes it a split all the same; what is in none is then counted.
    (tmp_path / "manifest.csv").write_text(f"file,split\nauthentic/{name},test\nsynthetic/{name},test\n")
    layout = read_layout(tmp_path)
    assert counts(layout) == {(0, "test"): 3, (1, "test"): 3}
    assert len(layout.left_out[NO_SPLIT]) == 12
    all_are_counted(tmp_path, layout)


def test_a_category_named_like_a_split_may_stand_alone_in_one_place(tmp_path: Path) -> None:
    touch(
        tmp_path, "progan/train/0_real/0.png", "progan/train/1_fake/0.png", "biggan/0_real/0.png", "biggan/1_fake/0.png"
    )
    assert counts(read_layout(tmp_path)) == {(0, ""): 2, (1, ""): 2}
    touch(tmp_path / "loose", "real/0.png", "real/test/1.png", "fake/0.png", "fake/test/1.png")
    assert counts(read_layout(tmp_path / "loose")) == {(0, ""): 2, (1, ""): 2}


def test_what_lies_beside_split_folders_is_counted_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("train", "test", "extra"):
        touch(tmp_path, f"{part}/real/0.png", f"{part}/fake/0.png")
    layout = read_layout(tmp_path)
    assert counts(layout) == {(label, split): 1 for label in (0, 1) for split in ("train", "test")}
    assert layout.left_out == {NO_SPLIT: ["extra/fake/0.png", "extra/real/0.png"]}
    scan(tmp_path)
    assert f"{tmp_path}: left out: 2 files {NO_SPLIT} (extra/ 2" in capsys.readouterr().err


# Names that are those of classes


@pytest.mark.parametrize("category", ["nature", "Nature", "AI", "ai"])
@pytest.mark.parametrize("classes", [("real", "fake"), ("0_real", "1_fake"), ("nature", "ai")])
def test_a_category_called_like_a_class(tmp_path: Path, category: str, classes: tuple[str, str]) -> None:
    for name in (category, "people", "city"):
        touch(tmp_path, *(f"{name}/{label}/{i}.png" for label in classes for i in range(4)))
    layout = read_layout(tmp_path)
    assert counts(layout) == {(0, ""): 12, (1, ""): 12}
    assert {record.label for record in layout.records if f"/{classes[1]}/" in record.file} == {1}


def test_nature_below_a_class_and_both_names_above_a_whole_pair(tmp_path: Path) -> None:
    touch(tmp_path / "below", "fake/nature/0.png", "fake/ai/0.png", "real/ai/0.png", "real/nature/0.png")
    assert {record.file[:4]: record.label for record in scan(tmp_path / "below")} == {"fake": 1, "real": 0}
    for name in ("nature", "ai", "people"):
        touch(tmp_path / "above", f"{name}/real/0.png", f"{name}/fake/0.png")
    assert counts(read_layout(tmp_path / "above")) == {(0, ""): 3, (1, ""): 3}


def test_a_category_without_class_folders_is_no_class(tmp_path: Path) -> None:
    touch(tmp_path, "people/real/0.png", "people/fake/0.png", "nature/0.png")
    layout = read_layout(tmp_path)
    assert counts(layout) == {(0, ""): 1, (1, ""): 1}
    assert layout.left_out == {NO_CLASS: ["nature/0.png"]}


@pytest.mark.parametrize("classes", [("real", "fake"), ("x/0_real", "x/1_fake"), ("GenImage/nature", "GenImage/ai")])
@pytest.mark.parametrize("category", ["nature", "AI"])
def test_a_category_beside_others_is_no_class_where_classes_have_other_names(
    tmp_path: Path, classes: tuple[str, str], category: str
) -> None:
    # midjourney/nature would be authentic else, without a word.
    touch(tmp_path, *(f"{name}/0.png" for name in classes), f"midjourney/{category}/0.png", "midjourney/city/0.png")
    layout = read_layout(tmp_path)
    assert counts(layout) == {(0, ""): 1, (1, ""): 1}
    assert layout.left_out == {NO_CLASS: sorted([f"midjourney/{category}/0.png", "midjourney/city/0.png"])}
    assert any("midjourney/" in note for note in layout.notes)
    (tmp_path / "manifest.csv").write_text("file,label\nmidjourney,synthetic\n")
    assert counts(read_layout(tmp_path)) == {(0, ""): 1, (1, ""): 3}


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("synthetic/portraits/real/x.png", "synthetic and real"),
        ("real/fake/x.png", "real and fake"),
        ("ai/real/x.png", "real and ai"),
        ("nature/ai/x.png", "nature and ai"),
    ],
)
def test_names_of_both_classes_are_refused_with_the_path_until_the_manifest_decides(
    tmp_path: Path, file: str, names: str
) -> None:
    touch(tmp_path, "a/real/0.png", "b/fake/0.png", f"c/{file}", f"c/{PurePosixPath(file).parent}/y.png")
    folder = f"c/{PurePosixPath(file).parent}"
    with pytest.raises(DataError) as caught:
        scan(tmp_path)
    for words in ("2 images", f"c/{file} ({names})", f"{folder},authentic"):
        assert words in str(caught.value)
    (tmp_path / "manifest.csv").write_text(f"file,label\n{folder},authentic\n")
    assert counts(read_layout(tmp_path)) == {(0, ""): 3, (1, ""): 1}


def test_a_label_of_the_manifest_that_the_folder_contradicts_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "real/0.png", "fake/0.png", "nature/0.png")
    (tmp_path / "manifest.csv").write_text("file,label\nreal/0.png,0\nnature/0.png,synthetic\nfake/0.png,cat\n")
    layout = read_layout(tmp_path)
    assert [(record.file, record.label) for record in layout.records] == [
        ("fake/0.png", 1),
        ("nature/0.png", 1),
        ("real/0.png", 0),
    ]
    assert "1 rows have another label than authentic, real," in layout.notes[0]
    assert layout.notes[0].endswith("(cat)")
    (tmp_path / "manifest.csv").write_text("file,label\nreal/0.png,synthetic\n")
    with pytest.raises(DataError, match=r"1 image.*real/0.png \(real and, in manifest.csv, synthetic\)"):
        scan(tmp_path)


# Beside the classes, links, leftovers


def test_folders_beside_the_classes_are_counted_and_named(tmp_path: Path) -> None:
    touch(
        tmp_path, "real/0.png", "fake/0.png", *(f"{name}/{i}.png" for name in ("fakes", "ai_generated") for i in "01")
    )
    layout = read_layout(tmp_path)
    assert layout.left_out == {NO_CLASS: ["ai_generated/0.png", "ai_generated/1.png", "fakes/0.png", "fakes/1.png"]}
    assert f"left out: 4 files {NO_CLASS} (ai_generated/ 2, fakes/ 2; manifest.csv can" in layout.notes[0]


def test_linked_folders_are_followed_unless_they_lead_back(tmp_path: Path) -> None:
    touch(tmp_path / "pool", "real/0.png", "real/1.png", "fake/deep/0.png")
    touch(tmp_path / "data", "real/own/0.png", "other/0.png")
    for link, target in {
        "data/real/more": "../../pool/real",
        "data/fake": "../pool/fake",
        "data/up": "..",
        "data/real/loop": "../real",
        "pool/fake/deep/back": "../..",
        "pool/fake/twin": "../../data/other",
    }.items():
        (tmp_path / link).symlink_to(target, target_is_directory=True)
    layout = read_layout(tmp_path / "data")
    assert [record.file for record in layout.records] == [
        "fake/deep/0.png",
        "fake/twin/0.png",
        "real/more/0.png",
        "real/more/1.png",
        "real/own/0.png",
    ]
    assert sorted(
        note.split(": ")[0].removeprefix(f"{tmp_path}/") for note in layout.notes if "leads back" in note
    ) == [
        "data/fake/deep/back",
        "data/real/loop",
        "data/up",
    ]


def test_links_that_were_unpacked_as_texts_are_named_where_no_image_is_left(tmp_path: Path) -> None:
    for name in ("real", "fake"):
        (tmp_path / name).write_text(f"../pool/{name}")
    with pytest.raises(DataError, match=r"no image in a class folder.*Left out: 2 without a suffix.*\(fake, real\)"):
        scan(tmp_path)


def test_leftovers_of_other_programs_are_left_out_with_the_reason(tmp_path: Path) -> None:
    touch(tmp_path, "real/0.jpg", "fake/0.jpg", "real/@eaDir/0.jpg/SYNOPHOTO_THUMB_XL.jpg", "real/.thumbnails/0.jpg")
    touch(tmp_path, "__MACOSX/real/._0.jpg", "fake/#recycle/1.jpg", "fake/._0.jpg", "fake/LICENSE", "notes.txt")
    layout = read_layout(tmp_path)
    assert {reason: len(files) for reason, files in layout.left_out.items()} == {
        BY_PROGRAMS: 3,
        HIDDEN: 2,
        NO_IMAGE: 1,
        OTHER_NAME: 1,
    }
    all_are_counted(tmp_path, layout)
    assert [note.removeprefix(f"{tmp_path}: left out: ").partition(" (")[0] for note in layout.notes] == [
        f"3 files {BY_PROGRAMS}",
        f"2 files {HIDDEN}",
        f"1 file {NO_IMAGE}",
        f"1 file {OTHER_NAME}",
    ]


def test_a_folder_with_one_label_counts_too(tmp_path: Path) -> None:
    touch(tmp_path, "0.jpg", "sub/1.NEF", "@eaDir/0.jpg", "notes.txt")
    layout = Folder("mine", tmp_path, 0).read()
    assert [record.file for record in layout.records] == ["0.jpg", "sub/1.NEF"]
    all_are_counted(tmp_path, layout)


# manifest.csv


def test_rows_match_whatever_writes_their_paths(tmp_path: Path) -> None:
    composed, decomposed = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")
    root = touch(
        tmp_path / "photos", f"real/{composed}.png", *(f"real/{i}.png" for i in range(6)), "fake/0.png", "fake/1.png"
    )
    names = [f"real/{decomposed}.png", "real\\0.png", "./real/1.png", "Real/2.PNG", "real//3.png", "photos/real/4.png"]
    names += [str(root.resolve() / "real" / "5.png"), ".\\fake\\0.png", "fake/./1.png"]
    (root / "manifest.csv").write_text("\n".join(["file,source", *(f"{name},s{i}" for i, name in enumerate(names))]))
    layout = read_layout(root)
    assert sorted(record.source for record in layout.records) == [f"s{i}" for i in range(9)]
    assert not layout.notes


def test_rows_that_match_nothing_or_not_for_certain_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.png", "real/A.png", "fake/b.png", "fake/notes.txt")
    rows = ["real/gone.png", "REAL/a.PNG", "fake/notes.txt", "", "fake/b.png", "fake\\b.png"]
    (tmp_path / "manifest.csv").write_text("\n".join(["file,source", *(f"{name},s{i}" for i, name in enumerate(rows))]))
    layout = read_layout(tmp_path)
    assert [record.source for record in layout.records] == ["s5", tmp_path.name, tmp_path.name]
    assert "3 of 5 rows name no image here (real/gone.png, REAL/a.PNG, fake/notes.txt)" in layout.notes[0]
    assert "1 rows name what an earlier row names (fake\\b.png); they hold" in layout.notes[1]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le"])
def test_a_manifest_in_any_unicode_encoding(tmp_path: Path, encoding: str) -> None:
    touch(tmp_path, "real/é.png", "fake/b.png")
    (tmp_path / "manifest.csv").write_bytes("file,source\r\nreal/é.png,film\r\n".encode(encoding))
    assert scan(tmp_path)[1].source == "film"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "head", ["file;source", "sep=;\nfile;source", "sep=,\nFile, Source", "file\tsource", '"file";"source"']
)
def test_a_manifest_as_tables_are_saved_in_other_countries(tmp_path: Path, head: str, encoding: str) -> None:
    touch(tmp_path, "real/a, b.png", "fake/b.png")
    mark = next(mark for mark in ";\t," if mark in head.splitlines()[-1])
    text = f'{head}\n"real/a, b.png"{mark} film\nfake/b.png{mark}web\n'
    (tmp_path / "manifest.csv").write_bytes(text.replace("\n", "\r\n").encode(encoding))
    assert [record.source.strip() for record in scan(tmp_path)] == ["web", "film"]


def test_a_refusal_tells_of_the_rows_that_did_not_help(tmp_path: Path) -> None:
    touch(tmp_path, "a/0.png", "b/0.png", "real/fake/0.png")
    for row in ("real/fake/*,synthetic", "a,human"):
        (tmp_path / "manifest.csv").write_text(f"file,label\n{row}\n")
        with pytest.raises(DataError, match=r"1 of 1 rows name no image here \(real/fake|1 rows have another label"):
            scan(tmp_path)
    (tmp_path / "real" / "fake" / "0.png").unlink()
    (tmp_path / "manifest.csv").write_text("file,label\na,real\nb/*,fake\n")
    with pytest.raises(DataError, match=r"holds no synthetic image.* 1 of 2 rows name no image here \(b/\*\)"):
        scan(tmp_path)


# Random trees

CATEGORIES = st.lists(
    st.sampled_from(["train", "test", "val", "nature", "AI", "city", "people"]), max_size=4, unique=True
)
CLASSES = [("authentic", "synthetic"), ("real", "fake"), ("0_real", "1_fake"), ("nature", "ai"), ("REAL", "FAKE")]
JUNK = st.lists(
    st.sampled_from(
        ["notes.txt", ".hidden.jpg", "@eaDir/0.jpg/x.jpg", "README", "fakes/0.jpg", "loose.jpg", "__MACOSX/a.png"]
    ),
    unique=True,
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    classes=st.sampled_from(CLASSES),
    categories=CATEGORIES,
    below=st.booleans(),
    splits=st.sampled_from([(), ("train", "val", "test"), ("train", "test")]),
    junk=JUNK,
)
def test_sets_built_from_classes_categories_and_splits_are_read_as_they_were_built(
    classes: tuple[str, str], categories: list[str], below: bool, splits: tuple[str, ...], junk: list[str]
) -> None:
    """The truth is what the tree was built from: no name is looked at again."""
    if len({name for name in categories if name in SPLITS}) > 1 or set(categories) <= SPLITS.keys():
        categories = [*(name for name in categories if name not in SPLITS), "dogs"]
    truth = {}
    for split in splits or ("",):
        for category in categories:
            for label, name in enumerate(classes):
                folders = (split, name, category) if below else (split, category, name)
                truth["/".join([*filter(None, folders), "0.png"])] = (label, split)
    with TemporaryDirectory() as folder:
        root = touch(Path(folder), *truth, *junk)
        layout = attempt(root)
        if isinstance(layout, DataError):
            # nature and ai as classes beside nature or ai as a category: refused, with such a path.
            assert "names of both classes" in str(layout)
            assert classes == ("nature", "ai")
            assert {name.lower() for name in categories} & {"nature", "ai"}
            return
        assert {record.file: (record.label, record.split) for record in layout.records} == truth
        all_are_counted(root, layout)


NAMES = [*PLAIN, *CONTENT, *SPLITS, "cats", "dogs"]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from(NAMES), max_size=4), st.sampled_from(["0.jpg", "1.png", "a.txt", ".b.jpg"])),
        min_size=1,
        max_size=12,
    )
)
def test_of_any_tree_every_file_is_used_or_counted_and_no_label_is_turned(tree: list[tuple[list[str], str]]) -> None:
    with TemporaryDirectory() as folder:
        root = touch(Path(folder), *("/".join([*folders, name]) for folders, name in tree))
        layout = attempt(root)
        if isinstance(layout, DataError):
            return
        all_are_counted(root, layout)
        for record in layout.records:
            folders = record.file.split("/")[:-1]
            plain = {PLAIN[name] for name in folders if name in PLAIN}
            assert plain <= {record.label}
            assert plain or record.label in {CONTENT[name] for name in folders if name in CONTENT}
            assert record.split in {"", *(SPLITS[name] for name in folders if name in SPLITS)}
        assert len({bool(record.split) for record in layout.records}) == 1
