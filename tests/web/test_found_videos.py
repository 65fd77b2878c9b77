"""The page of `zoo retrieve search --html` in a browser: it plays, fits a telephone, and follows the theme."""

import shutil

import pytest

pytest.importorskip("av")
playwright = pytest.importorskip("playwright.sync_api")

from typer.testing import CliRunner  # noqa: E402 - behind the skips

from tests.films import write_people  # noqa: E402
from zoo.cli.app import commands  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    (folder / "videos").mkdir()
    for seed in range(3):
        write_people(folder / "videos" / f"{seed}.mp4", seed, 2.0)
    for arguments in (
        ("index", folder / "videos", "--out", folder / "idx", "--model", "tmvm_tiny", "--device", "cpu"),
        ("search", folder / "idx", "a person in red", "<b>red</b> trousers", "--html", folder / "a.html"),
    ):
        result = CliRunner().invoke(commands(), ["retrieve", *map(str, arguments)])
        assert result.exit_code == 0, result.output
    return folder / "a.html"


@pytest.fixture(scope="module")
def browser():
    program = shutil.which("chromium") or shutil.which("google-chrome")
    with playwright.sync_playwright() as player:
        try:
            opened = player.chromium.launch(executable_path=program, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no browser: {error}".splitlines()[0])
        yield opened
        opened.close()


def test_every_answer_plays(browser, page_file):
    page = browser.new_page()
    faults = []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("requestfailed", lambda request: faults.append(request.url))
    page.goto(page_file.as_uri())
    assert page.locator("section").count() == 2
    assert page.locator("h2").nth(1).inner_text() == "<b>red</b> trousers"  # as typed, no markup
    videos = page.locator("video")
    assert videos.count() == 6
    for i in range(6):
        film = videos.nth(i)
        film.evaluate("film => { film.muted = true; return film.play(); }")
        page.wait_for_function("film => film.currentTime > 0", arg=film.element_handle())
        assert film.evaluate("film => [film.videoWidth, film.videoHeight]") == [64, 64]
        assert film.evaluate("film => film.duration") == pytest.approx(2.0, abs=0.2)
    assert faults == []


@pytest.mark.parametrize("width", [320, 1200])
def test_nothing_is_wider_than_the_window(browser, page_file, width):
    page = browser.new_page(viewport={"width": width, "height": 700})
    page.goto(page_file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("theme", "is_dark"), [("light", False), ("dark", True)])
def test_paper_and_ink_follow_the_theme(browser, page_file, theme, is_dark):
    page = browser.new_page(color_scheme=theme)
    page.goto(page_file.as_uri())
    paper, ink = (
        sum(map(int, page.evaluate(f"getComputedStyle(document.body).{name}").removeprefix("rgb(")[:-1].split(",")))
        for name in ("backgroundColor", "color")
    )
    assert (paper < ink) == is_dark
    assert abs(paper - ink) > 3 * 150
