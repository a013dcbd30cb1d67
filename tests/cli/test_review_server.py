"""The served review page: what it answers to its own page and refuses to everybody else, over a real socket."""

import json
import os
import signal
import socket
from pathlib import Path

import pytest
from annotated_rows import annotate, annotation, write_rows
from review_process import served

from stcr_plugin.annotation.decisions import decisions_file
from stcr_plugin.samples.annotations import read_annotations


def ask(to, method, path, body=None, **headers):
    """(status, headers, body) of one request, written to the socket as it is; a header that is None is left out."""
    port = to.port
    own = {"Host": f"127.0.0.1:{port}", "Connection": "close"}
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    if body is not None:
        own |= {
            "Origin": f"http://127.0.0.1:{port}", "Content-Type": "application/json", "Content-Length": str(len(data))
        }  # fmt: skip
    own |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{name}: {value}" for name, value in own.items() if value is not None]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall("\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode() + data)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    head, _, content = answer.partition(b"\r\n\r\n")
    status, *rest = head.decode("latin-1").split("\r\n")
    found = [line.partition(": ")[::2] for line in rest]
    return int(status.split()[1]), {name.lower(): value for name, value in found}, content


@pytest.fixture(scope="module")
def review(tmp_path_factory, registry):
    path = annotate(tmp_path_factory.mktemp("review") / "annotations.jsonl", registry, 10)
    with served(path, registry) as running:
        yield running, path


@pytest.fixture
def page(review):
    return review[0]


DECISION = {"position": 3, "review": "accept"}


def log(review):
    file = decisions_file(review[1])
    return file.read_bytes() if file.exists() else b""


def test_page_style_script_lists_and_rows_are_answered(page):
    for path, kind in (("", "text/html"), ("style.css", "text/css"), ("script.js", "text/javascript")):
        status, headers, content = ask(page, "GET", f"/{page.token}/{path}")
        assert status == 200
        assert headers["content-type"].startswith(kind)
        assert content
    status, _, content = ask(page, "GET", f"/{page.token}/list?name=accepted&which=every")
    assert json.loads(content) == [0, 3, 5, 8]
    status, _, content = ask(page, "GET", f"/{page.token}/row?n=1")
    assert status == 200
    assert "✗ time: before" in content.decode()
    assert content.count(b"data:image/png;base64,") == 2


def test_localhost_is_the_same_address(page):
    assert ask(page, "GET", f"/{page.token}/", Host=f"localhost:{page.port}")[0] == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [("row?n=10", 404), ("row?n=-1", 404), ("row?n=1e3", 404), ("row", 404), ("row?n=" + "9" * 5000, 404),
     ("list?name=nobody", 404), ("row?n=²", 404), ("picture/../../etc/passwd", 404), ("decide", 405), ("..", 404)],
)  # fmt: skip
def test_other_paths_and_numbers_are_refused(page, path, status):
    assert ask(page, "GET", f"/{page.token}/{path}".replace("²", "%C2%B2"))[0] == status


@pytest.mark.parametrize(
    "token", ["", "x", "{0}x", "{1}", "%00", "{2}", "../{0}", "%E2%82%AC", "static", "docs", "openapi.json"]
)
def test_without_the_token_nothing_is_there(page, token):
    path = "/" + token.format(page.token, page.token[:-1], page.token.swapcase())
    for tried in (path, f"{path}/", f"{path}/list?name=all"):
        status, headers, content = ask(page, "GET", tried)
        assert status == 404
        assert page.token.encode() not in content
        assert "location" not in headers


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:{port}",
     "127.0.0.1:{port}@evil.example", "0.0.0.0:{port}", "[::1]:{port}", ""],
)  # fmt: skip
def test_name_of_another_site_that_resolves_to_this_machine_is_refused(page, host):
    status, _, content = ask(page, "GET", f"/{page.token}/", Host=host.format(port=page.port))
    assert status in (400, 421)
    assert b"annotations.jsonl" not in content


def test_two_hosts_or_none_are_refused(page):
    assert ask(page, "GET", f"/{page.token}/", Host=None)[0] in (400, 421)
    assert ask(page, "GET", f"/{page.token}/", X=f"y\r\nHost: evil.example:{page.port}")[0] in (400, 421)


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": None}, {"Origin": "http://127.0.0.1:1"},
     {"Origin": "https://127.0.0.1:{port}"}, {"Origin": "http://localhost:{port}"}, {"Origin": "http://127.0.0.1"},
     {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"}, {"Content_Type": "text/plain"},
     {"Content_Type": "application/x-www-form-urlencoded"}, {"Content_Type": None}],
)  # fmt: skip
def test_another_site_cannot_write_even_with_the_token(review, headers):
    page = review[0]
    before = log(review)
    given = {name: value and value.format(port=page.port) for name, value in headers.items()}
    for path, body in (("decide", DECISION), ("undo", {})):
        status, answered, _ = ask(page, "POST", f"/{page.token}/{path}", body, **given)
        assert status in (403, 415)
        assert not any(name.startswith("access-control") for name in answered)
    assert log(review) == before


def test_reads_of_another_site_are_refused_and_no_site_is_allowed_any(page):
    assert ask(page, "GET", f"/{page.token}/row?n=0", Origin="http://evil.example")[0] == 403
    assert ask(page, "GET", f"/{page.token}/row?n=0", Sec_Fetch_Site="cross-site")[0] == 403
    wanted = {"Origin": "http://evil.example", "Access_Control_Request_Method": "POST"}
    status, headers, _ = ask(page, "OPTIONS", f"/{page.token}/decide", **wanted)
    assert status == 403
    assert not any(name.startswith("access-control") for name in headers)


def test_every_answer_forbids_scripts_frames_sniffing_and_caching(page):
    for path in (f"/{page.token}/", f"/{page.token}/row?n=0", "/", f"/{page.token}/nothing"):
        headers = ask(page, "GET", path)[1]
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; img-src data:")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"
        assert "set-cookie" not in headers
        assert "server" not in headers


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b"[" * 100_000, b"\xff", {}, {"position": "0", "review": "accept"}, {"position": 0},
     {"position": 0, "review": "perhaps"}, {"position": True, "review": "accept"},
     {"position": 0, "review": "accept", "texts": ["one"]}, {"position": 0, "review": "accept", "texts": ["", " "]},
     {"position": 0, "review": "accept", "note": 3}, {"position": 10, "review": "accept"},
     {"position": -1, "review": "accept"}, {"position": 0, "review": "accept", "note": "x" * 300_000}],
)  # fmt: skip
def test_broken_decisions_are_refused_in_one_line(review, body):
    page = review[0]
    before = log(review)
    status, _, content = ask(page, "POST", f"/{page.token}/decide", body)
    assert status in (400, 404)
    assert b"Traceback" not in content
    assert content.count(b"\n") == 0
    assert log(review) == before


def test_body_without_an_end_is_not_read(page):
    """Chunks that promise more: the answer comes before the client is done."""
    head = (
        f"POST /{page.token}/decide HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\nOrigin: http://127.0.0.1:{page.port}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", page.port), timeout=20) as connection:
        connection.sendall(head.encode() + (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 4)
        assert b" 400 " in connection.recv(4096)[:20]


def test_it_listens_on_this_machine_alone(page):
    own = {line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"}
    assert f"0100007F:{page.port:04X}" in own
    assert not any(one.endswith(f":{page.port:04X}") for one in own - {f"0100007F:{page.port:04X}"})


# ---- own files, own processes


@pytest.mark.parametrize(
    "how",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_decisions_are_on_the_disk_at_once_and_in_the_file_at_the_end(tmp_path, registry, how):
    path = annotate(tmp_path / "annotations.jsonl", registry, 5)
    with served(path, registry) as page:
        for position, review in ((0, "reject"), (1, "accept"), (0, "accept")):
            body = {"position": position, "review": review, "note": "n", "texts": ["One.", "Two."]}
            status, _, content = ask(page, "POST", f"/{page.token}/decide", body)
            assert (status, b"accepted (precision of acceptance)" in content) == (200, True)
        assert json.loads(ask(page, "POST", f"/{page.token}/undo", {})[2])["row"] == 0
        assert len(decisions_file(path).read_bytes().splitlines()) == 4
        printed = page.end(how)
        assert page.process.returncode == 0
    assert "reviewed: 2 of 5 rows" in printed
    rows = list(read_annotations(path))
    assert [row.review for row in rows] == ["reject", "accept", "", "", ""]
    assert rows[1].later_text == "Two."


@pytest.mark.slow
def test_killed_server_loses_nothing_and_the_next_start_folds(tmp_path, registry):
    path = annotate(tmp_path / "annotations.jsonl", registry, 5)
    with served(path, registry) as page:
        assert ask(page, "POST", f"/{page.token}/decide", {"position": 2, "review": "reject"})[0] == 200
        page.end(signal.SIGKILL)
    with served(path, registry):
        assert [row.review for row in read_annotations(path)] == ["", "", "reject", "", ""]


@pytest.mark.slow
def test_decisions_are_folded_while_the_page_is_open(tmp_path, registry):
    import time

    path = annotate(tmp_path / "annotations.jsonl", registry, 5)
    with served(path, registry) as page:
        assert ask(page, "POST", f"/{page.token}/decide", {"position": 2, "review": "reject"})[0] == 200
        deadline = time.monotonic() + 30
        while [row.review for row in read_annotations(path)] != ["", "", "reject", "", ""]:
            assert time.monotonic() < deadline
            time.sleep(0.2)


EVIL = "</textarea></p><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }}\"'"


def test_texts_of_data_and_models_are_escaped_and_pictures_stay_in_the_registry(tmp_path, registry):
    (tmp_path / "secret.png").write_bytes(b"\x89PNG")
    names = ("task", "earlier_text", "later_text", "describer", "note", "pair_id", "episode_id", "judged", "later_leak")
    row = annotation(**dict.fromkeys(names, EVIL), earlier_image="../secret.png", later_image="/etc/passwd#0+4")
    away = os.path.relpath(tmp_path / "secret.png", registry)
    tar = annotation(1, earlier_image=away, later_image=f"{tmp_path}/x.tar#0+4", suspect_label=True)
    path = write_rows(tmp_path / "a" / "annotations.jsonl", [row, tar])
    with served(path, registry) as page:
        for number in (0, 1):
            content = ask(page, "GET", f"/{page.token}/row?n={number}")[2].decode()
            assert "<script" not in content
            assert "onerror=alert(1)>" not in content.replace("&gt;", "")
            assert "data:image" not in content
            assert content.count("leaves its folder") == 2
        assert "49" not in ask(page, "GET", f"/{page.token}/row?n=0")[2].decode()


def test_second_review_of_the_file_and_a_taken_port_end_in_one_line(review, tmp_path, registry, capsys):
    from stcr_plugin.cli import main

    page, path = review
    assert main(["annotate", "review", str(path), "--summary"]) == 1
    assert "another process is writing it now" in capsys.readouterr().err
    other = annotate(tmp_path / "annotations.jsonl", registry, 5)
    assert main(["annotate", "review", str(other), "--port", str(page.port)]) == 1
    assert capsys.readouterr().err.startswith(f"stcr: --port {page.port}: cannot be used (")
    assert main(["annotate", "review", str(other), "--port", "70000"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_missing_web_server_is_named_with_what_installs_it(tmp_path, registry, monkeypatch, capsys):
    import sys

    from stcr_plugin.cli import main

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    path = annotate(tmp_path / "annotations.jsonl", registry, 5)
    assert main(["annotate", "review", str(path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("stcr: stcr annotate review: its web server is missing (")
    assert error.endswith("install it: `pip install fastapi uvicorn`\n")
