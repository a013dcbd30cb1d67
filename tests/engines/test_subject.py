import json

import pytest

from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.engines.subject import subject
from stcr_plugin.errors import ConfigError


class Served:
    def __init__(self, **known):
        self.known = known

    def identity(self):
        return self.known

    def respond(self, prompts):
        yield from ()


def test_settings_are_completed_by_the_stage_and_changes_lie_over_them(tmp_path):
    (tmp_path / "stage.json").write_text(json.dumps({"name": "stage1", "mode": "cot", "image_max_pixels": 5000}))
    who = subject(tmp_path, tmp_path, AskSettings(language="zh"), Served(engine="e"), warn=True)
    settings = who.settings
    assert (settings.mode, settings.image_max_pixels, settings.language, settings.warn) == ("cot", 5000, "zh", True)
    assert subject(tmp_path, tmp_path, engine=Served(engine="e"), mode="direct").settings.mode == "direct"


def test_answers_may_be_as_long_as_the_callback_of_the_stage_let_them_be(tmp_path):
    evaluate = {"max_new_tokens": 400}
    (tmp_path / "stage.json").write_text(json.dumps({"name": "stage1", "settings": {"evaluate": evaluate}}))
    engine = Served(engine="e")
    assert subject(tmp_path, tmp_path, engine=engine).settings.max_new_tokens == 400
    assert subject(tmp_path, tmp_path, AskSettings(max_new_tokens=64), engine).settings.max_new_tokens == 64
    (tmp_path / "stage.json").write_text(json.dumps({"name": "stage1", "settings": {"evaluate": None}}))
    assert subject(tmp_path, tmp_path, engine=engine).settings.max_new_tokens == 256


def test_model_is_called_as_it_is_told_then_by_stage_folder_and_server(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    at_server = subject(None, tmp_path, engine=Served(engine="server", model="org/m"))
    in_folder = subject(folder, tmp_path, engine=Served(engine="local"))
    assert at_server.names(None) == {"name": "org/m", "model": "org/m"}
    assert at_server.names("mine") == {"name": "mine", "model": "org/m"}
    assert in_folder.names(None) == {"name": "base", "model": str(folder)}
    (folder / "stage.json").write_text(json.dumps({"name": "stage1"}))
    assert subject(folder, tmp_path, engine=Served(engine="local")).names(None)["name"] == "stage1"
    assert subject(None, tmp_path, engine=Served(engine="coin")).names(None) == {"name": "coin", "model": "coin"}


def test_nobody_to_ask_is_told(tmp_path):
    with pytest.raises(ConfigError, match="there is nothing to ask"):
        subject(None, tmp_path)


def test_batch_size_alone_decides_no_answer():
    given = AskSettings(batch_size=3, style="letters")
    assert given.decides == AskSettings(style="letters").decides != AskSettings().decides
    assert "batch_size" not in given.decides


def test_another_image_size_than_in_training_is_refused_unless_told(tmp_path):
    (tmp_path / "stage.json").write_text(json.dumps({"name": "stage1", "image_max_pixels": 5000}))
    with pytest.raises(
        ConfigError,
        match=r"image_max_pixels: 9000, but stage 'stage1' was trained with 5000.*set other_image_size=true",
    ):
        subject(tmp_path, tmp_path, AskSettings(image_max_pixels=9000), Served(engine="e"))
    told = AskSettings(image_max_pixels=9000, other_image_size=True)
    assert subject(tmp_path, tmp_path, told, Served(engine="e")).settings.image_max_pixels == 9000
    same = AskSettings(image_max_pixels=5000)
    assert subject(tmp_path, tmp_path, same, Served(engine="e")).settings.decides == same.decides | {
        "mode": "direct",
        "image_min_pixels": AskSettings().pixels[1],
    }
