"""Ask a served STCR model which of two pictures is closer to completion, in both orders. Needs only Pillow.

python client.py a.png b.png "put the cup on the plate"
"""

import base64
import io
import json
import math
import sys
import urllib.request

from PIL import Image, ImageOps

URL = "http://127.0.0.1:8000/v1"
MODEL = "stcr"
MOST, LEAST = 589824, 1024  # pixels of a picture in training
QUESTION = "{task}"
MAX_TOKENS = 256


def data_url(path: str) -> str:
    """The picture in the size of training, as a data URL."""
    stored = Image.open(path)
    if stored.mode.startswith(("I", "F")):  # a conversion to 8 bits would clip it
        sys.exit(f"{path}: has more than 8 bits per colour; save it with 8")
    picture = ImageOps.exif_transpose(stored).convert("RGB")  # as the camera was held
    for limit, over in ((MOST, True), (LEAST, False)):
        pixels = picture.width * picture.height
        if pixels > limit if over else pixels < limit:
            scale = math.sqrt(limit / pixels)
            picture = picture.resize((int(picture.width * scale), int(picture.height * scale)))
    data = io.BytesIO()
    picture.save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def judge(first: str, second: str, task: str) -> str:
    """The model's response. A label is before each picture, the question after both."""
    content = [
        {"type": "text", "text": "img1: "},
        {"type": "image_url", "image_url": {"url": data_url(first)}},
        {"type": "text", "text": "\nimg2: "},
        {"type": "image_url", "image_url": {"url": data_url(second)}},
        {"type": "text", "text": "\n" + QUESTION.replace("{task}", task)},
    ]
    message = {"role": "user", "content": content}
    body = {"model": MODEL, "messages": [message], "max_tokens": MAX_TOKENS, "temperature": 0.0}
    request = urllib.request.Request(
        URL + "/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as reply:
        answer = json.load(reply)["choices"][0]["message"]["content"]
    return (
        str(answer)
        if answer
        else sys.exit("the reply holds no answer: raise MAX_TOKENS, or turn the model's reasoning off")
    )


if __name__ == "__main__":
    one, other, task = sys.argv[1:]
    try:
        print("in this order:", judge(one, other, task))
        print("swapped:", judge(other, one, task))
    except OSError as error:  # a file that is not a picture, or a server that does not answer
        sys.exit(f"{error}; asked {URL}")
