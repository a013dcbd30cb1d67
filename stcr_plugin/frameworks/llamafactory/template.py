"""The multi-image temporal template: pictures numbered img1 .. imgN, and a loss on the answer alone.

The mm_plugin writes the number in front of each picture, so a dataset has only `<image><image>question` and no file can
mislabel its pictures. A conversation of one picture or none stays as it is, so that general data may be mixed in.
"""

from __future__ import annotations

import logging
from typing import Any

from stcr_plugin.artefacts import code_digest
from stcr_plugin.engines.picture_loading import fitted_size
from stcr_plugin.engines.settings import MAX_PIXELS, MIN_PIXELS
from stcr_plugin.errors import DataError
from stcr_plugin.frameworks.images import decoded, stand_in
from stcr_plugin.frameworks.numbering import TEMPLATES, number_images, too_long
from stcr_plugin.registry import picture_store


def register(template_module: Any) -> None:
    """Register the templates and their mm_plugins with LLaMA-Factory, through its own functions, once."""
    from llamafactory.data import mm_plugin
    from llamafactory.data.formatter import StringFormatter

    if next(iter(TEMPLATES)) in template_module.TEMPLATES:
        return
    # It warns of every path that is not a file, and leaves it to the mm_plugin: right for a position in a tar.
    logging.getLogger("llamafactory.data.converter").addFilter(_is_not_of_a_tar)
    template_class = _temporal_template(template_module.Template)
    for name, family in TEMPLATES.items():
        mm_plugin.register_mm_plugin(name, _numbering(mm_plugin.PLUGINS[family.plugin], family.after_image))
        template_module.register_template(
            name=name,
            format_user=StringFormatter(slots=["<|im_start|>user\n{{content}}<|im_end|>\n<|im_start|>assistant\n"]),
            # LLaMA-Factory's own slot ends in "\n" and would train on that line feed too.
            format_assistant=StringFormatter(slots=["{{content}}<|im_end|>"]),
            format_system=StringFormatter(slots=["<|im_start|>system\n{{content}}<|im_end|>\n"]),
            default_system=family.system,
            stop_words=["<|im_end|>"],
            replace_eos=True,
            mm_plugin=mm_plugin.get_mm_plugin(name, family.image_token, family.video_token),
            template_class=template_class,
        )


def _is_not_of_a_tar(record: logging.LogRecord) -> bool:
    return picture_store.IN_TAR not in record.getMessage()


def _numbering(parent: type, after_image: str) -> type:
    class NumberedImages(parent):  # type: ignore[misc]
        """`parent`, with the pictures numbered before they are expanded into image tokens, and read out of tar files.

        The run sets `media_dir`, which names in tar files are relative to, and `bad_pictures`: with `replace` a picture
        that cannot be decoded counts as a grey one, for its sample is replaced later; else it raises DataError.
        """

        media_dir = ""
        bad_pictures = "error"

        def _regularize_images(self, images: Any, **limits: Any) -> Any:
            return super()._regularize_images([self._shown(image) for image in images], **limits)

        def _shown(self, image: Any) -> Any:
            try:
                return decoded(image, self.media_dir)
            except DataError as error:
                if self.bad_pictures == "replace":
                    return stand_in(image)
                raise DataError(
                    error.where,
                    error.problem,
                    "restore a damaged or missing picture by `stcr data build` with that data's configuration, or "
                    "train on other samples by stcr.bad_pictures: replace",
                ) from None

        def _get_mm_token_metadata(self, images: Any, videos: Any, audios: Any, processor: Any) -> Any:
            """What LLaMA-Factory counts a sample's image tokens by: its patches, from each picture's size alone.

            Its own answer makes every picture's patches, only to count them.
            """
            import torch

            count = getattr(processor.image_processor, "get_number_of_image_patches", None)
            if videos or audios or not images or count is None:
                return super()._get_mm_token_metadata(images, videos, audios, processor)
            pixels = (
                getattr(processor, "image_max_pixels", MAX_PIXELS),
                getattr(processor, "image_min_pixels", MIN_PIXELS),
            )
            sizes = [fitted_size(self._shown(image).size, *pixels) for image in images]
            return {"image_grid_thw": torch.tensor([[1, 1, count(height, width, {})] for width, height in sizes])}

        def process_messages(
            self, messages: list[dict[str, str]], images: Any, videos: Any, audios: Any, processor: Any
        ) -> Any:
            contents = number_images([message["content"] for message in messages], after_image)
            numbered = [{**message, "content": content} for message, content in zip(messages, contents, strict=True)]
            return super().process_messages(numbered, images, videos, audios, processor)

    return NumberedImages


def _temporal_template(parent: type) -> type:
    class TemporalTemplate(parent):  # type: ignore[misc]
        """ChatML whose supervised part is the answer and `<|im_end|>`; the line feed opens the next turn.

        `cutoff_len` is set by the run. A sample that it would cut raises DataError, instead of training on a
        question without its second picture, or on an answer without its end.
        """

        cutoff_len: int | None = None
        # Part of the key under which `datasets` caches tokenised samples: another numbering makes them again.
        code = code_digest("frameworks/llamafactory/template.py", "frameworks/numbering.py")

        def _encode(self, tokenizer: Any, messages: Any, system: Any, tools: Any) -> list[list[int]]:
            encoded: list[list[int]] = super()._encode(tokenizer, messages, system, tools)
            line_feed = tokenizer.encode("\n", add_special_tokens=False)
            turns = [line_feed + ids if k and k % 2 == 0 else ids for k, ids in enumerate(encoded)]
            length = sum(len(ids) for ids in turns)
            if self.cutoff_len is not None and length > self.cutoff_len:
                question = messages[-2]["content"] if len(messages) > 1 else messages[0]["content"]
                raise too_long(length, self.cutoff_len, question)
            return turns

    return TemporalTemplate
