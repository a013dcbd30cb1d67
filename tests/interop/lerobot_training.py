"""Run by LeRobot's Python: a few steps of its own training of a policy, with weights from a progress file, as JSON.

python lerobot_training.py '{"dataset": ..., "progress": ..., "chunk": ..., "out": ...}'

The policy is SmolVLA, the smallest of the five of LeRobot 0.6.1 whose `forward` takes `reduction="none"`, which weights
need: evo1, molmoact2, pi0, pi05 and smolvla. It sits on a SmolVLM of 0.1 million random weights. What is printed is
what the training loop used: of each step the frames, their weights and the weighted loss.
"""

import json
import sys
from pathlib import Path
from typing import Any

from lerobot.rewards.sarm.rabc import RABCWeights
from lerobot.scripts import lerobot_train
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, SmolVLMConfig, SmolVLMImageProcessor, SmolVLMProcessor
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

asked = json.loads(sys.argv[1])
steps: list[dict[str, Any]] = []


def smolvlm(folder: Path) -> Path:
    """A SmolVLM for pictures of 64x64 pixels, each four tokens: its configuration, processor and tokenizer."""
    named = {
        "image_token": "<image>",
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    words = ["<unk>", "<pad>", *named.values(), "Pick", "up", "the", "yellow", "bottle", "on", "table", "."]
    tokens = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, unk_token="<unk>", pad_token="<pad>", extra_special_tokens=named
    )
    processor = SmolVLMProcessor(SmolVLMImageProcessor(), tokenizer, SmolVLMVideoProcessor(), image_seq_len=4)
    processor.save_pretrained(folder)
    text = {
        "model_type": "llama", "vocab_size": 64, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    }  # fmt: skip
    vision = {
        "image_size": 64, "patch_size": 16, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 2,
    }  # fmt: skip
    config = SmolVLMConfig(
        text_config=text, vision_config=vision, image_token_id=words.index("<image>"), pad_token_id=words.index("<pad>")
    )
    config.save_pretrained(folder)
    return folder


def watch() -> None:
    """Note what the training loop gets and gives, and change nothing."""
    weigh, update = RABCWeights.compute_batch_weights, lerobot_train.update_policy

    def weighed(self: RABCWeights, batch: dict[str, Any]) -> Any:
        found = weigh(self, batch)
        steps.append({"index": batch["index"].tolist(), "weights": found[0].tolist()})
        return found

    def updated(*given: Any, **named: Any) -> Any:
        tracker, output = update(*given, **named)
        steps[-1]["loss"] = tracker.loss.val
        return tracker, output

    RABCWeights.compute_batch_weights, lerobot_train.update_policy = weighed, updated


out = Path(asked["out"])
sys.argv = [
    "lerobot-train",
    "--dataset.repo_id=test/recordings",
    f"--dataset.root={asked['dataset']}",
    "--dataset.video_backend=pyav",
    "--policy.type=smolvla",
    f"--policy.vlm_model_name={smolvlm(out / 'smolvlm')}",
    "--policy.num_vlm_layers=2",
    "--policy.resize_imgs_with_padding=[64,64]",
    f"--policy.chunk_size={asked['chunk']}",
    f"--policy.n_action_steps={asked['chunk']}",
    "--policy.device=cpu",
    "--policy.push_to_hub=false",
    "--sample_weighting.type=rabc",
    f"--sample_weighting.progress_path={asked['progress']}",
    f"--output_dir={out / 'policy'}",
    "--batch_size=8",
    "--steps=5",
    "--num_workers=0",
    "--save_checkpoint=false",
]
watch()
lerobot_train.main()
print(json.dumps(steps))
