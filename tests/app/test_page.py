"""The page of `fer app`, started as people start it, in a real browser."""

from __future__ import annotations

import http.client
import io
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from browser import MARKS, open_browser
from fused_model import SIZES, SMALL, make_bundle
from mlflow_server import free_port
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from processes import WITHIN_S, wait_until
from ruamel.yaml import YAML

from fer_pipeline.app.photo import find_faces
from fer_pipeline.data.sources.sample import draw_face
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.files import write_json
from fer_pipeline.params.schema import Params
from fer_pipeline.paths import FUSION, PARAMS, model_file
from fer_pipeline.serving.bundle import weights_file
from flows.server import answers

pytestmark = MARKS

WITHIN_MS = 1000 * WITHIN_S
TAKE = """[...document.querySelectorAll("button:enabled")]
    .find(one => one.innerText == "Take Photo")?.click()"""
PICTURES_ARE_THERE = """(all => all.length && all.every(one => one.complete && one.naturalWidth))(
    [...document.querySelectorAll("[data-testid=stImage] img")])"""
BARS = ".js-plotly-plot .bars .point path"

PASTE = """(field, content) => {
    const clipboard = new DataTransfer();
    clipboard.items.add(new File([new Uint8Array(content)], "pasted.jpg", {type: "image/jpeg"}));
    field.dispatchEvent(new ClipboardEvent("paste", {clipboardData: clipboard, bubbles: true}));
}"""


def make_last_run(root: Path, params: Params, folder: Path) -> None:
    """The files that `dvc repro` leaves of a fused model, with untrained backbones."""
    bundle = make_bundle(params, folder, SMALL)
    yaml = YAML()
    content = yaml.load(root / PARAMS)
    any_own = content["backbones"]["resnet50"]
    content["backbones"] = {}
    for name in SMALL:
        sizes = {"image_size": SIZES[name], "eval_resize": SIZES[name]}
        content["backbones"][name] = {**any_own, **sizes}
        (folder / model_file(name)).parent.mkdir(parents=True)
        weights_file(bundle, name).rename(folder / model_file(name))
    content["predict"]["tta"] = "centre"
    yaml.dump(content, folder / PARAMS)
    (folder / FUSION).parent.mkdir(parents=True)
    weights = dict.fromkeys(SMALL, 1 / len(SMALL))
    write_json(folder / FUSION, {"method": "uniform", "weights": weights, "temperature": 1.5})


@dataclass
class Served:
    """The page's address, and where a request of its server to the outside would arrive."""

    port: int
    outside: socket.socket


@pytest.fixture(scope="module")
def served(
    root: Path, small: Path, params: Params, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("last_run")
    make_last_run(root, params, folder)
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as outside, (folder / "log").open("wb") as log:
        outside.setblocking(False)
        proxy = f"http://127.0.0.1:{outside.getsockname()[1]}"
        env = os.environ | {"http_proxy": proxy, "https_proxy": proxy, "no_proxy": "127.0.0.1"}
        env["PYTHONPATH"] = str(small)
        fer = shutil.which("fer")
        assert fer
        process = subprocess.Popen(
            [fer, "app", "--port", str(port)], cwd=folder, env=env, stdout=log, stderr=log
        )
        try:
            health = f"http://127.0.0.1:{port}/_stcore/health"
            wait_until(lambda: answers(health) or process.poll() is not None, "fer app answers")
            yield Served(port, outside)
            process.send_signal(signal.SIGINT)
            assert process.wait(WITHIN_S) == 0
            with pytest.raises(BlockingIOError):  # nobody asked for anything outside
                outside.accept()
        finally:
            process.kill()
            process.wait()
    said = (folder / "log").read_text()
    assert f"the last run is at http://127.0.0.1:{port}; Ctrl-C ends it" in said
    assert "Traceback" not in said
    assert "Warning" not in said


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@dataclass
class Opened:
    """A page, the servers that it asked, and what its scripts complained of."""

    page: Page
    hosts: set[str] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)

    def give(self, name: str, content: bytes) -> None:
        file = {"name": name, "mimeType": "image/jpeg", "buffer": content}
        self.page.get_by_test_id("stFileUploaderDropzoneInput").set_input_files(file)

    def wait_for(self, text: str) -> None:
        self.page.get_by_text(text).first.wait_for(timeout=WITHIN_MS)

    def wait_for_pictures(self) -> None:
        """Until each is there: the server drops those of before as soon as something changes."""
        self.page.wait_for_function(PICTURES_ARE_THERE, timeout=WITHIN_MS)

    @property
    def fits(self) -> bool:
        widths = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        needed, there = self.page.evaluate(widths)
        return bool(needed <= there)


@pytest.fixture
def opened(browser: Browser, served: Served) -> Iterator[Opened]:
    """The page on a phone, and at the end on a desk."""
    page = browser.new_page(viewport={"width": 375, "height": 812})
    opened = Opened(page)
    page.on("request", lambda sent: opened.hosts.add(sent.url.split("/")[2]))
    page.on("websocket", lambda socket: opened.hosts.add(socket.url.split("/")[2]))
    page.on("console", lambda said: said.type == "error" and opened.complaints.append(said.text))
    page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    page.goto(f"http://127.0.0.1:{served.port}", timeout=WITHIN_MS)
    opened.page.get_by_test_id("stFileUploaderDropzone").wait_for(timeout=WITHIN_MS)
    yield opened
    assert opened.fits
    page.set_viewport_size({"width": 1200, "height": 900})
    assert opened.fits
    assert opened.complaints == []
    assert {host for host in opened.hosts if host} == {f"127.0.0.1:{served.port}"}
    page.close()


def encoded(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=95)
    return stream.getvalue()


def drawn(seed: int, side: int) -> Image.Image:
    face = draw_face(EMOTIONS.index("happy"), np.random.default_rng(seed))
    return Image.fromarray(face).resize((side, side))


def test_a_face_gives_seven_bars_of_the_fused_model_and_of_each_network(opened: Opened) -> None:
    opened.give("face.jpg", encoded(drawn(0, 48)))
    opened.wait_for("No face was found: the whole picture is taken")
    opened.wait_for("Not calibrated")
    expect(opened.page.locator(BARS)).to_have_count(7 * (1 + len(SMALL)), timeout=WITHIN_MS)
    assert (
        opened.page.get_by_text("sure; next comes")
        .or_(opened.page.get_by_text("too close to tell"))
        .count()
        == 1
    )
    opened.wait_for_pictures()
    assert opened.page.locator("[data-testid=stImage] img").count() == 3


def test_of_several_faces_one_is_chosen_and_its_box_corrected(opened: Opened) -> None:
    photo = Image.new("RGB", (560, 340), (150, 160, 140))
    photo.paste(drawn(0, 200), (40, 90))
    photo.paste(drawn(1, 150), (330, 30))
    content = encoded(photo)
    opened.give("group.jpg", content)
    opened.wait_for("Not calibrated")
    opened.wait_for_pictures()
    seen = opened.page.locator("[data-testid=stImage] img").first
    first = seen.get_attribute("src")
    opened.page.get_by_text("Face 2", exact=True).click()
    expect(seen).not_to_have_attribute("src", str(first), timeout=WITHIN_MS)
    opened.wait_for_pictures()
    second = seen.get_attribute("src")
    opened.page.get_by_text("Correct the box").click()
    size = opened.page.get_by_role("slider", name="Size")
    side = find_faces(Image.open(io.BytesIO(content)))[1].side
    expect(size).to_have_value(str(side), timeout=WITHIN_MS)
    opened.wait_for_pictures()
    size.press("ArrowLeft")
    expect(size).to_have_value(str(side - 1), timeout=WITHIN_MS)
    expect(seen).not_to_have_attribute("src", str(second), timeout=WITHIN_MS)
    opened.wait_for_pictures()


def test_a_picture_can_be_pasted_or_taken_by_the_camera(opened: Opened) -> None:
    page = opened.page
    page.get_by_text("Paste", exact=True).click()
    field = page.get_by_test_id("stChatInputTextArea")
    content = list(encoded(drawn(0, 48)))
    field.wait_for(timeout=WITHIN_MS)
    field.evaluate(PASTE, content)
    page.get_by_text("pasted.jpg").wait_for(timeout=WITHIN_MS)
    page.get_by_test_id("stChatInputSubmitButton").click()
    opened.wait_for("Not calibrated")
    opened.wait_for_pictures()
    page.get_by_text("Camera", exact=True).click()
    expect(page.get_by_text("Not calibrated")).to_have_count(0, timeout=WITHIN_MS)
    page.wait_for_function("document.querySelector('video')?.readyState === 4", timeout=WITHIN_MS)

    def taken() -> bool:  # of a video whose first frame is not there yet no photo is taken
        page.evaluate(TAKE)
        return page.get_by_role("button", name="Clear photo").count() > 0

    wait_until(taken, "a photo is taken")
    opened.wait_for("Not calibrated")


def test_a_text_named_as_a_picture_is_one_clear_line(opened: Opened) -> None:
    opened.give("text.jpg", b"no picture")
    alert = opened.page.get_by_test_id("stAlert")
    expect(alert).to_have_text(
        "text.jpg: picture can't be read: unknown format: give a PNG or JPEG", timeout=WITHIN_MS
    )
    assert opened.page.locator(BARS).count() == 0


@pytest.mark.parametrize(
    ("changed", "status"),
    [({}, 101), ({"Origin": "http://evil.example"}, 403), ({"Host": "evil.example"}, 403)],
    ids=["its own", "another page's", "another name"],
)
def test_only_the_page_itself_is_let_in(
    changed: dict[str, str], status: int, served: Served
) -> None:
    own = f"127.0.0.1:{served.port}"
    asked = {
        "Host": own,
        "Origin": f"http://{own}",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=WITHIN_S)
    connection.request("GET", "/_stcore/stream", headers=asked | changed)
    assert connection.getresponse().status == status
    connection.close()
