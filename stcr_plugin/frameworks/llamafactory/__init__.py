"""LLaMA-Factory: template, settings of the `stcr:` block, augmentation, callback, stage record, the run itself."""
