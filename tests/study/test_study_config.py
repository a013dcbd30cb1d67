"""The configuration of a study."""

from __future__ import annotations

from typing import Any

import pytest
from toy_study import MINIMAL, stages, study

from stcr_plugin.errors import ConfigError


def test_chain_lists_the_stages_from_the_base_on() -> None:
    assert study().chain("stage2") == ["stage1", "stage2"]
    assert study().chain("weak_only") == ["weak_only"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stages": stages(stage1={"starts_from": "stage2"})}, "starts from itself, through stage"),
        ({"stages": stages(stage2={"starts_from": "stage3"})}, "'stage3' is not a stage, did you mean 'stage"),
        ({"reference": "weak"}, "did you mean 'weak_only'"),
        ({"reference": "stage1"}, "`reference` 'stage1' is not a stage that is a row, did you mean 'stage2'"),
        ({"reference": "base"}, "`reference` 'base' is not a stage that is a row"),
        (
            {"equal": "tokens", "reference": "weak_only", "stages": stages(stage1={"row": True})},
            r"the row stage1, which stage2 .*\.row=false",
        ),
        ({"needed_seeds": 0}, "needed_seeds is 0; give at least 1, or null"),
        ({"seeds": [1, 1]}, "different and not negative"),
        ({"seeds": [-1]}, "not negative"),
        ({"seeds": []}, "at least one"),
        ({"stages": {**MINIMAL["stages"], "base": MINIMAL["stages"]["weak_only"]}}, "a stage cannot be called base"),
        ({"controls": {"rows": ["stage1"]}}, "controls.rows: 'stage1' is not a row, did you mean 'stage2'"),
        ({"guard": {"rows": ["weak"]}}, "guard.rows: 'weak' is not a row, did you mean 'weak_only'"),
        ({"model": "models/real"}, "give either `base`, .* or `model`"),
        ({"sedes": [1]}, "unknown key 'sedes', did you mean 'seeds'"),
    ],
)
def test_what_cannot_be_run_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        study(**changes)
