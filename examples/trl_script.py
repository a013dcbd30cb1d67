"""Train on weak pairs in your own TRL script, with the gap measured before and after.

    python examples/trl_script.py runs/demo/stage1 runs/demo/data_registry stcr runs/own --steps 400

The dataset, the collator (image numbers, loss on the answer only) and the callback are the plugin's. The trainer is
TRL's SFTTrainer, and everything else is yours to change.
"""

import argparse

from trl import SFTConfig, SFTTrainer

from stcr_plugin.frameworks.trl import AskSettings, GapCallback, TemporalCollator, dataset, load, read_pairs

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="folder of the model to start from")
parser.add_argument("registry", help="folder of the builds")
parser.add_argument("build", help="name of a build; its dataset BUILD_weak and its split dev are used")
parser.add_argument("out", help="folder of the trained model")
parser.add_argument("--steps", type=int, default=400)
parser.add_argument("--batch-size", type=int, default=16)
parser.add_argument("--pairs", type=int, default=80, help="pairs of dev to evaluate before and after (default: 80)")
options = parser.parse_args()

PIXELS = 7056  # 84 x 84, as recipes/stage2_weak.yaml has it; for Qwen2.5-VL-7B 200704
model, processor = load(options.model)
rows = dataset(options.registry, f"{options.build}_weak")
collator = TemporalCollator(processor, image_max_pixels=PIXELS, media_dir=options.registry)
pairs = read_pairs(options.registry, options.build, "dev")[: options.pairs]
ask = AskSettings(mode="direct", image_max_pixels=PIXELS)
gap = GapCallback(pairs, options.registry, ask, record=print)
config = SFTConfig(
    options.out,
    max_steps=options.steps,
    per_device_train_batch_size=options.batch_size,
    learning_rate=1e-3,
    bf16=False,  # the default needs a GPU
    remove_unused_columns=False,  # the collator reads the images
    save_strategy="no",
    report_to="none",
)
trainer = SFTTrainer(model, config, collator, rows, processing_class=processor, callbacks=[gap])
gap.trainer = trainer  # evaluation needs the trainer's accelerator
trainer.train()
trainer.save_model(options.out)
processor.save_pretrained(options.out)
