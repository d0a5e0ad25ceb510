"""The pictures of the documentation, made from a simulated image: a heatmap, and a screenshot of the page.

python -m mai_app.demo.pictures [OUT=docs/pictures]    writes OUT/heatmap.png and OUT/page.png

The screenshot needs the extra `serve`, playwright, and Chromium or Chrome on the PATH. Judged by the shipped model.
"""

import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, PngImagePlugin

from mai_app.config import SHIPPED
from mai_app.core.files import write_bytes
from mai_app.core.log import say
from mai_app.demo.images import Exposure, generate
from mai_app.demo.scenes import render
from mai_app.errors import MaiError
from mai_app.images.decode import decode
from mai_app.inference.detector import load
from mai_app.inference.heatmap import heatmap, picture

OUT: Final = Path("docs/pictures")
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NAME: Final = "hills.png"
SEED: Final = (11, 11)
HEIGHT, WIDTH = 448, 640
RESULT_WIDTH, HEATMAP_WIDTH = 670, 590  # of the browser's window, in pixels: one stands left, one right
GAP: Final = 20
BACKDROP: Final = (205, 209, 217)
# True of this image: it is rendered, and no model was trained for it.
XMP: Final = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicMedia"/>'
    "</rdf:RDF></x:xmpmeta>"
)


def sample_image() -> bytes:
    """PNG of a rendered scene that passed through a simulated generator; its metadata say that an algorithm made it.

    Brighter and with less noise than the images of `make demo`, which are made to be learned from, not to be seen.
    """
    rng = np.random.default_rng(SEED)
    scene = np.clip(render(rng, "hills", HEIGHT, WIDTH) * np.float32(1.7), 0, 1)
    image, noise, _ = generate(rng, scene, Exposure(shot=3e-4, read=1e-3, contrast=0.9), "transposed-conv")
    pixels = ((image + np.float32(0.15) * noise).clip(0, 1) * 255).round().astype(np.uint8)
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", XMP)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", pnginfo=texts)
    return file.getvalue()


def heatmap_picture(data: bytes) -> Image.Image:
    """An image file's bytes as a picture, and beside it its heatmap by `traces`, whose cells are small."""
    pixels = decode(data, NAME).pixels
    shown = picture(pixels, heatmap(load("traces"), pixels))
    canvas = Image.new("RGB", (pixels.shape[1] + GAP + shown.shape[1], shown.shape[0]), "white")
    canvas.paste(Image.fromarray(pixels))
    canvas.paste(Image.fromarray(shown), (pixels.shape[1] + GAP, 0))
    return canvas


def page_picture(data: bytes) -> Image.Image:
    """Screenshot of `mai serve`'s page: on the left the result of an image file's bytes, on the right its heatmap.

    Raises MaiError if playwright or a browser is not there.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise MaiError(f"a picture of the page needs one of {', '.join(BROWSERS)} on the PATH")
    try:
        from playwright.sync_api import sync_playwright  # noqa: PLC0415 - for developers alone
    except ImportError:
        raise MaiError("a picture of the page needs playwright; pip install 'mai-app[dev]'") from None
    with _server() as url, sync_playwright() as driver, driver.chromium.launch(executable_path=browser) as chromium:
        page = chromium.new_page(viewport={"width": RESULT_WIDTH, "height": 900})
        page.goto(url)
        # Of 256 colours shadows are rings; of the backdrop the dialog's round corners show a little.
        page.add_style_tag(content=f":root {{ --shadow: none; }} dialog::backdrop {{ background: rgb{BACKDROP}; }}")
        page.locator("#files").set_input_files({"name": NAME, "mimeType": "image/png", "buffer": data})
        row = page.locator(".row")
        row.get_by_role("button", name="Heatmap").wait_for(timeout=120_000)
        end = round(row.evaluate("row => row.getBoundingClientRect().bottom")) + GAP
        page.set_viewport_size({"width": RESULT_WIDTH, "height": end})
        result = _opened(page.screenshot())
        page.set_viewport_size({"width": HEATMAP_WIDTH, "height": 900})
        row.get_by_role("button", name="Heatmap").click()
        page.locator("#heat-over[src^=blob]").wait_for(timeout=120_000)
        dialog = _opened(page.locator("#heat").screenshot())
    height = max(result.height, dialog.height + 2 * GAP)
    canvas = Image.new("RGB", (result.width + dialog.width + 2 * GAP, height), BACKDROP)
    canvas.paste(Image.new("RGB", (result.width, height), result.getpixel((0, 0))))
    canvas.paste(result)
    canvas.paste(dialog, (result.width + GAP, (height - dialog.height) // 2))
    return canvas


@contextmanager
def _server() -> Iterator[str]:
    """`mai serve` with the shipped model in a process of its own, on a free port; yields the page's address."""
    command = [sys.executable, "-m", "mai_app", "serve", "--port", "0", "--model", SHIPPED]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 - its words are ours
        assert process.stderr is not None  # noqa: S101 - for the type checker
        try:
            url = next((found[0] for line in process.stderr if (found := re.search(r"http://\S+", line))), None)
            if url is None:
                raise MaiError("mai serve did not start; `mai serve --port 0` says why")
            yield url
        finally:
            process.terminate()


def _opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


def write(image: Image.Image, path: Path) -> None:
    """Write a picture as PNG of 256 colours, which is a third of the size."""
    file = io.BytesIO()
    # Fast octree keeps rare colours, such as the ends of the heatmap's scale; median cut merges them.
    image.quantize(256, Image.Quantize.FASTOCTREE).save(file, "PNG", optimize=True)
    write_bytes(path, file.getvalue())
    say(f"{path}: {image.width}×{image.height} pixels, {len(file.getvalue()) // 1000} kB")


def main(out: Path = OUT) -> None:
    """Write both pictures into a folder; raises MaiError if one can't be made."""
    data = sample_image()
    write(heatmap_picture(data), out / "heatmap.png")
    write(page_picture(data), out / "page.png")


if __name__ == "__main__":
    try:
        main(*map(Path, sys.argv[1:2]))
    except MaiError as error:
        sys.exit(f"mai: {error}")
