"""A tiny model of the InternVL architecture goes through a stage, and is judged alike by callback and engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_internvl import write_internvl
from tiny_stage import Workshop, losses

from stcr_plugin.errors import ConfigError
from stcr_plugin.result_files import encode


@pytest.fixture(scope="module")
def internvl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_internvl(tmp_path_factory.mktemp("models") / "internvl")


@pytest.mark.slow
def test_stage_trains_internvl_and_engine_repeats_the_callbacks_figures(workshop: Workshop, internvl: Path) -> None:
    from stcr_plugin.engines.local import LocalEngine
    from stcr_plugin.engines.prompts import prompts_for
    from stcr_plugin.engines.settings import AskSettings
    from stcr_plugin.pairs import spread
    from stcr_plugin.registry.manifest import read_pairs
    from stcr_plugin.scoring.metrics import figures
    from stcr_plugin.scoring.parsing import answered
    from stcr_plugin.types import ORDERS, Query

    run = workshop.train(
        "weak", "internvl", "template=stcr_intern_vl", "max_steps=8", "learning_rate=1e-2", "stcr.augment=null",
        model=internvl,
    )  # fmt: skip
    found = losses(run)
    assert len(found) == 8
    assert found[-1] < 0.7 * found[0]

    settings = AskSettings(mode="direct", image_max_pixels=7056)
    queries = [
        Query(pair, order) for pair in spread(read_pairs(workshop.registry, "tiny", "dev"), 4) for order in ORDERS
    ]
    prompts = prompts_for(queries, settings)
    said = dict(LocalEngine(run, workshop.registry, settings).respond(prompts))
    mine = figures([answered(query, prompts[number], said[number]) for number, query in enumerate(queries)])
    record = json.loads((run / "stage.json").read_text(encoding="utf-8"))
    after = next(one for one in record["figures"] if one["when"] == "after")
    assert encode(mine) == pytest.approx({name: after[name] for name in encode(mine)})


def test_internvl_reasons_in_words_when_asked_to(workshop: Workshop, internvl: Path) -> None:
    from stcr_plugin.engines.local import LocalEngine
    from stcr_plugin.engines.prompts import prompts_for
    from stcr_plugin.engines.settings import AskSettings
    from stcr_plugin.registry.manifest import read_pairs
    from stcr_plugin.types import Query

    settings = AskSettings(mode="cot", max_new_tokens=6, image_max_pixels=7056)
    prompts = prompts_for(
        [Query(pair, "forward") for pair in read_pairs(workshop.registry, "tiny", "dev")[:2]], settings
    )
    said = dict(LocalEngine(internvl, workshop.registry, settings).respond(prompts))
    assert [0 < said[number].completion_tokens <= 6 for number in range(2)] == [True, True]


def test_tiles_are_refused(workshop: Workshop, internvl: Path) -> None:
    with pytest.raises(ConfigError, match="crop_to_patches: true cuts a picture"):
        workshop.train("weak", "tiles", "template=stcr_intern_vl", "crop_to_patches=true", model=internvl)
