"""What every stage through TRL does around its trainer: the processor first; then training, saving and metrics."""

from __future__ import annotations

from typing import Any

from stcr_plugin.engines.chat_templates import try_template
from stcr_plugin.engines.loading import load_processor
from stcr_plugin.frameworks.trl.conversation import refuse_another_template
from stcr_plugin.frameworks.trl.keys import Keys


def checked_processor(keys: Keys) -> Any:
    """The model's processor. Raises DataError for a broken chat template, ConfigError where it is not `template`."""
    processor = load_processor(keys.model.model_name_or_path, local=False)
    try_template(processor, keys.model.model_name_or_path)
    refuse_another_template(processor, keys.data.template)
    return processor


def finish(trainer: Any, config: Any, *, measured: bool = False) -> None:
    """Train, and write the model and the metrics; `measured` on held-out rows where the recipe evaluates."""
    import torch.distributed as dist

    done = trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
    trainer.save_model()
    trainer.log_metrics("train", done.metrics)
    trainer.save_metrics("train", done.metrics)
    trainer.save_state()
    if config.do_eval and measured:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
