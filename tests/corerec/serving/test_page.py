"""The page at / in a real browser, before the real server: twelve trees in a ring, each gives the next one away."""

import re
import shutil
import socket
import threading
from contextlib import ExitStack, contextmanager

import pytest

from corerec.engines.bert4rec import Bert4Rec

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = playwright.expect
PATIENCE_MS = 10_000
expect.set_options(timeout=PATIENCE_MS)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")

FLAGS = [
    "--no-sandbox",  # root, as in a container, may not use the sandbox
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = "Alder (1901),Birch,Cedar,Dogwood,Elm,Fir,Ginkgo,Hazel,Ironwood,Juniper,Kauri,Larch"
TREES = {name[0].lower(): name for name in NAMES.split(",")}
LAPTOP, PHONE = {"width": 1440, "height": 900}, {"width": 360, "height": 740}


@contextmanager
def served(app):
    """The address of a server in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none", timeout_graceful_shutdown=2))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def model(cycle_log):
    ring = {"hidden_dim": 16, "max_seq_len": 8, "dropout": 0.0, "batch_size": 8, "learning_rate": 1e-2}
    return Bert4Rec("Trees", epochs=30, next_item_until=0.5, **ring).fit_interactions(cycle_log)


@pytest.fixture(scope="module")
def sites(model):
    """Addresses of three servers: "titled", "untitled", and "guarded" by the token "sesame"."""
    from corerec.serving import ServerSettings, create_app

    apps = {
        "titled": create_app(model, titles=TREES),
        "untitled": create_app(model),
        "guarded": create_app(model, titles=TREES, settings=ServerSettings(token="sesame")),
    }
    with ExitStack() as stack:
        yield {name: stack.enter_context(served(app)) for name, app in apps.items()}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, sites):
    """Open a site's page; at the end, nothing may have left its origin, nor complained in the console."""
    contexts, outside, complaints = [], [], []

    def open_page(hash_="", site="titled", *, allowed=None, viewport=LAPTOP, **options):
        context = browser.new_context(viewport=viewport, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)

        def note(message):
            if message.type in ("error", "warning") and not (allowed and re.search(allowed, message.text)):
                complaints.append(message.text)

        page.on("console", note)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: request.url.startswith(sites[site] + "/") or outside.append(request.url))
        page.goto(f"{sites[site]}/{hash_}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not outside
    assert not complaints


def shown(item_id):
    return TREES[item_id].replace("(", "").replace(")", "")


def history(page):
    return page.locator("#history > li > .what > .title")


def guesses(page):
    """Titles of an answer that is not being replaced."""
    return page.locator("#guesses[aria-busy=false] > li .why")


def options(page):
    return page.get_by_role("list", name="What the model would put here").locator(".title")


def search(page):
    return page.get_by_role("combobox", name="Search titles")


def blank(page):
    return page.locator("#history > .blank")


def test_search_builds_a_history_and_the_guesses_follow(visit):
    page = visit()
    expect(page.locator("#basis")).to_have_text("Popular with everyone; add something you liked.")
    expect(page.locator("#facts")).to_contain_text("Trees")
    expect(page.locator("#facts")).to_contain_text("items12")
    expect(guesses(page)).to_have_count(10)
    search(page).fill("bir")
    page.get_by_role("option", name="Birch").click()
    expect(guesses(page).first).to_have_text("Cedar")
    expect(page.locator("#basis")).to_have_text("From 1 item, and why.")
    page.get_by_role("button", name="Add Cedar to the history").click()
    expect(history(page)).to_have_text(["Birch", "Cedar"])
    expect(guesses(page).first).to_have_text("Dogwood")
    expect(page.locator("#guesses .chance").first).to_have_text(re.compile(r"^[5-9]\d\.\d%$"))
    search(page).fill("no such tree")
    expect(page.get_by_text("Nothing found.", exact=True).first).to_be_visible()
    page.get_by_role("button", name="Remove Cedar").click()
    expect(guesses(page).first).to_have_text("Cedar")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#count")).to_have_text("Empty so far.")
    page.go_back()
    expect(history(page)).to_have_text(["Birch"])


def test_a_starter_fills_an_empty_history(visit):
    page = visit()
    starters = page.locator("#starter-list button")
    starters.first.click()
    expect(history(page)).to_have_count(4)
    expect(starters.first).to_be_hidden()
    expect(page.locator("#basis")).to_have_text("From 4 items, and why.")


def test_a_guess_lights_what_drove_it(visit):
    page = visit("#history=~a,_,~c")
    expect(guesses(page).first).to_have_text("Dogwood")
    expect(page.locator("#guesses .because").first).to_contain_text("Cedar")
    guesses(page).first.hover()
    driver = page.locator("#history > li", has_text="Cedar")
    expect(driver).to_have_class(re.compile("drove"))
    expect(driver.locator(".weight")).to_have_text(re.compile(r"^(\+\d+%|×\d+\.\d)$"))
    assert page.locator("#threads path").count() == page.locator("#history .drove").count()
    page.locator("h1").hover()
    expect(page.locator("#history .drove")).to_have_count(0)
    guesses(page).first.focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    expect(driver).to_have_class(re.compile("drove"))
    page.keyboard.press("Enter")  # stays lit
    search(page).focus()
    expect(guesses(page).first).to_have_attribute("aria-pressed", "true")
    expect(driver).to_have_class(re.compile("drove"))


def test_a_dragged_blank_is_filled_in_from_both_sides(visit, model):
    [[at_the_start]] = model.fill_in([None, "b", "c", "e", "f"], top_k=1)
    page = visit("#history=~b,~c,~e,~f")
    expect(guesses(page)).to_have_count(8)
    page.get_by_role("button", name="Insert a blank").click()
    expect(options(page).first).to_have_text("Dogwood")
    expect(page.locator(".sides")).to_have_text("read from 2 before and 2 after")
    grip = page.get_by_role("button", name="Move the blank", exact=True)
    grip.hover()  # waits until it stands still
    page.mouse.down()
    page.mouse.move(grip.bounding_box()["x"], grip.bounding_box()["y"] - 200, steps=5)
    expect(page.locator(".sides")).to_have_text("read from nothing before and 4 after")  # while it is held
    expect(options(page).first).to_have_text(shown(at_the_start))
    page.mouse.up()
    expect(page).to_have_url(re.compile("#history=_,~b,~c,~e,~f$"))
    expect(history(page)).to_have_text(["What stood here?", "Birch", "Cedar", "Elm", "Fir"])
    expect(options(page)).to_have_count(5)
    options(page).first.click()
    expect(history(page)).to_have_text([shown(at_the_start), "Birch", "Cedar", "Elm", "Fir"])
    expect(blank(page)).to_have_count(0)


def test_a_blank_pulled_from_its_button_lands_where_it_is_dropped(visit):
    page = visit("#history=~a,~b,~d,~e")
    expect(history(page)).to_have_text(["Alder 1901", "Birch", "Dogwood", "Elm"])
    button = page.get_by_role("button", name="Insert a blank")
    third = page.locator("#history > li").nth(2)

    def pull():
        third.hover()
        button.hover()
        aim = third.bounding_box()
        page.mouse.down()
        page.mouse.move(aim["x"] + 200, aim["y"] - 20, steps=3)
        page.mouse.move(aim["x"] + 200, aim["y"] + 20, steps=2)
        expect(page.locator(".sides")).to_have_text("read from 2 before and 2 after")
        expect(options(page).first).to_have_text("Cedar")

    pull()
    page.keyboard.press("Escape")
    expect(blank(page)).to_have_count(0)
    page.mouse.up()
    pull()
    page.mouse.up()
    expect(page).to_have_url(re.compile("#history=~a,~b,_,~d,~e$"))
    button.press("Enter")
    expect(blank(page)).to_have_count(2)


def test_everything_works_by_keyboard(visit):
    page = visit()
    expect(guesses(page)).to_have_count(10)
    while not search(page).evaluate("field => field === document.activeElement"):
        page.keyboard.press("Tab")
    for typed in ("alder", "birch", "dogwood"):
        page.keyboard.type(typed)
        expect(page.get_by_role("option")).to_have_count(1)
        expect(search(page)).to_have_attribute("aria-expanded", "true")
        page.keyboard.press("Enter")
        expect(search(page)).to_have_value("")
    page.keyboard.type("r")
    expect(page.get_by_role("option").nth(3)).to_be_visible()
    first = search(page).get_attribute("aria-activedescendant")
    page.keyboard.press("ArrowDown")
    expect(search(page)).not_to_have_attribute("aria-activedescendant", first)
    page.keyboard.press("ArrowUp")
    expect(search(page)).to_have_attribute("aria-activedescendant", first)
    page.keyboard.press("Escape")
    expect(search(page)).to_have_attribute("aria-expanded", "false")
    page.keyboard.press("Escape")
    expect(search(page)).to_have_value("")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # insert a blank
    expect(page.get_by_role("button", name="Move the blank", exact=True)).to_be_focused()
    expect(page).to_have_url(re.compile("#history=~a,~b,_,~d$"))
    expect(options(page).first).to_have_text("Cedar")
    page.keyboard.press("ArrowUp")
    expect(page).to_have_url(re.compile("#history=~a,_,~b,~d$"))
    expect(page.locator("#announcer")).to_have_text("the blank moved to place 2 of 4.")
    expect(page.get_by_role("button", name="Move the blank", exact=True)).to_be_focused()
    expect(page.locator(".sides")).to_have_text("read from 1 before and 2 after")
    page.keyboard.press("Tab")
    page.keyboard.press("Alt+ArrowDown")
    expect(page).to_have_url(re.compile("#history=~a,~b,_,~d$"))
    expect(page.get_by_role("button", name="Remove the blank")).to_be_focused()
    expect(options(page).first).to_have_text("Cedar")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # put the first option there
    expect(history(page)).to_have_text(["Alder 1901", "Birch", "Cedar", "Dogwood"])
    expect(page.get_by_role("button", name="Move Cedar", exact=True)).to_be_focused()
    page.keyboard.press("Delete")
    expect(page.get_by_role("button", name="Move Dogwood", exact=True)).to_be_focused()
    expect(history(page)).to_have_text(["Alder 1901", "Birch", "Dogwood"])
    page.get_by_role("button", name="Add Elm to the history").focus()
    page.keyboard.press("Enter")
    expect(history(page)).to_have_text(["Alder 1901", "Birch", "Dogwood", "Elm"])
    expect(page.locator("#guesses .add:focus")).to_have_count(1)  # that of the guess in its place


def test_a_link_brings_the_history_and_its_titles(visit):
    page = visit("#history=~d,~no%20tree,_,7,~f")
    expect(history(page)).to_have_text(["Dogwood", "no tree", "What stood here?", "7", "Fir"])
    expect(page.locator("#history > .unknown")).to_have_count(2)
    expect(options(page).first).to_have_text("Elm")
    expect(page.locator("#basis")).to_have_text("From 2 items, and why.")
    page.evaluate("location.hash = '#history=~k,~l'")
    expect(history(page)).to_have_text(["Kauri", "Larch"])
    expect(guesses(page).first).to_have_text("Alder 1901")


def test_a_model_without_titles_shows_and_finds_ids(visit):
    page = visit(site="untitled")
    field = page.get_by_role("combobox", name="Search item ids")
    field.fill("c")
    page.get_by_role("option", name="c", exact=True).click()
    expect(history(page)).to_have_text(["c"])
    expect(guesses(page).first).to_have_text("d")


def test_the_token_is_asked_for_only_where_the_server_wants_one(visit):
    expect(visit().locator("#token-form")).to_be_hidden()
    page = visit("#history=~a", "guarded", allowed="401")
    field = page.get_by_label("This server asks for a token.")
    for word, verdict in (("wrong", "That one was not accepted."), ("sesame", None)):
        field.fill(word)
        page.keyboard.press("Enter")
        if verdict:
            expect(page.locator("#token-note")).to_have_text(verdict)
    expect(guesses(page).first).to_have_text("Birch")
    expect(page.locator("#token-form")).to_be_hidden()
    assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 1]


def test_a_busy_server_is_asked_again_and_a_refusal_is_one_line(visit):
    page = visit("#history=~a", allowed="503|422")
    expect(guesses(page).first).to_have_text("Birch")
    page.route("**/v1/recommend", lambda route: route.fulfill(status=503, headers={"Retry-After": "1"}), times=1)
    page.get_by_role("button", name="Add Birch").click()
    expect(page.get_by_role("alert")).to_have_text("The server is busy; asking again in 1 s.")
    expect(guesses(page).first).to_have_text("Cedar")
    expect(page.get_by_role("alert")).to_be_hidden()
    problem = '{"status": 422, "title": "Unprocessable", "detail": "history: too long for me"}'
    page.route("**/v1/recommend", lambda route: route.fulfill(status=422, body=problem), times=1)
    page.get_by_role("button", name="Add Cedar").click()
    expect(page.get_by_role("alert")).to_have_text("history: too long for me")


def test_a_stale_answer_never_replaces_a_newer_one(visit):
    page = visit("#history=~a")
    expect(guesses(page).first).to_have_text("Birch")
    held = []
    page.route("**/v1/recommend", lambda route: held.append(route), times=1)
    with page.expect_event("requestfailed") as given_up:
        page.get_by_role("button", name="Add Birch").click()
        page.get_by_role("button", name="Remove Alder").click()
    assert given_up.value == held[0].request
    expect(history(page)).to_have_text(["Birch"])
    expect(page.locator("#basis")).to_have_text("From 1 item, and why.")
    expect(guesses(page).first).to_have_text("Cedar")


def test_dark_follows_the_system_and_the_toggle_overrules_it(visit):
    page = visit(color_scheme="dark")
    toggle = page.get_by_role("button", name="Dark theme")

    def lightness():
        colour = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    expect(toggle).to_have_attribute("aria-pressed", "true")
    assert lightness() < 40
    toggle.click()
    expect(toggle).to_have_attribute("aria-pressed", "false")
    assert lightness() > 200
    page.reload()
    expect(toggle).to_have_attribute("aria-pressed", "false")
    assert lightness() > 200


def on_a_phone(visit):
    page = visit("#history=~a,~b,_,~d", viewport=PHONE, is_mobile=True, has_touch=True, reduced_motion="reduce")
    expect(options(page).first).to_have_text("Cedar")
    expect(guesses(page)).to_have_count(9)
    return page


def test_fits_a_phone_and_keeps_the_first_guess_in_sight(visit):
    page = on_a_phone(visit)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    peek = page.get_by_role("button", name="Next")
    expect(peek).to_contain_text("Elm")
    peek.tap()
    expect(page.get_by_role("heading", name="What comes next")).to_be_in_viewport()
    expect(peek).to_be_hidden()


def test_a_finger_moves_a_blank(visit):
    page = on_a_phone(visit)
    grip = page.get_by_role("button", name="Move the blank", exact=True).bounding_box()
    finger = page.context.new_cdp_session(page)  # Playwright itself only taps

    def touch(kind, *places):
        points = [{"x": grip["x"] + 5, "y": y} for y in places]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", grip["y"] + 10)
    touch("touchMove", grip["y"])
    touch("touchMove", grip["y"] - 40)
    expect(page.locator(".sides")).to_have_text("read from 1 before and 2 after")
    touch("touchEnd")
    expect(page).to_have_url(re.compile("#history=~a,_,~b,~d$"))


def test_the_api_s_page_is_drawn_from_this_server_alone(visit):
    page = visit("docs")
    page.locator("[data-path='/v1/recommend']").click()
    expect(page.get_by_text("top_k").first).to_be_visible()
