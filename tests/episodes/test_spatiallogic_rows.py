"""Rows in forms that others write: read where their meaning is clear, else named by their true form."""

from pathlib import Path

import pytest

from stcr_plugin.episodes.spatiallogic_rows import READERS, UnusableError
from stcr_plugin.errors import DataError

PARSE = READERS[".json"][1]


def row(*images):
    content = [*images, {"type": "text", "text": "Which?"}]
    return {"messages": [{"role": "user", "content": content}], "target": {"closer to completion": "img2"}}


def openai(url):
    return {"type": "image_url", "image_url": {"url": url}}


def test_images_in_the_form_of_openai_are_read():
    theirs = [{"type": "image", "image": name, "image_id": f"img{n}"} for n, name in enumerate(("a.png", "b.png"), 1)]
    assert PARSE(row(openai("a.png"), openai("file://b.png"))) == PARSE(row(*theirs))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (row(openai("https://x/a.png"), openai("b.png")), "its image is an address, not the path of a file; save"),
        (row(openai("data:image/png;base64,AA"), openai("b.png")), "its image is an address"),
        (row(openai(None), openai("b.png")), "the path of an image is not text"),
        ({"conversations": [{"from": "human", "value": "Which?"}]}, "a conversation of `from` and `value`"),
    ],
)
def test_row_in_another_form_says_what_it_is(given, words):
    with pytest.raises(UnusableError, match=words):
        PARSE(given)


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_file_that_git_lfs_has_not_fetched_says_so(tmp_path: Path, suffix):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n")
    with pytest.raises(DataError, match="a Git LFS pointer"):
        list(READERS[suffix][0](path))
