"""The page of ``deploykit serve`` in a real browser: what a person sees, does and reads, and that nothing leaves the host."""

import base64
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from deploykit.bundle import Bundle
from deploykit.cli.main import run
from deploykit.image import decode
from deploykit.runtime.explainer import Explainer
from deploykit.runtime.overlay import draw_overlay
from tests.e2e.browser import (
    CHROMIUM,
    browser,
    choose_class,
    overflow,
    pixels,
    serving,
    tab,
    take_sample,
    top_label,
    wait_for_answer,
)

pytestmark = [pytest.mark.alone, pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")]

PHONE = (360, 740)
WHITE, DARK = "rgb(247, 247, 248)", "rgb(19, 19, 22)"


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small untrained ResNet-18 at two precisions."""
    path = tmp_path_factory.mktemp("halves") / "random18"
    assert run(["export", "resnet18", "--num-classes", "6", "--image-size", "64", "-o", str(path)]) == 0
    assert run(["convert", str(path), "--precision", "fp16"]) == 0
    return path


@pytest.fixture(scope="module")
def address(lite0: Bundle, halves: Path, coffee: Path, chelsea: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the server is."""
    samples = tmp_path_factory.mktemp("samples")
    for photo in (coffee, chelsea):
        shutil.copy(photo, samples)
    with serving([lite0.path, halves], samples) as url:
        yield url


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for all."""
    with browser() as opened:
        yield opened


def test_coffee_is_an_espresso_and_the_map_is_the_command_lines(
    chromium: Browser, address: str, lite0: Bundle, coffee: Path, tmp_path: Path
) -> None:
    with tab(chromium, address) as page:
        take_sample(page, "coffee.png")
        page.screenshot(path=tmp_path / "wide.png")
        assert top_label(page) == "espresso"
        assert float(page.locator(".answers .figure").first.inner_text().split()[0]) > 90
        assert page.locator(".answers li").count() == 5
        expect(page.locator("#speaks")).to_contain_text("What speaks for espresso: Grad-CAM at features.8")
        with page.expect_download() as download:
            page.keyboard.press("d")
        assert download.value.suggested_filename == "coffee.espresso.png"
        with Image.open(download.value.path()) as picture:
            drawn = np.asarray(picture.convert("RGB"), np.float32)

    with Explainer.open(lite0, threads=1) as explainer:
        (explanation,) = explainer.explain([coffee])
    box, photo = explanation.box, decode(coffee)
    inside = np.s_[round(box.top) + 2 : round(box.bottom) - 2, round(box.left) + 2 : round(box.right) - 2]
    expected = np.asarray(draw_overlay(photo, explanation), np.float32)
    changed = np.abs(drawn - np.asarray(photo, np.float32))[inside].sum(-1)
    # The map has 256 levels here, and the browser smooths colours where deploykit smooths values; the fine line is where they part.
    assert np.median(np.abs(drawn - expected)[inside]) <= 1
    assert np.abs(drawn - expected)[inside].mean() < 2
    rows, columns = np.indices(changed.shape)
    centre = [(axis * changed).sum() / changed.sum() for axis in (rows + round(box.top), columns + round(box.left))]
    assert 100 < centre[0] < 220  # the coffee in the cup, 600 x 400
    assert 220 < centre[1] < 400


def test_hovering_a_class_shows_its_map_without_asking_and_leaving_it_goes_back(chromium: Browser, address: str) -> None:
    with tab(chromium, address) as page:
        take_sample(page, "coffee.png")
        before, asked = pixels(page), []
        page.on("request", lambda request: asked.append(request.url) if "/v1/" in request.url else None)
        page.hover(".answers li:nth-child(2) .answer")
        wait_for_answer(page)
        assert pixels(page) != before
        expect(page.locator("#speaks strong")).to_have_text("cup")
        page.mouse.move(5, 5)
        wait_for_answer(page)
        assert pixels(page) == before
        page.click(".answers li:nth-child(2) .answer")
        page.mouse.move(5, 5)
        page.evaluate("document.activeElement.blur()")
        expect(page.locator("#speaks strong")).to_have_text("cup")  # pinned
        assert asked == []
        page.hover(".answers li:nth-child(3) .answer")
        choose_class(page, "teapot")
        expect(page.locator("#speaks strong")).to_have_text("teapot")
        page.wait_for_timeout(300)  # the list grew, and browsers tell of a pointer that lies on another row now
        assert page.inner_text("#speaks strong") == "teapot"
        page.mouse.move(5, 5)
        page.click(".remove")
        expect(page.locator("#speaks strong")).to_have_text("espresso")


def test_everything_can_be_done_from_the_keyboard(chromium: Browser, address: str) -> None:
    with tab(chromium, address) as page:
        take_sample(page, "coffee.png")
        plain = pixels(page)
        press = page.keyboard.press
        press("/")
        page.keyboard.type("spoonb")
        expect(page.locator("#found [aria-selected=true]")).to_contain_text("spoonbill")
        press("Enter")
        expect(page.locator("#speaks strong")).to_have_text("spoonbill")
        expect(page.locator(".answer[aria-pressed=true] .label")).to_have_text("spoonbill")
        press("Escape")  # out of the field
        press("Escape")
        expect(page.locator("#speaks strong")).to_have_text("espresso")
        wait_for_answer(page)
        assert pixels(page) == plain
        page.focus(".answers li:first-child .answer")
        press("ArrowDown")
        expect(page.locator("#speaks strong")).to_have_text("cup")
        press("Enter")
        expect(page.locator(".answer[aria-pressed=true] .label")).to_have_text("cup")
        press("3")
        expect(page.locator(".answer[aria-pressed=true] .label")).to_have_text("consomme")
        press("v")
        expect(page.locator("[data-show=map]")).to_have_attribute("aria-pressed", "true")
        press("v")
        expect(page.locator("[data-show=photo]")).to_have_attribute("aria-pressed", "true")
        press("v")
        press("[")
        expect(page.locator("#opacity")).to_have_value("62")
        press("m")
        expect(page.locator("#speaks")).to_contain_text("Grad-CAM++")
        wait_for_answer(page)
        press("?")
        expect(page.locator("#keys")).to_be_visible()
        press("Escape")
        expect(page.locator("#keys")).to_be_hidden()


def test_a_phone_shows_everything_without_scrolling_sideways(chromium: Browser, address: str, tmp_path: Path) -> None:
    with tab(chromium, address, PHONE, is_phone=True) as page:
        assert overflow(page) == 0
        expect(page.locator("#camera")).to_be_visible()
        take_sample(page, "chelsea.png")
        assert "cat" in top_label(page) or top_label(page) == "tabby"
        before = pixels(page)
        page.tap(".answers li:nth-child(3) .answer")
        wait_for_answer(page)
        assert pixels(page) != before
        choose_class(page, "golden retriever")
        expect(page.locator(".answers li")).to_have_count(6)
        assert overflow(page) == 0
        page.screenshot(path=tmp_path / "phone.png", full_page=True)
        page.select_option("#model", "random18")
        page.click("#precisions button:last-child")
        expect(page.locator(".picture")).to_have_count(2)
        assert overflow(page) == 0


def test_dark_and_light_follow_the_system_until_they_are_chosen(chromium: Browser, address: str, tmp_path: Path) -> None:
    with tab(chromium, address, colours="dark") as page:
        body = page.locator("body")
        expect(body).to_have_css("background-color", DARK)
        take_sample(page, "coffee.png")
        page.screenshot(path=tmp_path / "dark.png")
        page.keyboard.press("t")
        expect(body).to_have_css("background-color", WHITE)
        page.reload()
        expect(body).to_have_css("background-color", WHITE)
        page.click("#theme")
        expect(body).to_have_css("background-color", DARK)


def test_two_precisions_stand_side_by_side_with_words_and_times(chromium: Browser, address: str, tmp_path: Path) -> None:
    with tab(chromium, address) as page:
        page.select_option("#model", "random18")
        expect(page.locator("#untrained")).to_contain_text("untrained")
        take_sample(page, "coffee.png")
        page.keyboard.press("s")
        expect(page.locator(".picture figcaption")).to_have_text(["FP32", "FP16"])
        expect(page.locator("#verdict")).to_contain_text("FP32 and FP16 agree on class")
        expect(page.locator("#verdict")).to_contain_text("maps correlate at 1.00")
        expect(page.locator("#verdict")).to_contain_text("Median of 7 predictions in turn: FP32")
        first = page.locator(".answers li").first
        assert first.locator(".bar").count() == 2
        assert first.locator(".change").inner_text() == "±0.0"
        page.screenshot(path=tmp_path / "sides.png")
        page.keyboard.press("s")
        expect(page.locator(".picture")).to_have_count(1)


def test_what_is_no_picture_is_said_where_it_was_dropped(chromium: Browser, address: str, coffee: Path) -> None:
    with tab(chromium, address, refusals=(400, 415, 422)) as page:
        page.set_input_files("#file", {"name": "notes.png", "mimeType": "image/png", "buffer": b"no picture at all"})
        expect(page.locator("#photo-notice")).to_contain_text("is not a picture")
        expect(page.locator("#photo-notice .hint")).to_contain_text("JPEG")
        expect(page.locator("#choose")).to_be_visible()
        page.set_input_files("#file", coffee)
        wait_for_answer(page)
        expect(page.locator("#photo-notice")).to_be_hidden()
        assert top_label(page) == "espresso"


def test_a_rotated_photo_stands_upright_and_is_seen_upright(chromium: Browser, address: str, chelsea: Path) -> None:
    with Image.open(chelsea) as upright:
        lying, exif = upright.convert("RGB").transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x112] = 6  # to be turned by 90 degrees to the right when it is shown
    file = io.BytesIO()
    lying.save(file, "JPEG", quality=95, exif=exif)
    with tab(chromium, address) as page:
        page.set_input_files("#file", {"name": "turned.jpg", "mimeType": "image/jpeg", "buffer": file.getvalue()})
        wait_for_answer(page)
        width, height = page.evaluate("[...document.querySelectorAll('.picture canvas')].flatMap((c) => [c.width, c.height])")
        assert width / height == pytest.approx(451 / 300, rel=0.01)
        assert "cat" in top_label(page) or top_label(page) == "tabby"
        expect(page.locator("#photo-notice")).to_be_hidden()


def test_a_full_server_is_asked_again_and_says_so(chromium: Browser, address: str) -> None:
    answers = iter([503])

    def refuse_once(route: Route) -> None:
        if next(answers, None):
            full = json.dumps({"error": "the queue is full", "hint": "try again"})
            route.fulfill(status=503, headers={"retry-after": "1"}, content_type="application/json", body=full)
        else:
            route.continue_()

    with tab(chromium, address, refusals=(503,)) as page:
        page.route("**/v1/models/*:explain*", refuse_once)
        page.click("button[title='coffee.png']")
        expect(page.locator("#page-notice")).to_contain_text("The server is busy. Trying again in 1 s.")
        wait_for_answer(page)
        assert top_label(page) == "espresso"
        expect(page.locator("#page-notice")).to_be_hidden()


def test_a_key_is_asked_for_and_kept_for_the_tab(chromium: Browser, address: str) -> None:
    def guard(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer sesame":
            route.continue_()
        else:
            route.fulfill(status=401, content_type="application/json", body='{"error": "no key", "hint": "send one"}')

    with tab(chromium, address, refusals=(401,)) as page:
        page.route("**/v1/**", guard)
        page.reload()
        page.fill("#key-value", "wrong")
        page.press("#key-value", "Enter")
        expect(page.locator("#key-words")).to_contain_text("does not take this key")
        page.fill("#key-value", "sesame")
        page.press("#key-value", "Enter")
        take_sample(page, "coffee.png")
        assert top_label(page) == "espresso"
        assert page.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]
        page.reload()
        page.wait_for_selector("body[data-ready=true]")
        expect(page.locator("#key")).to_be_hidden()


def test_a_class_without_evidence_is_said_to_have_none(chromium: Browser, address: str) -> None:
    def take_evidence(route: Route) -> None:
        body = route.fetch().json()
        body["explanations"][0]["has_evidence"] = False
        route.fulfill(json=body)

    with tab(chromium, address) as page:
        page.route("**/v1/models/*:explain*", take_evidence)
        take_sample(page, "coffee.png")
        expect(page.locator("#speaks")).to_have_text("espresso has no positive evidence in this photo.")
        expect(page.locator(".picture canvas")).to_have_attribute(
            "aria-label", "coffee.png, Grad-CAM: espresso has no positive evidence in this photo"
        )


def test_a_link_shows_the_same_sample_class_and_method_to_somebody_else(chromium: Browser, address: str) -> None:
    with tab(chromium, address) as page:
        take_sample(page, "coffee.png")
        page.select_option("#method", "hires-cam")
        expect(page.locator("#speaks")).to_contain_text("HiResCAM")
        choose_class(page, "teapot")
        expect(page.locator("#speaks strong")).to_have_text("teapot")
        link = page.url
    assert link == f"{address}#method=hires-cam&sample=coffee.png&class=849"
    with tab(chromium, link) as page:
        expect(page.locator("#speaks")).to_have_text("What speaks for teapot: HiResCAM at features.8")
        expect(page.locator(".answers li")).to_have_count(6)
    with tab(chromium, f"{address}#method=nonsense&layer=x&precision=int3&sample=none.png&class=99999") as page:
        expect(page.locator("#method")).to_have_value("grad-cam")
        expect(page.locator("#choose")).to_be_visible()


def hold_first(page: Page, pattern: str) -> list[Route]:
    """Hold back the first request of a kind, and let later ones pass. It stands in the list when it has come."""
    held: list[Route] = []
    page.route(pattern, lambda route: route.continue_() if held else held.append(route))
    return held


def wait_for_held(page: Page, held: list[Route]) -> None:
    """Wait until it has come."""
    for _ in range(400):
        if held:
            return
        page.wait_for_timeout(50)
    pytest.fail("the request never came")


def release(page: Page, held: list[Route]) -> None:
    """Let it pass, once it has come."""
    wait_for_held(page, held)
    held[0].continue_()


def test_enter_finds_the_class_whose_name_is_still_on_its_way(chromium: Browser, address: str) -> None:
    with tab(chromium, address) as page:
        held = hold_first(page, "**/labels")
        take_sample(page, "coffee.png")
        choose_class(page, "teapot")
        expect(page.locator("#found")).to_be_hidden()
        release(page, held)
        expect(page.locator("#speaks strong")).to_have_text("teapot")
        expect(page.locator("#search")).to_have_value("")


def test_enter_takes_nothing_that_was_typed_on(chromium: Browser, address: str) -> None:
    with tab(chromium, address) as page:
        held = hold_first(page, "**/labels")
        take_sample(page, "coffee.png")
        choose_class(page, "teapot")
        page.fill("#search", "spoonb")
        release(page, held)
        expect(page.locator("#found [aria-selected=true]")).to_contain_text("spoonbill")
        expect(page.locator("#search")).to_have_value("spoonb")  # a choice empties it at once
        assert page.inner_text("#speaks strong") == "espresso"


def test_a_class_asked_for_while_an_answer_is_on_its_way_is_shown_with_it(chromium: Browser, address: str) -> None:
    with tab(chromium, address) as page:
        take_sample(page, "coffee.png")
        choose_class(page, "spoonbill")
        expect(page.locator("#speaks strong")).to_have_text("spoonbill")
        held = hold_first(
            page, "**:explain*class_index=*"
        )  # the last that the method asks: too late for it to learn of another class
        page.select_option("#method", "hires-cam")
        wait_for_held(page, held)
        choose_class(page, "teapot")
        page.wait_for_timeout(300)  # in which a page that does not wait asks for the teapot by the old method
        expect(page.locator("body")).to_have_attribute("data-busy", "true")
        release(page, held)
        expect(page.locator("#speaks")).to_have_text("What speaks for teapot: HiResCAM at features.8")
        expect(page.locator(".answers li")).to_have_count(7)
        expect(page.locator(".answer[aria-pressed=true] .label")).to_have_text("teapot")


def test_a_class_that_is_on_its_way_when_the_method_changes_is_shown_by_the_new_one(chromium: Browser, address: str) -> None:
    with tab(chromium, address) as page:
        take_sample(page, "coffee.png")
        held = hold_first(page, "**:explain*class_index=*")
        choose_class(page, "teapot")
        wait_for_held(page, held)
        page.select_option("#method", "hires-cam")
        expect(page.locator("#speaks")).to_have_text("What speaks for teapot: HiResCAM at features.8")
        expect(page.locator(".answer[aria-pressed=true] .label")).to_have_text("teapot")


def test_a_segmentation_models_shares_and_pixels_are_shown(chromium: Browser, address: str) -> None:
    def name_task(route: Route) -> None:
        body = route.fetch().json()
        body["models"][0]["task"] = "segmentation"
        route.fulfill(json=body)

    def add_masks(route: Route) -> None:
        body = route.fetch().json()
        for one in (*body["predictions"], *body["explanations"]):
            one["share"] = one["probability"] / 2
        for one in body["explanations"]:
            one["mask"] = one["map"]  # its pixels of at least half stand for the class's
        route.fulfill(json=body)

    with tab(chromium, address) as page:
        page.route("**/v1/models", name_task)
        page.route("**/v1/models/*:explain*", add_masks)
        page.reload()
        page.wait_for_selector("body[data-ready=true]")
        expect(page.locator("#model-facts")).to_contain_text("segmentation")
        take_sample(page, "coffee.png")
        expect(page.locator("#columns")).to_contain_text("Share of the picture")
        expect(page.locator("#speaks")).to_contain_text("blue encloses its pixels")
        assert 45 < float(page.locator(".answers .figure").first.inner_text().split()[0]) < 50
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(pixels(page).split(",")[1]))).convert("RGB")).astype(int)
        assert (np.abs(picture - (70, 215, 255)).sum(-1) < 30).sum() > 100  # the outline's blue, which coffee.png has nowhere


def test_a_bundle_that_cannot_explain_still_answers(chromium: Browser, address: str) -> None:
    def leave_out(route: Route) -> None:
        body = route.fetch().json()
        body["models"][0].update(explain_precisions=[], methods=[], layers=[])
        route.fulfill(json=body)

    with tab(chromium, address) as page:
        page.route("**/v1/models", leave_out)
        page.reload()
        take_sample(page, "coffee.png")
        assert top_label(page) == "espresso"
        expect(page.locator("#speaks")).to_contain_text("espresso has no map: the bundle has no graph that explains")
        expect(page.locator("#settings")).to_be_hidden()
        expect(page.locator("#search")).to_be_hidden()


def test_the_curl_command_is_the_request_that_is_shown(chromium: Browser, address: str) -> None:
    with tab(chromium, address) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        take_sample(page, "coffee.png")
        page.keyboard.press("2")
        page.keyboard.press("c")
        expect(page.locator("#toast")).to_have_text("Copied.")
        command = page.evaluate("navigator.clipboard.readText()")
    url = f"{address}v1/models/efficientnet_lite0:explain?top=5&precision=fp32&method=grad-cam&class_index=968"
    assert command == f"curl -F 'image=@coffee.png' \\\n  '{url}'"
