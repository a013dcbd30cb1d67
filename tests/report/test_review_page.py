"""The static page of a review, its figures in words, and the served page in a real browser."""

import json
import re

import pytest
from annotated_rows import annotate, annotation, write_rows
from browser import chromium
from review_process import served

from stcr_plugin.annotation.decisions import ReviewedRows, decisions_file
from stcr_plugin.annotation.strata import strata
from stcr_plugin.cli import main
from stcr_plugin.report.review_page import card, static_page, summary
from stcr_plugin.samples.annotations import read_annotations

EVIL = "</textarea><script>alert(1)</script><img src=x onerror=alert(1)>"


@pytest.fixture
def path(tmp_path, registry):
    return annotate(tmp_path / "annotations.jsonl", registry, 20)


def run(*arguments):
    return main(["annotate", "review", *map(str, arguments)])


# ---- the static page and the summary


def test_static_page_has_a_random_sample_with_pictures_and_no_script(path, registry, tmp_path, capsys):
    out = tmp_path / "page.html"
    for seed in (0, 0, 1):
        assert run(path, "--registry", registry, "--html", out, "--rows", 6, "--seed", seed) == 0
        assert capsys.readouterr().out == f"page: {out}, 6 of 20 rows\n"
        text = out.read_text()
        assert text.count("<article") == 6
        assert text.count("data:image/png;base64,") == 12
        assert "<script" not in text
        assert not re.search(r"https?:", text)
        assert len(re.findall(r'alt="picture [AB]"', text)) == 12
    assert run(path, "--registry", registry, "--html", out, "--rows", 200) == 0
    assert out.read_text().count("<article") == 20


def test_static_page_shows_texts_of_models_and_does_not_obey_them(tmp_path):
    row = annotation(task=EVIL, earlier_text=EVIL, note=EVIL, judged=EVIL, describer=EVIL)
    reviewed = ReviewedRows(write_rows(tmp_path / "annotations.jsonl", [row]))
    found = strata(reviewed.rows, 5, 0)
    text = static_page(found["all"], found, reviewed, registry=tmp_path)
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 5


def test_earlier_picture_is_a_or_b_and_stays_there(path, registry):
    reviewed = ReviewedRows(path)
    first = [card(reviewed, at, registry).sides[0].name for at in range(20)]
    assert first == [card(reviewed, at, registry).sides[0].name for at in range(20)]
    assert 3 <= first.count("earlier") <= 17


def test_summary_names_precision_and_false_rejections(path, capsys):
    reviewed = ReviewedRows(path)
    for at, review in ((0, "accept"), (3, "accept"), (5, "reject"), (1, "accept"), (2, "reject")):
        reviewed.decide([reviewed.decision(at, review)])
    assert summary(strata(reviewed.rows, 200, 0), reviewed)[:4] == [
        "reviewed: 5 of 20 rows",
        "all: 5 of a random sample of 20 reviewed (20 rows), share that a person accepts 60.0 % (23.1 to 88.2)",
        "accepted: 3 of a random sample of 8 reviewed (8 rows), precision of acceptance 66.7 % (20.8 to 93.9)",
        "rejected: 2 of a random sample of 12 reviewed (12 rows), false rejections 50.0 % (9.5 to 90.5)",
    ]
    assert run(path, "--summary") == 0
    assert "precision of acceptance 66.7 % (20.8 to 93.9)" in capsys.readouterr().out
    assert [row.review for row in list(read_annotations(path))[:3]] == ["accept", "accept", "reject"]


def test_command_exports_and_imports_label_studio(path, registry, tmp_path, capsys):
    tasks = tmp_path / "tasks.json"
    assert run(path, "--registry", registry, "--to-label-studio", tasks, "--rows", 3) == 0
    assert capsys.readouterr().out.startswith(f"tasks: {tasks}, 3 of 20 rows; labelling interface: ")
    made = {"from_name": "review", "to_name": "earlier_image", "type": "choices", "value": {"choices": ["reject"]}}
    back = [task | {"annotations": [{"result": [made]}]} for task in json.loads(tasks.read_text())]
    tasks.write_text(json.dumps(back))
    assert run(path, "--from-label-studio", tasks) == 0
    assert capsys.readouterr().out.startswith("read: 3 new decisions")
    assert [row.review for row in read_annotations(path)].count("reject") == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--rows", "0"], "--rows: 0 is less than 1"), (["--from-label-studio", "nowhere.json"], "nowhere.json: no such")],
)  # fmt: skip
def test_wrong_options_are_refused_in_one_line(path, capsys, options, words):
    assert run(path, *options) == 1
    assert capsys.readouterr().err.startswith(f"stcr: {words}")


def test_missing_and_empty_files_are_refused(tmp_path, capsys):
    assert run(tmp_path / "no.jsonl", "--summary") == 1
    assert "no such file; name annotations.jsonl" in capsys.readouterr().err
    assert run(write_rows(tmp_path / "empty.jsonl", []), "--summary") == 1
    assert "has no rows" in capsys.readouterr().err


# ---- the served page


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


TEXTS = "[...document.querySelectorAll('#card .text')].map((one) => one.textContent)"
STATUS = "document.querySelector('#status').textContent"
IDLE = "working === 0"  # a key that comes earlier is dropped
PLACE = "document.querySelector('#place').textContent"


@pytest.fixture
def opened(browser, path, registry):
    with served(path, registry) as page:
        browser.size(1280, 900)
        browser.open(page.address)
        browser.until(f"{IDLE} && document.querySelectorAll('#card img').length === 2")
        yield page


def choose(browser, name, value):
    script = "const one = document.getElementById(arguments[0]); one.value = arguments[1];"
    browser.js(f"{script} one.dispatchEvent(new Event('change'))", name, value)


@pytest.mark.slow
def test_rows_are_reviewed_by_keys_alone(browser, opened, path):
    choose(browser, "list", "accepted")
    choose(browser, "which", "every")
    browser.until("document.querySelector('#card .tags').textContent.includes('row 1')")
    browser.until(IDLE)
    browser.keys("a")
    browser.until(f"{PLACE} === '2 of 8' && {STATUS} === 'Accepted row 1.'")
    browser.until(IDLE)
    browser.keys("r")
    browser.until(f"{PLACE} === '3 of 8' && {STATUS} === 'Rejected row 4.'")
    browser.until(IDLE)
    browser.keys("k")
    browser.until(f"{PLACE} === '2 of 8' && document.querySelector('#card .decision').textContent.includes('reject')")
    browser.until(IDLE)
    browser.keys("u")
    browser.until("document.querySelector('#card .decision').textContent === 'not reviewed'")
    browser.until(IDLE)
    browser.keys("Right")
    browser.until(f"{PLACE} === '3 of 8' && {IDLE}")
    browser.keys("e")
    browser.until("document.activeElement.matches('#card textarea')")
    changed = browser.js("return document.activeElement.name")
    browser.keys("Control+a", "N", "e", "w", ".", "a", "r", "Control+Enter")
    browser.until(f"{STATUS}.startsWith('Accepted row')")
    assert "1 of a random sample" not in opened.end()
    rows = [row for row in read_annotations(path) if row.review]
    assert [row.review for row in rows] == ["accept", "accept"]
    assert getattr(rows[1], changed) == "New.ar"
    assert len(decisions_file(path).read_text().splitlines()) == 4


@pytest.mark.slow
def test_escape_leaves_the_text_and_a_note_is_kept(browser, opened, path):
    before = browser.js(f"return {TEXTS}")
    browser.keys("e")
    browser.until("document.activeElement.matches('#card textarea')")
    browser.keys("x", "Escape")
    browser.until("!document.querySelector('#card textarea:not([hidden])')")
    assert browser.js(f"return {TEXTS}") == before
    browser.js("document.querySelector('#card [name=note]').focus()")
    browser.keys("a", "r", "!", "Enter")
    browser.until(f"{STATUS}.startsWith('Note saved')")
    browser.until(IDLE)
    browser.keys("u")
    browser.until("document.querySelector('#card [name=note]').value === ''")
    opened.end()
    assert {(row.review, row.note) for row in read_annotations(path)} == {("", "")}
    assert "ar!" in decisions_file(path).read_text()


@pytest.mark.slow
def test_label_order_and_verdicts_are_hidden_until_asked_for(browser, opened):
    choose(browser, "list", "rejected by judged")
    browser.until("document.querySelector('#card').textContent.includes('against the label')")
    assert "suspect label" not in browser.js("return document.querySelector('#card').innerText")
    assert not re.search("earlier|later", browser.js("return document.querySelector('#card').innerText"))
    browser.keys("h")
    shown = browser.js("return document.querySelector('#card').innerText")
    for words in ("✗ against the label", "suspect label", "the later picture is closer", "earlier picture, frame"):
        assert words in shown
    browser.until(IDLE)
    browser.keys("j")
    browser.until(f"{PLACE}.startsWith('2 of')")
    assert "✗ against the label" in browser.js("return document.querySelector('#card').innerText")


@pytest.mark.slow
def test_page_fits_a_narrow_window_and_controls_are_named(browser, opened):
    browser.size(420, 850)
    browser.keys("h")
    assert browser.js("return document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.js("return [...document.images].every((one) => one.alt && one.naturalWidth)")
    named = "(one) => (one.labels && one.labels.length) || one.ariaLabel || one.textContent.trim()"
    assert browser.js(f"return [...document.querySelectorAll('button, select, input, textarea')].every({named})")
    for _ in range(6):
        browser.keys("Tab")
        outline = "const one = document.activeElement; return one.matches('body') || getComputedStyle(one).outlineWidth"
        assert browser.js(outline) in (True, "2px")
    browser.size(1280, 900)


@pytest.mark.slow
def test_ended_server_is_named_and_nothing_seems_saved(browser, opened, path):
    opened.process.kill()
    opened.process.wait()
    browser.keys("a")
    browser.until(f"{STATUS}.startsWith('The server does not answer, so nothing was saved.')")
    assert browser.js(f"return {PLACE}") == "1 of 20"
    assert not decisions_file(path).exists()


@pytest.mark.slow
def test_texts_of_a_model_run_nothing_in_the_browser(browser, tmp_path, registry):
    path = annotate(tmp_path / "annotations.jsonl", registry, 5, earlier_text=EVIL, task=EVIL, note=EVIL, judged=EVIL)
    with served(path, registry) as page:
        browser.open(page.address)
        browser.until(f"{IDLE} && document.querySelectorAll('#card img').length === 2")
        browser.keys("h", "e")
        assert EVIL in browser.until(TEXTS)
        assert browser.js("return document.querySelectorAll('#card script, #card [onerror]').length") == 0
        assert not any("Security Policy" in one["message"] for one in browser.do("se/log", type="browser"))


@pytest.mark.slow
def test_another_site_in_the_same_browser_can_neither_read_nor_write(browser, opened, path):
    """A page of another origin that even knows the token; `localhost` is another site than 127.0.0.1 to a browser."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>other</title>")

        def log_message(self, *_):
            pass

    # A browser opens connections ahead of time: a server of one thread would wait a minute for what never comes.
    other = ThreadingHTTPServer(("127.0.0.1", 0), Other)
    Thread(target=other.serve_forever, daemon=True).start()
    try:
        browser.open(f"http://127.0.0.1:{other.server_port}/")
        for options in (
            "{}", "{method: 'POST', headers: {'Content-Type': 'application/json'}, body: arguments[1]}",
            "{method: 'POST', mode: 'no-cors', body: arguments[1]}", "{mode: 'no-cors'}",
        ):  # fmt: skip
            browser.js(
                f"window.got = null; fetch(arguments[0], {options}).then((answer) => answer.text())"
                ".then((text) => { window.got = 'text:' + text }, () => { window.got = 'refused' })",
                f"{opened.address}decide", json.dumps({"position": 0, "review": "accept"}),
            )  # fmt: skip
            assert browser.until("window.got") in ("refused", "text:")
    finally:
        other.shutdown()
        other.server_close()
    assert not decisions_file(path).exists()
