"""Ask a served STCR model which of two pictures is closer to completion, in both orders. Needs Pillow alone.

python client.py a.png b.png "put the cup on the plate"
"""

import base64
import io
import json
import math
import sys
import urllib.request

from PIL import Image

URL = "http://127.0.0.1:8000/v1"
MODEL = "stcr"
MOST, LEAST = 589824, 1024  # pixels of a picture in training
QUESTION = "{task}"
MAX_TOKENS = 256


def sized(path: str) -> str:
    """The picture as training sized it, as a data URL."""
    picture = Image.open(path).convert("RGB")
    for limit, over in ((MOST, True), (LEAST, False)):
        pixels = picture.width * picture.height
        if pixels > limit if over else pixels < limit:
            scale = math.sqrt(limit / pixels)
            picture = picture.resize((int(picture.width * scale), int(picture.height * scale)))
    data = io.BytesIO()
    picture.save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def asked(first: str, second: str, task: str) -> str:
    """What the model says: the label stands before each picture, the question behind both."""
    content = [
        {"type": "text", "text": "img1: "},
        {"type": "image_url", "image_url": {"url": sized(first)}},
        {"type": "text", "text": "\nimg2: "},
        {"type": "image_url", "image_url": {"url": sized(second)}},
        {"type": "text", "text": "\n" + QUESTION.replace("{task}", task)},
    ]
    message = {"role": "user", "content": content}
    body = {"model": MODEL, "messages": [message], "max_tokens": MAX_TOKENS, "temperature": 0.0}
    request = urllib.request.Request(
        URL + "/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as reply:
        return str(json.load(reply)["choices"][0]["message"]["content"])


if __name__ == "__main__":
    one, other, task = sys.argv[1:]
    print("in this order:", asked(one, other, task))
    print("swapped:", asked(other, one, task))
