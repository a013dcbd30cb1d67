"""Trainings that go one step at a time, each in a process of its own, so that two are timed step by step in turn.

    paced_training.py KIND ARGUMENTS.json GO DONE     waits for a line from pipe GO, takes a step, tells DONE its time

A busier machine weighs on both alike. Between its steps a training is stopped with all its processes, so that no
dataloader worker of the one prepares batches in the time of the other.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

Step = Callable[[], tuple[float, float]]


@contextmanager
def paced(kind: str, args: Mapping[str, Any], folder: Path, environment: Mapping[str, str]) -> Iterator[Step]:
    """A training of TRAININGS in a process of its own. Each call of what is yielded takes one optimizer step and
    returns its (wall seconds, seconds of processor time): the batch made, forward, backward, update and logs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "arguments.json").write_text(json.dumps(dict(args)), encoding="utf-8")
    command = [sys.executable, __file__, kind, str(folder / "arguments.json")]
    go_read, go_write = os.pipe()
    done_read, done_write = os.pipe()
    log = folder / "log.txt"
    with (
        log.open("w") as output,
        os.fdopen(go_write, "w", buffering=1) as go,
        os.fdopen(done_read) as done,
    ):
        process = subprocess.Popen(
            [*command, str(go_read), str(done_write)],
            env=dict(environment),
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(go_read, done_write),
            start_new_session=True,
        )
        os.close(go_read)
        os.close(done_write)

        def line() -> str:
            said = done.readline()
            assert said, f"{kind}: the training ended: {log.read_text(encoding='utf-8')[-4000:]}"
            return said

        def step() -> tuple[float, float]:
            os.killpg(process.pid, signal.SIGCONT)
            go.write("\n")
            wall, processor = map(float, line().split())
            os.killpg(process.pid, signal.SIGSTOP)
            return wall, processor

        try:
            yield step
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _pace(go: IO[str], done: IO[str]) -> Any:
    from transformers import TrainerCallback

    class Pace(TrainerCallback):
        def _wait(self) -> None:
            go.readline()
            self.started = time.perf_counter(), time.process_time()

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._wait()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            wall, processor = time.perf_counter() - self.started[0], time.process_time() - self.started[1]
            done.write(f"{wall} {processor}\n")
            done.flush()
            self._wait()

    return Pace()


def _llamafactory(args: dict[str, Any], pace: Any) -> None:
    """`llamafactory-cli train` of one process: with a `stcr:` block the plugin's stage, else LLaMA-Factory alone."""
    from llamafactory.train.tuner import run_exp

    loaded = any(name.startswith("stcr_plugin.frameworks") for name in sys.modules)
    assert loaded == ("stcr" in args), f"the plugin is {'' if loaded else 'not '}loaded"
    run_exp(args, [pace])


def _authors(args: dict[str, Any], pace: Any) -> None:
    """The approach of the STCR authors' released code, in our words: each sample is opened, put into the chat template
    and processed when the loader asks for it, in batches of one without workers; the labels start too early.
    """
    import torch
    from PIL import Image
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration, Trainer, TrainingArguments

    from stcr_plugin.frameworks.mask import authors_labels

    processor = AutoProcessor.from_pretrained(args["model"])
    registry, rows = Path(args["registry"]), json.loads(Path(args["data"]).read_text(encoding="utf-8"))

    class Samples(torch.utils.data.Dataset[dict[str, Any]]):
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, number: int) -> dict[str, Any]:
            row = rows[number]
            question, answer = (turn["content"] for turn in row["messages"])
            pictures = [Image.open(registry / name).convert("RGB") for name in row["images"]]
            first, second, text = question.split("<image>")
            parts = [{"type": "text", "text": first}, {"type": "image"}, {"type": "text", "text": second},
                     {"type": "image"}, {"type": "text", "text": text}]  # fmt: skip
            prompt = processor.apply_chat_template(
                [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True
            )
            inputs = processor(text=[prompt + answer], images=pictures, return_tensors="pt")
            ids = inputs["input_ids"][0].tolist()
            answered = len(processor.tokenizer(answer)["input_ids"])
            right = [-100] * (len(ids) - answered) + ids[-answered:]
            labels = authors_labels(ids, right, processor.image_token_id)
            return {**inputs, "labels": torch.tensor([labels])}

    training = TrainingArguments(
        output_dir=args["output_dir"],
        max_steps=args["max_steps"],
        per_device_train_batch_size=1,
        gradient_accumulation_steps=args["batch"],
        dataloader_num_workers=0,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        warmup_ratio=0.05,
        logging_steps=10,
        save_strategy="no",
        report_to="tensorboard",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        use_cpu=True,
    )
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(args["model"], dtype=torch.float32)
    Trainer(
        model, training, train_dataset=Samples(), data_collator=lambda samples: samples[0], callbacks=[pace]
    ).train()


TRAININGS: Mapping[str, Callable[[dict[str, Any], Any], None]] = {"llamafactory": _llamafactory, "authors": _authors}

if __name__ == "__main__":
    _kind, _arguments, _go, _done = sys.argv[1:]
    with os.fdopen(int(_go)) as _control, os.fdopen(int(_done), "w") as _times:
        TRAININGS[_kind](json.loads(Path(_arguments).read_text(encoding="utf-8")), _pace(_control, _times))
