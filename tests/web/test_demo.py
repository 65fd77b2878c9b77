"""The demo: every tab answers its examples, bad input is one line, limits hold, and the page fetches nothing."""

import asyncio
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

testclient = pytest.importorskip("fastapi.testclient")
pytest.importorskip("prometheus_client")
pytest.importorskip("av")

from starlette.datastructures import FormData  # noqa: E402

from zoo.data.video import Frame, VideoWriter  # noqa: E402
from zoo.errors import InputError  # noqa: E402
from zoo.web.api import ServeLimits  # noqa: E402
from zoo.web.demo import PAGE, build_demo, values_of  # noqa: E402
from zoo.web.samples import Samples  # noqa: E402
from zoo.web.tabs import Field, tabs  # noqa: E402

LIMITS = ServeLimits(max_bytes=300_000, queue=2, seconds=300.0)
TABS = ("predict", "reid", "retrieve", "ground", "filter")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def client(folder):
    with testclient.TestClient(build_demo(folder, LIMITS, "cpu"), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def described(client):
    return {tab["name"]: tab for tab in client.get("/tabs").json()["tabs"]}


def form_of(client, tab, values):
    """What the page sends: the fields' own values, an example's over them, samples as files."""
    data, files = {}, {}
    for field in tab["fields"]:
        value = values.get(field["name"], field["value"])
        if field["kind"] in ("picture", "video"):
            if value:
                files[field["name"]] = (value, client.get(f"/samples/{value}").content)
        elif field["kind"] != "check" or value:
            data[field["name"]] = "on" if field["kind"] == "check" else str(value)
    return {"data": data, "files": files or None}


def png(width=40, height=30):
    data = io.BytesIO()
    Image.new("RGB", (width, height), (90, 120, 30)).save(data, "PNG")
    return data.getvalue()


# answers


@pytest.mark.parametrize("name", TABS)
def test_the_first_example_is_answered(client, described, folder, name):
    before = {path for path in folder.iterdir() if path.is_dir()}
    tab = described[name]
    found = client.post(f"/ask/{name}", **form_of(client, tab, tab["examples"][0]["values"]))
    assert found.status_code == 200, found.text
    answer = found.json()
    assert answer["headline"]
    assert answer["figures"] or answer["compare"]
    for figure in answer["figures"]:
        kind = "video/mp4" if figure["kind"] == "video" else "image/png"
        assert figure["source"].startswith(f"data:{kind};base64,")
    made = {path.name for path in folder.iterdir() if path.is_dir() and path not in before}
    assert made <= {"people", "clips", "index"}, "what was sent is forgotten"


def test_answers_are_right_where_that_is_known(client, described):
    cat = form_of(client, described["predict"], {"picture": "cat.jpg"})
    assert client.post("/ask/predict", **cat).json()["bars"][0]["label"] == "cat"
    person = form_of(client, described["reid"], {"picture": "night-0.png"})
    figures = client.post("/ask/reid", **person).json()["figures"]
    assert [figure["right"] for figure in figures].count(True) <= 1
    assert len(figures) == 7
    before, after = client.post("/ask/filter", **form_of(client, described["filter"], {"picture": "cat.jpg"})).json()[
        "compare"
    ]
    assert before != after


def test_tabs_and_samples_fit_together(client, described):
    assert tuple(described) == TABS
    for tab in described.values():
        fields = {field["name"]: field for field in tab["fields"]}
        for example in tab["examples"]:
            assert example["values"].keys() <= fields.keys()
            for key, value in example["values"].items():
                if fields[key]["kind"] in ("picture", "video"):
                    assert client.get(f"/samples/{value}").status_code == 200


# what cannot be used


@pytest.mark.parametrize(
    ("name", "data", "files", "words"),
    [
        ("predict", {}, None, "no picture was given"),
        ("predict", {}, {"picture": ("x.png", b"text")}, "x.png is text"),
        ("predict", {"network": "resnet50"}, {"picture": ("x.png", png())}, "no choice 'resnet50'"),
        ("predict", {"picture": "cat.jpg"}, None, "no picture was given"),
        ("reid", {"modality": "sonar"}, {"picture": ("x.png", png())}, "no choice 'sonar'"),
        ("retrieve", {"sentence": " "}, None, "0 letters"),
        ("retrieve", {"sentence": "a" * 201}, None, "201 letters"),
        ("retrieve", {"sentence": "xylophone zebra"}, None, "knows no word"),
        ("ground", {"sentence": "a person"}, {"video": ("x.mp4", b"text")}, "x.mp4 is no video"),
        ("ground", {"sentence": "a person"}, {"video": ("x.exe", b"text")}, "x.exe is not called like a video"),
        ("filter", {"sigma_s": "1e9"}, {"picture": ("x.png", png())}, "'1e9'"),
        ("filter", {"sigma_s": "nan"}, {"picture": ("x.png", png())}, "'nan'"),
        ("filter", {"apply": "tonemap"}, {"picture": ("x.png", png())}, "no choice 'tonemap'"),
    ],
)
def test_bad_input_is_one_line_with_a_hint(client, name, data, files, words):
    found = client.post(f"/ask/{name}", data=data, files=files or {"other": ("x", b"")})
    assert found.status_code == 422
    error = found.json()["error"]
    assert words in error["message"]
    assert error["hint"]
    assert "\n" not in error["message"]


def test_other_addresses_and_forms(client):
    assert client.post("/ask/dream", data={"x": "1"}).status_code == 404
    assert client.get("/samples/..%2f..%2fetc%2fpasswd").status_code == 404
    assert client.get("/samples/passwd").status_code == 404
    assert client.get("/page/index.html").status_code == 404
    broken = client.post("/ask/predict", content=b"--x", headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert broken.status_code in (400, 422)
    assert broken.json()["error"]["message"]


def test_a_video_that_is_too_long_is_refused_before_it_is_looked_at(client, tmp_path):
    with VideoWriter(tmp_path / "long.mp4", (32, 32), Fraction(1)) as writer:
        for second in (0, 40):
            writer.write(Frame(np.zeros((32, 32, 3), np.uint8), second))
    files = {"video": ("long.mp4", (tmp_path / "long.mp4").read_bytes())}
    found = client.post("/ask/ground", data={"sentence": "the person in red jumps"}, files=files)
    assert found.status_code == 422
    assert found.json()["error"]["message"] == "long.mp4 is 40 s long"


def test_large_pictures_are_made_smaller_first(client, described):
    form = form_of(client, described["filter"], {}) | {"files": {"picture": ("x.png", png(3000, 200))}}
    assert "made smaller from 3000x200" in client.post("/ask/filter", **form).json()["note"]


@pytest.mark.parametrize(("text", "value"), [("1", 1.0), ("15", 15.0), (None, 5.0)])
def test_numbers(text, value):
    assert Field("n", "N", "number", 5.0, least=1, most=15).read(text) == value
    for bad in ("0.99", "15.01", "inf", "one", ""):
        with pytest.raises(InputError, match="N: "):
            Field("n", "N", "number", 5.0, least=1, most=15).read(bad)


def test_an_unticked_box_is_sent_as_nothing(tmp_path):
    tab = tabs(Samples(tmp_path), "cpu")[2]
    assert asyncio.run(values_of(tab, FormData([("sentence", " a person ")]))) == {"sentence": "a person"}
    assert Field("c", "C", "check", True).read(None) is False


# limits


def test_too_long_is_413(client):
    found = client.post("/ask/predict", files={"picture": ("x.png", bytes(400_000))})
    assert found.status_code == 413
    assert "more than 300000 bytes" in found.json()["error"]["message"]


def test_no_answer_in_time_is_503_and_too_many_is_429(tmp_path):
    app = build_demo(tmp_path, ServeLimits(queue=1, seconds=0.01), "cpu")
    with testclient.TestClient(app) as client:
        asked = {"data": {"sentence": "a person in red"}}
        assert client.post("/ask/retrieve", **asked).status_code == 503
    full = build_demo(tmp_path, ServeLimits(queue=0), "cpu")
    with testclient.TestClient(full) as client:
        found = client.post("/ask/retrieve", **asked)
        assert found.status_code == 429
        assert found.headers["Retry-After"] == "2"


# the page


def test_the_page_needs_nothing_from_elsewhere(client):
    page = client.get("/")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    parts = [page.text, client.get("/page/demo.js").text, client.get("/page/demo.css").text]
    assert not re.search(r"https?://|//[a-z]+\.", "".join(parts))
    assert len("".join(parts)) == sum(len(path.read_text()) for path in PAGE.iterdir())
    assert "innerHTML" not in parts[1], "answers are text, whatever they hold"


# a real server, and a real browser


@pytest.fixture(scope="module")
def server():
    command = [sys.executable, "-m", "zoo", "demo", "--port", "0", "--timeout", "300"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as running:
        yield running, running.stderr.readline().split(" ", 1)[0]
        running.kill()


def test_it_starts_and_ends_well(server):
    running, address = server
    assert requests.get(f"{address}/health", timeout=20).json() == {"status": "ok"}
    answered = []
    asked = threading.Thread(
        target=lambda: answered.append(requests.get(f"{address}/samples/night-0.png", timeout=100).status_code)
    )
    asked.start()
    asked.join(100)
    assert answered == [200]
    running.send_signal(signal.SIGTERM)
    assert running.wait(60) == 0
    assert running.stderr.read() == ""


def test_bad_calls_are_one_line():
    command = [sys.executable, "-m", "zoo", "demo", "--port", "0", "--device", "cuda:9"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 390)])
def test_in_a_browser(tmp_path, scheme, width):
    """Every tab by its first example, a fault shown as such, nothing asked of other hosts, nothing too wide."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium")
    command = [sys.executable, "-m", "zoo", "demo", "--port", "0", "--timeout", "300"]
    with (
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running,
        playwright.sync_playwright() as browsers,
    ):
        address = running.stderr.readline().split(" ", 1)[0]
        browser = browsers.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 860}, color_scheme=scheme)
        foreign, said = [], []
        page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else foreign.append(r.url))
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(address)
        page.wait_for_selector("[role=tab]")
        for name in TABS:
            page.click(f"#tab-{name}")
            panel = page.locator(f"#panel-{name}")
            panel.locator(".examples button").first.click()
            panel.locator(".headline").wait_for(timeout=300_000)
            page.wait_for_timeout(300)
            shown = panel.locator("figure img, figure video, .compare img")
            sizes = shown.evaluate_all("all => all.map(one => one.naturalWidth || one.videoWidth)")
            assert sizes, name
            assert min(sizes) > 0, "every picture and video of the answer can be shown"
            assert not page.evaluate("document.documentElement.scrollWidth > innerWidth"), name
            page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
        assert not said
        page.keyboard.press("Home")
        (tmp_path / "bad.png").write_text("no picture")
        page.click("#tab-predict")
        page.set_input_files("#panel-predict input[type=file]", tmp_path / "bad.png")
        page.click("#panel-predict .ask")
        page.locator("#panel-predict .fault").wait_for()
        assert "error: bad.png is text" in page.inner_text("#panel-predict .fault")
        assert not foreign
        browser.close()
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0


def test_the_wheel_brings_page_and_pictures():
    """What the demo reads lies where the build puts it."""
    import tomllib

    root = Path(__file__).parents[2]
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    assert settings["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]["docs/pictures"] == "zoo/pictures"
    assert {path.name for path in PAGE.iterdir()} == {"index.html", "demo.css", "demo.js"}
