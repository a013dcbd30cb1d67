"""An exported folder holds the same model, for every reader."""

import json
import shutil

import pytest
import torch
from PIL import Image
from release_stage import adapter, finished
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from stcr_plugin import artefacts
from stcr_plugin.engines.loading import load
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ChainError, ConfigError, DataError
from stcr_plugin.evaluation.evaluate import evaluate
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.records import parent_record
from stcr_plugin.release.export import export
from stcr_plugin.release.server_commands import example

SMALL = AskSettings(batch_size=4)


def inputs(processor):
    text = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>which?<|im_end|>\n"
    picture = Image.effect_noise((84, 56), 90).convert("RGB")
    torch.manual_seed(0)
    return processor(text=[text], images=[picture], return_tensors="pt")


@torch.no_grad()
def logits(model, prepared):
    return model(**prepared).logits.float()


def figures(row):
    return row.figures, row.intervals, row.mode


def test_full_weights_are_copied_to_the_byte_and_evaluate_the_same(stage, registry, tmp_path):
    done = export(stage, tmp_path / "out", registry=registry)
    assert done.how == "copied"
    assert artefacts.sha256(done.out / "model.safetensors") == artefacts.sha256(stage / "model.safetensors")
    (model, processor), (other, _) = load(stage), load(done.out)
    prepared = inputs(processor)
    assert torch.equal(logits(model, prepared), logits(other, prepared))
    rows = [
        evaluate(
            EvalRequest(model=folder, dataset="toy", registry=registry, settings=SMALL, limit=4, resamples=50),
            tmp_path / name,
        )
        for name, folder in (("before", stage), ("after", done.out))
    ]
    assert figures(rows[0]) == figures(rows[1])
    responses = [(tmp_path / name / "said.jsonl").read_text() for name in ("before", "after")]
    assert responses[0] == responses[1]
    assert rows[1].settings["image_max_pixels"] == 3136
    assert rows[1].name == "stage2"
    assert "toy_weak" in rows[1].overlap.found.trained


def test_use_cache_and_generation_config_and_template_travel(stage, tmp_path):
    changed = json.loads((stage / "config.json").read_text())
    changed["use_cache"] = changed["text_config"]["use_cache"] = False
    (stage / "config.json").write_text(json.dumps(changed))
    (stage / "generation_config.json").write_text(json.dumps({"repetition_penalty": 1.05, "do_sample": True}))
    record = json.loads((stage / "stage.json").read_text())
    (stage / "stage.json").write_text(json.dumps(record | {"model_digest": artefacts.model_digest(stage)}))
    out = export(stage, tmp_path / "out").out
    config = json.loads((out / "config.json").read_text())
    assert (config["use_cache"], config["text_config"]["use_cache"]) == (True, True)
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation == {"repetition_penalty": 1.05, "do_sample": True, "use_cache": True}
    processors = [AutoProcessor.from_pretrained(str(folder), local_files_only=True) for folder in (stage, out)]
    assert len({processor.chat_template for processor in processors}) == 1
    assert processors[0].tokenizer.get_vocab() == processors[1].tokenizer.get_vocab()


def test_older_transformers_find_their_own_keys_and_todays_read_the_same(stage, tmp_path):
    """Without them transformers 4.57.1, which servers still use, stops at the tokenizer (tried by hand)."""
    out = export(stage, tmp_path / "out").out
    text = json.loads((out / "config.json").read_text())["text_config"]
    assert text["rope_scaling"] == text["rope_parameters"]
    assert text["rope_theta"] == text["rope_parameters"]["rope_theta"] == 10000.0
    tokens = json.loads((out / "tokenizer_config.json").read_text())
    assert tokens["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "extra_special_tokens" not in tokens
    before, after = (AutoProcessor.from_pretrained(str(folder)).tokenizer for folder in (stage, out))
    assert before.all_special_tokens == after.all_special_tokens
    words = "<|im_start|>user\nimg1: <|vision_start|>夹爪<|im_end|>"
    assert before(words)["input_ids"] == after(words)["input_ids"]


def test_serving_limits_are_what_every_reader_of_the_folder_gets(stage, tmp_path):
    out = export(stage, tmp_path / "out").out
    processor = AutoProcessor.from_pretrained(str(out), local_files_only=True).image_processor
    flat = json.loads((out / "preprocessor_config.json").read_text())
    nested = json.loads((out / "processor_config.json").read_text())["image_processor"]
    least, most = processor.size["shortest_edge"], processor.size["longest_edge"]
    for written in (flat, nested):
        assert (written["min_pixels"], written["max_pixels"]) == (least, most)
        assert written["size"] == {"shortest_edge": least, "longest_edge": most}
    assert flat["processor_class"] == "Qwen2_5_VLProcessor"
    assert 3136 <= most < 7056  # the stage's own processor allows 7056, and training shrank pictures to 3136
    grid = processor(images=[Image.new("RGB", (640, 480))], return_tensors="pt")["image_grid_thw"]
    assert grid.prod() * 14 * 14 <= most


@pytest.mark.slow
def test_merged_adapter_gives_the_adapters_logits(model, registry, tmp_path):
    """Against PEFT's own unmerged forward, in float32: sums in another order, so not to the last digit."""
    from peft import PeftModel

    run = finished(adapter(model, tmp_path / "lora"), registry, parent=model)
    done = export(run, tmp_path / "out")
    assert (done.how, done.dtype) == ("merged", "float32")
    base = AutoModelForImageTextToText.from_pretrained(str(model), dtype=torch.float32)
    prepared = inputs(AutoProcessor.from_pretrained(str(model)))
    plain = logits(base, prepared)
    tuned = logits(PeftModel.from_pretrained(base, str(run)).eval(), prepared)
    found = logits(load(done.out)[0], prepared)
    assert (tuned - plain).abs().max() > 0.05
    assert (found - tuned).abs().max() < 1e-5
    assert torch.equal(found, logits(load(run)[0], prepared))


@pytest.mark.slow
def test_stack_of_adapters_is_merged_in_its_order(model, registry, tmp_path):
    first = adapter(model, tmp_path / "first")
    run = finished(adapter(first, tmp_path / "second", seed=1), registry, parent=first)
    found = load(export(run, tmp_path / "out").out)[0]
    prepared = inputs(AutoProcessor.from_pretrained(str(model)))
    assert torch.equal(logits(found, prepared), logits(load(run)[0], prepared))
    assert (logits(found, prepared) - logits(load(first)[0], prepared)).abs().max() > 0.05
    assert not (tmp_path / "out" / "adapter_config.json").exists()


@pytest.mark.slow
def test_merge_in_bfloat16_stays_close(model, registry, tmp_path):
    """bfloat16 has 8 bits: the difference to float32 stays below a twentieth of what the adapter changes."""
    from transformers import AutoModelForImageTextToText

    half = tmp_path / "half"
    shutil.copytree(model, half)
    AutoModelForImageTextToText.from_pretrained(str(model), dtype=torch.bfloat16).save_pretrained(half)
    run = finished(adapter(half, tmp_path / "lora"), registry, parent=half)
    done = export(run, tmp_path / "out")
    assert done.dtype == "bfloat16"
    assert {weight.dtype for weight in load_file(done.out / "model.safetensors").values()} == {torch.bfloat16}
    prepared = inputs(AutoProcessor.from_pretrained(str(model)))
    plain, exact, found = (logits(load(folder)[0], prepared) for folder in (half, run, done.out))
    assert (found - exact).abs().max() < (exact - plain).abs().max() / 20


def test_dtype_casts(stage, tmp_path):
    done = export(stage, tmp_path / "out", dtype="bfloat16")
    assert (done.how, done.dtype) == ("cast", "bfloat16")
    before, after = (load_file(folder / "model.safetensors") for folder in (stage, done.out))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name].bfloat16(), weight) for name, weight in after.items())
    assert "--dtype bfloat16" in (done.out / "README.md").read_text()


def test_chain_file_holds_digests_and_a_next_stage_can_start_here(stage, tmp_path):
    done = export(stage, tmp_path / "out")
    chain = json.loads((done.out / "stcr_chain.json").read_text())
    assert chain["export"]["model_digest"] == done.digest == artefacts.model_digest(done.out)
    assert chain["export"]["from"]["model_digest"] == artefacts.model_digest(stage)
    asking = chain["export"]["asking"]
    prompt = example("direct", task="wipe the table", pair_id="judge")
    assert asking["question"].replace("{task}", "wipe the table") == prompt.question
    assert (asking["mode"], tuple(asking["labels"]), asking["answer"]) == ("direct", prompt.labels, prompt.answer)
    assert (asking["least"], asking["most"]) == (1024, 3136)
    assert chain["export"]["files"] == {
        path.name: artefacts.sha256(path) for path in done.out.iterdir() if path.name != "stcr_chain.json"
    }
    assert [one["name"] for one in chain["stages"]] == ["Qwen/Qwen2.5-VL-7B-Instruct", "stage2"]
    assert parent_record(str(done.out), "stcr_qwen2_vl", "next").model_digest == done.digest


def test_same_stage_gives_the_same_bytes(stage, tmp_path):
    one, other = (export(stage, tmp_path / name / "out").out for name in "ab")
    assert {path.name: path.read_bytes() for path in one.iterdir()} == {
        path.name: path.read_bytes() for path in other.iterdir()
    }


def test_killed_export_leaves_nothing(stage, tmp_path, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("stcr_plugin.release.export.model_card", killed)
    with pytest.raises(KeyboardInterrupt):
        export(stage, tmp_path / "new" / "out")
    assert list((tmp_path / "new").iterdir()) == []


def test_what_cannot_be_exported_is_refused(stage, model, registry, tmp_path):
    with pytest.raises(ChainError, match=r"holds no stage\.json; give the output folder of a finished stage"):
        export(model, tmp_path / "out")
    with pytest.raises(ChainError, match="does not exist"):
        export(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ConfigError, match="dtype: 'bfloat61'; did you mean 'bfloat16'"):
        export(stage, tmp_path / "out", dtype="bfloat61")
    with pytest.raises(ConfigError, match="exists already"):
        export(stage, stage)
    unfinished = finished(shutil.copytree(model, tmp_path / "half"), registry, finished=False)
    with pytest.raises(ChainError, match="did not finish"):
        export(unfinished, tmp_path / "out")
    with open(stage / "model.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(DataError, match="are not those that the stage left"):
        export(stage, tmp_path / "out")
    assert not (tmp_path / "out").exists()
