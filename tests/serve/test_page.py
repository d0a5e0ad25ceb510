"""The page in a real browser, before a real server: from images dropped to results, heatmaps, reports and files."""

import asyncio
import csv
import io
import json
import re
import shutil
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from mai_app.config import ServeConfig, ServeLimits, Verdict
from mai_app.errors import ImageError
from mai_app.evidence.statements import Evidence
from mai_app.images.decode import decode
from mai_app.inference.detector import load
from mai_app.inference.prediction import COLUMNS, ImageFacts, ModelFacts, Prediction, prediction_of, write_rows
from mai_app.serve.api import create_app
from mai_app.serve.backend import Backend, BusyError, FileResult, Files
from mai_app.serve.server import local_backend
from tests.conftest import picture
from tests.serve.serving import serving

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=f"needs one of {', '.join(BROWSERS)} on the PATH")

LIMITS = ServeLimits(max_body_bytes=2**20, requests_per_minute=100_000, retry_after_seconds=1)
HTML = "<img src=x onerror=document.title='run'>.png"
TIERS: dict[str, dict[str, float | None]] = {
    "clean": {"images": 1230, "fpr": 0.07, "tpr": 0.6, "unsure": 0.5, "right": 0.95, "fpr_bound": 0.09},
    "hard": {"images": 1230, "fpr": 0.11, "tpr": 0.5, "unsure": 0.6, "right": None, "fpr_bound": 0.13},
}
FACTS = ModelFacts(
    name="lion",
    network="traces",
    version="0123456789ab",
    sha256="0123456789ab" + "c" * 52,
    trained_on="six",
    threshold=0.6,
    unsure_low=0.25,
    unsure_high=0.75,
    calibrated_on="",
    authentic_images=610,
    synthetic_images=620,
    tiers=TIERS,
)
TIGER = replace(FACTS, name="tiger", version="ffffffffffff", sha256="f" * 64, tiers={})
OLD_TIERS: dict[str, dict[str, float | None]] = {
    "clean": {"images": 1230, "fpr": 0.07, "tpr": 0.6, "unsure": 1.0, "right": None}
}
OLD = replace(FACTS, name="old", version="eeeeeeeeeeee", sha256="e" * 64, tiers=OLD_TIERS)
"""A model of format 2, which knows no bounds and is always unsure."""
EVIDENCE = (
    Evidence("Content Credentials", "synthetic", "signed", "Made by <b>a model</b>.", (("signer", "A\u202eB"),)),
    Evidence("EXIF", "authentic", "hint", "A camera's name.", ()),
    Evidence("XMP", "edited", "declared", "Saved by an editor.", (("tool", "x" * 300),)),
    Evidence("JPEG tables", "nothing", "hint", "Tables of a library.", ()),
)
SCORES: dict[Verdict, float] = {"authentic": 0.04, "unsure": 0.52, "synthetic": 0.83}


@dataclass
class Fake:
    """A backend whose scores depend on the files' names; records its requests."""

    models: tuple[ModelFacts, ...] = (FACTS,)
    busy: int = 0
    """Number of further requests to refuse."""
    seconds: float = 0.0
    """How long a prediction takes."""
    predictions: dict[str, Prediction] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    requested_models: list[str] = field(default_factory=list)
    """Model names, as requested."""
    now: int = 0
    max_at_once: int = 0
    """Concurrent requests, and the maximum seen."""

    @property
    def backend(self) -> Backend:
        return Backend(self.predict, self.heatmap, self.list)

    async def predict(self, files: Files, model: str) -> list[FileResult]:
        if self.busy:
            self.busy -= 1
            raise BusyError("too much to do")
        self.now += 1
        self.max_at_once = max(self.max_at_once, self.now)
        await asyncio.sleep(self.seconds)
        self.now -= 1
        ((name, data),) = files
        facts = next((one for one in self.models if one.name == model), self.models[0])
        self.names.append(name)
        self.requested_models.append(model)
        self.predictions[name] = predicted(name, data, facts)
        return [(asdict(self.predictions[name]), asdict(facts))]

    async def heatmap(self, name: str, data: bytes, model: str) -> bytes:
        self.requested_models.append(model)
        if self.busy:
            self.busy -= 1
            raise ImageError(name, "is not to be shown")
        height, width = decode(data, name).pixels.shape[:2]
        return encoded(Image.new("RGB", (width, height), (186, 84, 4)))

    async def list(self) -> list[dict[str, Any]]:
        return [asdict(one) for one in self.models]


def predicted(name: str, data: bytes, facts: ModelFacts) -> Prediction:
    """The fake's prediction: the verdict in the file's name."""
    nothing = Prediction(
        path=name,
        p_synthetic=None,
        verdict=None,
        threshold=facts.threshold,
        unsure_low=facts.unsure_low,
        unsure_high=facts.unsure_high,
        model=facts.network,
        version=facts.version,
        image=None,
        notes=(),
        evidence=None,
        error=None,
    )
    try:
        decoded = decode(data, name)
    except ImageError as error:
        return replace(nothing, error=error.reason)
    height, width = decoded.pixels.shape[:2]
    verdict: Verdict = next((word for word in SCORES if word in name), "unsure")
    doubt = ("too small to be judged",) if "small" in name else ()
    return replace(
        nothing,
        p_synthetic=SCORES[verdict],
        verdict="unsure" if doubt else verdict,
        image=ImageFacts(width, height, decoded.format, decoded.file_bytes, 1, decoded.jpeg_quality, 5),
        notes=doubt,
        evidence=EVIDENCE if "evidence" in name else (),
    )


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def photo(seed: int = 1, form: str = "JPEG") -> bytes:
    return encoded(Image.fromarray(picture(np.random.default_rng(seed), 0)), form)


@contextmanager
def at_address(app: FastAPI, port: int = 0) -> Iterator[str]:
    """The app on a free port, or this one; yields its address."""
    with serving(app, port) as ask:
        yield f"http://127.0.0.1:{ask.port}/"  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=60_000)  # a machine may have other work
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def site() -> Iterator[tuple[str, Fake]]:
    fake = Fake()
    with at_address(create_app(fake.backend, open_page=True, limits=LIMITS)) as url:
        yield url, fake


@pytest.fixture
def url(site: tuple[str, Fake]) -> str:
    return site[0]


@pytest.fixture
def fake(site: tuple[str, Fake]) -> Fake:
    """The site's backend, as new."""
    site[1].__init__()  # type: ignore[misc]
    return site[1]


Open = Callable[..., Page]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """Open an address in a fresh page; afterwards nothing may have been asked elsewhere, complained of or refused."""
    pages: list[tuple[str, Page]] = []
    complaints: list[str] = []
    asked: list[str] = []

    def opened(address: str, **settings: Any) -> Page:
        page = browser.new_context(**settings).new_page()
        pages.append((address, page))
        page.set_default_timeout(60_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.add_init_script(
            "window.refused = []; addEventListener('securitypolicyviolation', e => refused.push(e.violatedDirective))"
        )
        page.goto(address)
        return page

    yield opened
    refused = [page.evaluate("refused") for _, page in pages]
    for _, page in pages:
        page.context.close()
    assert not any(refused)
    # What the browser itself writes of a status or a server that is gone is no fault of the page.
    assert not [text for text in complaints if not text.startswith("Failed to load resource")]
    assert asked
    assert not [one for one in asked if not one.startswith((*(address for address, _ in pages), "blob:", "data:"))]


def drop(page: Page, *files: tuple[str, bytes], event: str = "drop", kind: str = "image/jpeg") -> None:
    """Drop, or paste, files of these names and bytes."""
    page.evaluate(
        """([files, event, type]) => {
            const transfer = new DataTransfer();
            for (const [name, data] of files) {
                transfer.items.add(new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], name, { type }));
            }
            const options = { bubbles: true, cancelable: true };
            document.querySelector("main").dispatchEvent(event === "paste"
                ? new ClipboardEvent(event, { ...options, clipboardData: transfer })
                : new DragEvent(event, { ...options, dataTransfer: transfer }));
        }""",
        [[(name, b64encode(data).decode()) for name, data in files], event, kind],
    )


def rows(page: Page, count: int) -> Locator:
    """The rows, as soon as so many are done."""
    expect(page.locator(".row:not(.busy)")).to_have_count(count)
    expect(page.locator(".row")).to_have_count(count)
    return page.locator(".row")


def saved(page: Page, button: str) -> str:
    with page.expect_download() as waited:
        page.get_by_role("button", name=button, exact=True).click()
    return waited.value.path().read_text("utf-8-sig")


def test_a_dropped_image_gets_a_verdict_and_a_score_on_a_scale(visit: Open, url: str, fake: Fake) -> None:
    page = visit(url)
    drop(page, ("evidence synthetic.jpg", photo()))
    row = rows(page, 1).first
    expect(row.locator(".verdict")).to_have_text("Looks synthetic")
    expect(row.locator(".number")).to_have_text("0.83score")
    expect(row.locator(".meaning")).to_contain_text("no proof")
    expect(row.locator(".wrong")).to_contain_text("Of 610 authentic validation images, this model called 7.0\u00a0%")
    expect(row.locator(".wrong")).to_contain_text("up to 11\u00a0% in its worst tier (hard")
    expect(row.locator(".wrong")).to_contain_text("(90\u00a0% bound: 13\u00a0%)")
    scale = row.get_by_role("img", name="Score 0.83, on a scale from 0, authentic, to 1, synthetic.")
    expect(scale).to_have_accessible_name(
        "Score 0.83, on a scale from 0, authentic, to 1, synthetic. Unsure from 0.25 to 0.75. Threshold 0.60."
    )
    whole, band, fill, tick = (row.locator(f".scale {part}").bounding_box() for part in ("", ".band", ".fill", ".tick"))
    assert whole
    assert band
    assert fill
    assert tick

    def at(x: float) -> float:
        return (x - whole["x"]) / whole["width"]

    assert at(band["x"]) == pytest.approx(0.25, abs=0.01)
    assert at(band["x"] + band["width"]) == pytest.approx(0.75, abs=0.01)
    assert at(fill["x"] + fill["width"]) == pytest.approx(0.83, abs=0.01)
    assert at(tick["x"] + tick["width"] / 2) == pytest.approx(0.6, abs=0.01)
    expect(row.locator("canvas")).to_have_count(1)
    expect(page.get_by_role("status").first).to_have_text("evidence synthetic.jpg: Looks synthetic, score 0.83")
    row.get_by_text("Image and model details").click()
    expect(row.locator(".read dl")).to_contain_text("220×210 pixels")
    expect(row.locator(".read dl")).to_contain_text(FACTS.sha256)
    text = page.inner_text("body")
    assert "A score is no proof" in text
    assert "They are neither stored nor logged" in text
    assert "proven" not in text
    assert text.count("never change it") == 1


def test_evidence_and_notes_stand_beside_the_score(visit: Open, url: str, fake: Fake) -> None:
    page = visit(url)
    drop(page, ("evidence authentic.jpg", photo()), ("unsure.jpg", photo(2)), ("small synthetic.jpg", photo(3)))
    shown = rows(page, 3)
    lines = shown.nth(0).locator(".said li")
    expect(lines).to_have_count(4)
    expect(lines.nth(0)).to_contain_text("points to synthetic signed")
    expect(lines.nth(0)).to_contain_text("Made by <b>a model</b>.")
    expect(lines.nth(1)).to_contain_text("points to authentic a hint")
    expect(lines.nth(2)).to_contain_text("points to edited declared")
    expect(lines.nth(3)).to_contain_text("for information")
    lines.nth(0).get_by_text("Details in the file").click()
    expect(lines.nth(0).locator("dd")).to_have_text("A\\u{202e}B")
    expect(lines.nth(1).locator("summary")).to_be_hidden()
    expect(shown.nth(0).locator(".silent")).to_be_hidden()
    expect(shown.nth(1).locator(".silent")).to_contain_text("That means nothing either way")
    expect(shown.nth(1).locator(".meaning")).to_contain_text("where this model is wrong too often")
    expect(shown.nth(1).locator(".notes")).to_be_hidden()
    expect(shown.nth(2).locator(".verdict")).to_have_text("Unsure")
    expect(shown.nth(2).locator(".meaning")).to_contain_text("Whatever its score")
    expect(shown.nth(2).locator(".notes")).to_have_text("too small to be judged")


def test_twenty_are_scored_in_their_order_and_three_at_a_time(visit: Open, url: str, fake: Fake) -> None:
    fake.seconds = 0.02
    page = visit(url)
    names = [f"{('authentic', 'unsure', 'synthetic')[i % 3]} {i:02}.jpg" for i in range(20)]
    drop(page, *((name, photo()) for name in names))
    shown = rows(page, 20)
    assert shown.locator(".name").all_inner_texts() == names
    assert sorted(fake.names) == sorted(names)
    assert 1 < fake.max_at_once <= 3
    expect(page.locator("#count")).to_have_text("20 images · 6 look synthetic · 7 unsure · 7 look authentic")
    expect(page.get_by_role("status").first).to_contain_text("20 images")
    shown.nth(4).get_by_role("button", name="Remove").click()
    expect(shown).to_have_count(19)
    expect(shown.nth(4).get_by_role("button", name="Remove: synthetic 05.jpg")).to_be_focused()
    page.get_by_role("button", name="Clear all").click()
    expect(page.locator("#results")).to_be_hidden()
    expect(page.locator("#files")).to_be_focused()


def test_names_are_never_html_and_broken_files_say_why(visit: Open, url: str, fake: Fake) -> None:
    page = visit(url)
    drop(page, (HTML, photo()), ("broken.jpg", b"\xff\xd8 no"), ("a\u202egpj.exe", photo()), kind="text/html")
    drop(page, ("empty.jpg", b""), ("large.png", bytes(LIMITS.max_body_bytes + 1)))
    five = rows(page, 5)
    expect(five.nth(0).locator(".name")).to_have_text(HTML)
    assert page.title() != "run"
    assert five.locator("img").count() == 0
    expect(five.nth(1).locator(".verdict")).to_have_text("Not scored")
    reason = fake.predictions["broken.jpg"].error
    expect(five.nth(1).locator(".meaning")).to_have_text(f"This file {reason}.")
    expect(five.nth(1).get_by_role("button", name="Try again")).to_be_hidden()
    expect(five.nth(2).locator(".name")).to_have_text("a\\u{202e}gpj.exe")
    expect(five.nth(3).locator(".meaning")).to_have_text("There is no image in the body.")
    expect(five.nth(4).locator(".meaning")).to_have_text(f"The body is over {LIMITS.max_body_bytes} bytes.")


def test_pasting(visit: Open, url: str, fake: Fake) -> None:
    page = visit(url)
    drop(page, ("image.png", photo(form="PNG")), event="paste", kind="image/png")
    expect(rows(page, 1).locator(".name")).to_have_text("image.png")


def test_keyboard_alone(visit: Open, url: str, fake: Fake) -> None:
    page = visit(url)
    page.on("filechooser", lambda _: None)  # early, for the browser needs a moment to hand choosers over
    page.keyboard.press("Tab")
    expect(page.locator("#files")).to_be_focused()
    assert page.eval_on_selector("#drop", "node => getComputedStyle(node).outlineStyle") == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files({"name": "x.jpg", "mimeType": "image/jpeg", "buffer": photo()})
    row = rows(page, 1).first
    button = row.get_by_role("button", name="Heatmap")
    for _ in range(30):
        page.keyboard.press("Tab")
        if button.evaluate("node => node === document.activeElement"):
            break
    expect(button).to_be_focused()
    assert button.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Where the score comes from")).to_be_visible()
    assert page.evaluate("document.activeElement.closest('dialog').matches(':modal')")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(button).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="This is wrong")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".row")).to_have_count(0)


def test_the_heatmap_lies_over_the_image(visit: Open, url: str, fake: Fake) -> None:
    page = visit(url)
    page.evaluate("""() => {
        window.urls = 0;
        const { createObjectURL, revokeObjectURL } = URL;
        URL.createObjectURL = blob => { urls++; return createObjectURL.call(URL, blob); };
        URL.revokeObjectURL = url => { urls--; revokeObjectURL.call(URL, url); };
    }""")
    drop(page, ("x.jpg", photo()))
    row = rows(page, 1).first
    fake.busy = 1
    row.get_by_role("button", name="Heatmap").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("status")).to_have_text("Is not to be shown.")
    dialog.get_by_role("button", name="Try again").click()
    over = dialog.get_by_role("img", name="Heatmap of x.jpg")
    expect(over).to_be_visible()
    assert over.bounding_box() == dialog.locator("#heat-under").bounding_box()
    assert over.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [220, 210]
    expect(over).to_have_css("opacity", "0.6")
    dialog.get_by_role("slider", name="Heatmap over the image").press("Home")
    expect(over).to_have_css("opacity", "0")
    for words in ("blue: towards authentic", "grey or white: neither", "orange: towards synthetic", "not what was"):
        expect(dialog).to_contain_text(words)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator("#heat-over")).not_to_have_attribute("src", re.compile("blob"))
    assert page.evaluate("urls") == 0
    # What the browser can't show but the server can read.
    drop(page, ("x.tif", photo(form="TIFF")), kind="image/tiff")
    rows(page, 2).nth(1).get_by_role("button", name="Heatmap").click()
    expect(page.get_by_role("dialog").get_by_role("img", name="Heatmap of x.tif")).to_be_visible()
    expect(page.locator("#heat-under")).to_be_hidden()


def test_saved_and_copied_results_are_what_the_server_said(visit: Open, url: str, fake: Fake) -> None:
    page = visit(url, permissions=["clipboard-read", "clipboard-write"])
    names = ["evidence synthetic.jpg", "=cmd|' /C calc'!A0.jpg", 'a "b", c.jpg', "small -é.jpg"]
    drop(page, *((name, photo()) for name in names), ("@broken.jpg", b"no"), ("none.jpg", b""))
    rows(page, 6)
    expected = [json.loads(json.dumps(asdict(fake.predictions[name]))) for name in (*names, "@broken.jpg")]
    *judged, refused = json.loads(saved(page, "Save JSON"))
    assert judged == expected
    assert refused["error"] == "there is no image in the body"
    assert set(refused) == set(expected[0])
    text = saved(page, "Save CSV")
    *lines, last = csv.DictReader(io.StringIO(text, newline=""))
    assert last["path"] == "none.jpg"
    stream = io.StringIO()
    list(write_rows(map(prediction_of, expected), "csv", stream, lambda: "m"))
    stream.seek(0)
    wanted = list(csv.DictReader(stream))
    assert tuple(lines[0]) == COLUMNS
    for row in wanted:
        row["path"] = f"'{row['path']}" if row["path"][0] in "=@" else row["path"]
    assert lines == wanted
    page.get_by_role("button", name="Copy CSV").click()
    expect(page.get_by_role("status").first).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()").splitlines() == text.splitlines()
    copied = page.locator(".row").nth(1).locator(".to-json")
    copied.click()
    expect(copied).to_have_text("Copied")
    assert json.loads(page.evaluate("navigator.clipboard.readText()")) == expected[1]


def test_no_cell_is_a_formula(visit: Open, url: str, fake: Fake) -> None:
    page = visit(url)
    cells = page.evaluate(
        """["=1", "+1", "-1", "@a", "\\t=1", "\\ra", " =1", "＝1", "a,b", 'a"b', "a\\nb", "a-b"].map(cell)"""
    )
    assert cells == ["'=1", "'+1", "'-1", "'@a", "'\t=1", '"\'\ra"', "' =1", "'＝1", '"a,b"', '"a""b"', '"a\nb"', "a-b"]
    assert page.evaluate("[-1, 0.5, null, true].map(cell)") == ["-1", "0.5", "", "true"]


def test_a_report_is_prepared_and_nothing_is_sent(visit: Open, url: str, fake: Fake) -> None:
    page = visit(url, permissions=["clipboard-read", "clipboard-write"])
    drop(page, ("evidence synthetic.jpg", photo()))
    rows(page, 1).get_by_role("button", name="This is wrong").click()
    dialog = page.get_by_role("dialog", name="This is wrong")
    expect(dialog).to_contain_text("Nothing is sent.")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    expect(dialog.get_by_label("it is really authentic")).to_be_checked()
    dialog.get_by_label("Comment").fill("I painted it <b>myself</b>")
    text = dialog.get_by_role("region", name="The report").inner_text()
    for part in (
        "File: evidence synthetic.jpg",
        "Verdict: synthetic",
        "Score: 0.83 (threshold 0.6, unsure 0.25 to 0.75)",
        "It is really: authentic",
        f"Model: lion, version {FACTS.version}, SHA-256 {FACTS.sha256}",
        "Content Credentials (signed, synthetic): Made by",
        "Comment: I painted it <b>myself</b>",
    ):
        assert part in text
    dialog.get_by_role("button", name="Copy as text").click()
    expect(dialog.locator("#report-copy")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == text
    dialog.get_by_role("button", name="Copy as JSON").click()
    expect(dialog.locator("#report-json")).to_have_text("Copied")
    fields = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert fields["really"] == "authentic"
    assert fields["prediction"] == json.loads(json.dumps(asdict(fake.predictions["evidence synthetic.jpg"])))
    assert not asked


def test_a_busy_server_is_asked_again(visit: Open, url: str, fake: Fake) -> None:
    fake.busy = 1
    page = visit(url)
    drop(page, ("x.jpg", photo()))
    expect(page.locator(".verdict")).to_have_text("waiting: the server is busy …")
    assert rows(page, 1).locator(".number").inner_text().startswith("0.52")


def test_a_server_that_is_gone_may_come_back(visit: Open) -> None:
    fake = Fake()
    app = create_app(fake.backend, open_page=True, limits=LIMITS)
    with at_address(app) as url:
        page = visit(url)
    drop(page, ("x.jpg", photo()))
    row = rows(page, 1).first
    expect(row.locator(".verdict")).to_have_text("Not scored")
    expect(row.locator(".meaning")).to_contain_text("The server did not answer")
    with at_address(app, int(url.rstrip("/").rpartition(":")[2])):
        row.get_by_role("button", name="Try again").click()
        expect(row.locator(".verdict")).to_have_text("Unsure")
        expect(row.get_by_role("button", name="Try again")).to_be_hidden()


def test_a_model_can_be_chosen_where_there_are_several(visit: Open, url: str, fake: Fake) -> None:
    page = visit(url)
    expect(page.locator("#model-name")).to_have_text("lion")
    expect(page.locator("#models")).to_be_hidden()
    expect(page.locator("#rates")).to_contain_text("Of 610 authentic validation images")
    fake.models = (FACTS, TIGER)
    page = visit(url)
    expect(page.locator("#models")).to_be_visible()  # an image dropped before that goes to the default, unnamed
    drop(page, ("a.jpg", photo()))
    rows(page, 1)
    page.get_by_role("combobox", name="Model").select_option("tiger")
    expect(page.locator("#rates")).to_contain_text("was not measured")
    drop(page, ("b.jpg", photo()))
    two = rows(page, 2)
    assert fake.requested_models == ["lion", "tiger"]
    expect(two.nth(0).locator(".wrong")).to_contain_text("Of 610")
    expect(two.nth(1).locator(".wrong")).to_have_text("How often this model is wrong was not measured.")


def test_what_verdicts_are_worth_stands_beside_how_many_there_are(visit: Open, url: str, fake: Fake) -> None:
    page = visit(url)
    rates = page.locator("#rates")
    expect(rates).to_contain_text("It gave a verdict on 40\u00a0% to 50\u00a0% of all, and 95\u00a0% of these verdicts")
    page.get_by_text("The model, and what was measured tier by tier").click()
    table = rates.get_by_role("table")
    expect(table.locator("tr").nth(0)).to_contain_text("got a verdictof these right")
    expect(table.locator("tr").nth(1)).to_contain_text("50\u00a0%95\u00a0%")
    expect(rates).to_contain_text("means over the sources of the images")
    fake.models = (OLD,)
    rates = visit(url).locator("#rates")
    expect(rates).to_contain_text("It gave a verdict on 0\u00a0% of all.")
    expect(rates).not_to_contain_text("bound")
    expect(rates).not_to_contain_text("means over the sources")


CONTRAST = """() => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const rgba = colour => {
        canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
        return canvas.getImageData(0, 0, 1, 1).data;
    };
    const light = colour => [...rgba(colour)].slice(0, 3).map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const faint = [];
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const node = texts.currentNode.parentElement;
        if (!texts.currentNode.data.trim() || !node.checkVisibility() || node.matches("script, option")) continue;
        let behind = node;
        while (behind && rgba(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
        const back = getComputedStyle(behind ?? document.body).backgroundColor;
        const pair = [getComputedStyle(node).color, back].map(light);
        const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
        if (ratio < 4.5) faint.push(`${texts.currentNode.data.trim()}: ${ratio}`);
    }
    return faint;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_looks_and_names(visit: Open, url: str, fake: Fake, scheme: str) -> None:
    fake.models = (FACTS, TIGER)
    page = visit(url, color_scheme=scheme, viewport={"width": 360, "height": 740}, reduced_motion="reduce")
    red = page.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0])")
    assert (red > 128) == (scheme == "light")
    files = [(f"evidence {verdict} {'long' * 50}.jpg", photo()) for verdict in SCORES]
    drop(page, *files, ("broken.jpg", b"no"))
    first = rows(page, 4).first
    for summary in page.locator("summary:visible").all():
        summary.click()
    narrow = "document.scrollingElement.scrollWidth <= innerWidth"
    assert page.evaluate(narrow)
    assert page.evaluate(CONTRAST) == []
    assert_named(page)
    for button in ("Heatmap", "This is wrong"):
        first.get_by_role("button", name=button).click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_be_visible()
        assert dialog.evaluate("node => node.scrollWidth <= node.clientWidth")
        assert page.evaluate(CONTRAST) == []
        assert_named(page)
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
    drop(page, ("late.jpg", photo()))
    assert first.locator(".verdict .icon").evaluate("node => getComputedStyle(node).animationName") == "none"
    rows(page, 5)


def assert_named(page: Page) -> None:
    """Every control has a name by which those who can't see it know it."""
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    controls = {"button", "textbox", "slider", "radio", "combobox", "dialog", "image", "link", "DisclosureTriangle"}
    seen = [node for node in nodes if not node["ignored"] and node["role"]["value"] in controls]
    assert len(seen) >= 4
    assert not [node for node in seen if not node.get("name", {}).get("value", "").strip()]


def test_the_shipped_model_behind_the_page(visit: Open, tmp_path: Path) -> None:
    detector = load("traces", "cpu")
    (expected,) = detector.predict([("x.jpg", photo())], evidence=True)
    assert expected.p_synthetic is not None
    assert expected.verdict is not None
    with (
        local_backend(ServeConfig(model="traces", device="cpu", runs=tmp_path)) as backend,
        at_address(create_app(backend, open_page=True)) as url,
    ):
        page = visit(url)
        drop(page, ("x.jpg", photo()))
        row = rows(page, 1).first
        expect(row.locator(".number")).to_contain_text(f"{expected.p_synthetic:.2f}")
        expect(row).to_have_class(f"row {expected.verdict}")
        expect(row.locator(".wrong")).to_contain_text(f"Of {detector.facts.authentic_images} authentic")
        row.get_by_role("button", name="Heatmap").click()
        expect(page.get_by_role("img", name="Heatmap of x.jpg")).to_be_visible()
