"""Runs on a tiny base that several processes share, or one alone: `python shared_scenes.py RANK COUNT FOLDER` is one of them.

Each scene's curve, notes, rows and weights lie in FOLDER afterwards, by scene and rank.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
from conftest import ROWS, STYLES, Trial, make_base, quick_recipe, trial_of, write_rows
from safetensors.torch import save_file

from onecard.training import loop, losses, ranks
from onecard.training.adapter import adapter_state
from onecard.training.order import TrainingOrder

EXACT = {"base_quantization": "none", "compute_dtype": "fp32"}
WORDS = ["lock", "queue", "heap", "stack", "thread", "page", "cache"]
SEVEN = [{"prompt": f"What is a {word}?", "completion": f"A {word} " * 3 * (number + 1), "preset": "terse"}
         for number, word in enumerate(WORDS)]  # fmt: skip
PAIRS = [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": "I do not know.", "preset": "terse"}
         for row in SEVEN[:5]]  # fmt: skip
SMOOTH = {"name": "adamw_torch", "learning_rate": 2e-3, "schedule": "constant", "warmup_ratio": 0}
PLAIN = {**EXACT, "optimizer": SMOOTH}
STEPS_OF_THREE = {"rows": 3, "accumulate": 1}
GOING = {
    **EXACT,
    "checkpoints": {"every_steps": 1, "keep": 1},
    "epochs": 4,
    "lora": {"rank": 4, "alpha": 8, "dropout": 0.2},
}


class Scenes:
    """What one process does, rank by rank the same scenes in the same order."""

    def __init__(self, folder: Path, base: Path, rank: int, count: int) -> None:
        self.folder, self.base, self.rank, self.count = folder, base, rank, count

    @staticmethod
    def base_of(embedded: Path, folder: Path) -> Path:
        folder.mkdir()
        return make_base(embedded, folder, tied=False)

    def all(self) -> None:
        self.scene("answers", SEVEN, {**PLAIN, "batch": STEPS_OF_THREE, "validation": {"share": 0.15}})
        padded = {**EXACT, "batch": {**STEPS_OF_THREE, "packing": False}, "optimizer": {"name": "adamw_8bit"}}
        self.scene("padded", SEVEN, padded)
        self.scene("pairs", PAIRS, {**PLAIN, "method": "dpo", "batch": STEPS_OF_THREE, "validation": {"share": 0.2}})
        if self.count > 1:
            self.scene("tight", ROWS, {**EXACT, "batch": {"rows": 4, "accumulate": 1}}, during=self.memory_runs_out)
            self.scene("late", ROWS, EXACT, during=self.memory_runs_out_late)
            self.scene("whole", ROWS, GOING, run_folder="whole")
            self.scene("stopped", ROWS, GOING, run_folder="parts", until=3)
            self.scene("resumed", ROWS, GOING, run_folder="parts", resume=True)

    def scene(
        self, name: str, rows: list[Any], recipe: dict[str, Any], *, run_folder: str | None = None,
        during: Callable[[Callable[[], Any]], Any] | None = None, until: int | None = None, resume: bool = False,
    ) -> None:  # fmt: skip
        made = self.made(name, rows, recipe)
        if self.rank:  # another draw of A, as on a card of another kind
            with torch.no_grad():
                for weight in made.model.parameters():
                    weight.add_(0.1 if weight.requires_grad else 0)
        learned: list[int] = []
        telling: list[int] = []

        def progress(told: Any) -> None:
            telling.append(told.step)
            if told.step == until:
                raise KeyboardInterrupt

        def run() -> Any:
            place = self.folder / run_folder if run_folder else None
            rows = made.prepared.ledger.encoded
            arguments = (made.model, made.prepared.tokenizer, rows, made.order.recipe, place, progress)
            return loop.run(*arguments, identity={"data": "a"}, resume=resume)

        undo = _watching(made, learned)
        try:
            result = during(run) if during else run()
        except KeyboardInterrupt:
            return
        finally:
            undo()
        facts = {"curve": [point.loss for point in result.curve], "notes": result.notes, "learned": learned}
        facts |= {"validation": result.validation, "tokens": result.tokens, "told": telling}
        facts |= {"forward_tokens": result.forward_tokens, "recomputed_layers": result.recomputed_layers}
        place = self.folder / f"{name}-{self.rank}-of-{self.count}"
        save_file({key: value.contiguous() for key, value in adapter_state(made.model).items()}, f"{place}.safetensors")
        Path(f"{place}.json").write_text(json.dumps(facts))

    def made(self, name: str, rows: list[Any], recipe: dict[str, Any]) -> Trial:
        order = TrainingOrder(
            agent="writer",
            name="style",
            base_id="tiny",
            base_folder=self.base,
            base_fingerprint="f" * 64,
            recipe=quick_recipe(**recipe),
            data_file=write_rows(self.folder / f"{name}-{self.rank}-of-{self.count}.jsonl", rows),
            output=self.folder / "none",
            presets=STYLES,
            device="cpu",
        )
        return trial_of(order)

    def memory_runs_out(self, run: Callable[[], Any]) -> Any:
        """On rank 1 alone, in passes of more than 96 tokens."""
        real = losses.learn

        def learn(reader: Any, laid: Any, *rest: Any) -> Any:
            if self.rank == 1 and laid.tokens > 96:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return real(reader, laid, *rest)

        losses.learn = learn
        try:
            return run()
        finally:
            losses.learn = real

    def memory_runs_out_late(self, run: Callable[[], Any]) -> Any:
        """On rank 1 alone, once, where the optimizer makes its state."""
        real, tried = loop._Learner._move, []

        def move(learner: Any) -> float:
            tried.append(1)
            if self.rank == 1 and len(tried) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return real(learner)

        loop._Learner._move = move
        try:
            return run()
        finally:
            loop._Learner._move = real


def _watching(made: Trial, learned: list[int]) -> Callable[[], None]:
    """Writes down every row that a step computes here, after the rehearsal: by its place in the data."""
    real = loop._Learner._gradients
    rehearsed = loop._Learner.rehearse
    ready: list[bool] = []

    def gradients(learner: Any, own: Any, indices: Any) -> Any:
        if ready:
            learned.extend(own)
        return real(learner, own, indices)

    def rehearse(learner: Any, folder: Any) -> None:
        rehearsed(learner, folder)
        ready.append(True)

    loop._Learner._gradients, loop._Learner.rehearse = gradients, rehearse

    def undo() -> None:
        loop._Learner._gradients, loop._Learner.rehearse = real, rehearsed

    return undo


def main() -> None:
    rank, count, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    ranks.join(rank, count, folder / "meeting", torch.device("cpu"))
    Scenes(folder, folder / "base", rank, count).all()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
