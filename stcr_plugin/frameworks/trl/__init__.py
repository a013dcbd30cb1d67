"""TRL's SFTTrainer: the backend of `stcr train --backend trl`, and its parts for your own training script.

A script that trains stage 2 on a build's weak pairs, with the gap measured before and after::

    from trl import SFTConfig, SFTTrainer
    from stcr_plugin.frameworks.trl import AskSettings, GapCallback, TemporalCollator, dataset, load, read_pairs

    model, processor = load("runs/tabletop/stage1")
    rows = dataset("data_registry", "stcr_weak")
    collator = TemporalCollator(processor, image_max_pixels=7056, media_dir="data_registry")
    ask = AskSettings(mode="direct", image_max_pixels=7056)
    gap = GapCallback(read_pairs("data_registry", "stcr", "dev")[:80], "data_registry", ask, record=print)
    config = SFTConfig("runs/own", max_steps=400, learning_rate=1e-3, bf16=False, remove_unused_columns=False)
    trainer = SFTTrainer(model, config, collator, rows, processing_class=processor, callbacks=[gap])
    gap.trainer = trainer
    trainer.train()

`SFTConfig` has its own defaults: bf16, recomputed activations, a learning rate of 2e-5. Its `max_length` cuts nothing
here; give the collator a `cutoff_len`, over which it raises. `remove_unused_columns` must be false.
"""

from stcr_plugin.engines.loading import load
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.frameworks.callback import GapCallback
from stcr_plugin.frameworks.trl.collator import TemporalCollator
from stcr_plugin.frameworks.trl.dataset_rows import dataset
from stcr_plugin.registry.manifest import read_pairs

__all__ = ["AskSettings", "GapCallback", "TemporalCollator", "dataset", "load", "read_pairs"]
