"""The run itself: every step the rows it was promised, laid into as few forward passes as memory allows.

Before the first step the heaviest pass is really computed, with optimizer and checkpoint, and taken back. When memory runs out anyway,
passes get smaller and the step is computed again. Where several processes share a run (`ranks`), each computes its rows of a step and
moves the weights by the sum over all. docs/decisions/013-training-loop.md tells what was tried.
"""

from __future__ import annotations

import functools
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from onecard.adapters.manifest import CurvePoint
from onecard.engines.local.loading import DTYPES, quiet
from onecard.errors import DoesNotFit, NothingLearned
from onecard.fleet.recipe import Recipe
from onecard.training import batches, checkpoints, losses, ranks
from onecard.training.batches import Pass, Unit, texts_of, tokens_of
from onecard.training.fused_layers import FusedLayers
from onecard.training.fused_lora import Fused
from onecard.training.memory import ran_out, used_bytes
from onecard.training.metrics import Metrics
from onecard.training.optimizers import make_optimizer, make_schedule, restore_state, start_over, state_of
from onecard.training.order import OnProgress, Progress
from onecard.training.packed_attention import keeps_apart, packing
from onecard.training.ranks import ALONE, Ranks
from onecard.training.recomputation import Recomputation

REHEARSAL = "rehearsal"  # the folder of its checkpoint, while it is tried
SMALLEST_PASS = 64  # tokens; below it a pass is launches and nothing else


@dataclass(frozen=True)
class LoopResult:
    """The curve, one point a step; the seconds of the loop alone; the tokens of the rows seen, prompts included, padding not.

    `notes` say what the run changed to go on. `rehearsed_bytes` is the peak of the rehearsed step, `validation` (step, loss) pairs.
    """

    curve: tuple[CurvePoint, ...]
    seconds: float
    tokens: int
    packed: bool = False
    forward_tokens: int = 0
    recomputed_layers: int = 0
    rehearsed_bytes: int | None = None
    validation: tuple[tuple[int, float], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def tokens_s(self) -> float:
        return self.tokens / self.seconds


def run(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Unit],
    recipe: Recipe,
    run_folder: Path | None,
    progress: OnProgress,
    *,
    identity: Mapping[str, str] | None = None,
    resume: bool = False,
    tensorboard: Path | None = None,
) -> LoopResult:
    """Trains the adapter in `model`, in place. Checkpoints and metrics go to `run_folder`, if there is one.

    `identity` is what must be the same for a run to go on; `resume` goes on from the newest checkpoint, or starts where there is none.
    NothingLearned at the first loss that is not finite, DoesNotFit when memory runs out however small the passes, InputError for a
    checkpoint of another run. Whatever `progress` raises ends the run.
    """
    dtype = DTYPES[recipe.compute_dtype]
    with quiet(), ExitStack() as stack:
        reader = losses.reader_of(model, dtype)
        whole = recipe.batch.packing and keeps_apart(reader.model, reader.model.get_input_embeddings().weight.shape[0])
        fused = stack.enter_context(Fused(model, dtype))
        if model.device.type == "cuda":
            stack.enter_context(FusedLayers(reader.model))
        if fused.whole and recipe.token_training == "rows":
            reader = losses.without_autocast(reader)  # nothing is left that would mix precisions
        if whole:
            stack.enter_context(packing(reader.model))
        recomputation = stack.enter_context(Recomputation(reader.model, recipe.gradient_checkpointing))
        learner = _Learner(
            model, reader, tokenizer.pad_token_id or 0, list(rows), recipe, recomputation, fused, whole, ranks.here()
        )
        learner.ranks.start_alike(learner.named.values())
        model.train()
        learner.rehearse(run_folder)
        return learner.learn(run_folder, progress, dict(identity or {}), resume, tensorboard)


@dataclass
class _Learner:
    """One run under way."""

    model: Any
    reader: losses.Reader
    pad_id: int
    rows: list[Unit]
    recipe: Recipe
    recomputation: Recomputation
    fused: Fused
    packed: bool
    ranks: Ranks = ALONE
    notes: list[str] = field(default_factory=list)
    rehearsed_bytes: int | None = None

    def __post_init__(self) -> None:
        recipe = self.recipe
        self.device: torch.device = self.model.device
        self.named = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        self.forward_tokens = recipe.batch.forward_tokens
        self.pass_rows = recipe.batch.rows
        trained, validated = batches.kept_out(len(self.rows), recipe.validation.share, recipe.seed)
        self.trained, self.validated = trained, validated
        self.total = batches.total_steps(len(trained), recipe.batch, recipe.epochs, recipe.max_steps)
        self.references: dict[int, torch.Tensor] = {}
        self.unreached: list[str] = []
        self.optimizer = make_optimizer(list(self.named.values()), recipe.optimizer)
        self._begin()
        if self.ranks.count > 1:
            self.notes.append(f"{self.ranks.count} cards, each with its rows of every step")
        if not packed_as_asked(recipe, self.packed):
            self.notes.append("rows are padded: this architecture does not keep packed rows apart")

    def _begin(self) -> None:
        """Schedule and scaler as at the first step."""
        self.schedule = make_schedule(self.optimizer, self.recipe.optimizer, self.total)
        self._scale(None)

    def _scale(self, state: dict[str, Any] | None) -> None:
        """A scaler with an earlier one's factor, that remembers no step under way."""
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.recipe.compute_dtype == "fp16")
        self.scaler.scale(torch.ones((), device=self.device))  # makes its factor exist
        if state:
            self.scaler.load_state_dict(state)

    # -- before the run ---------------------------------------------------------------------------------------------------------

    def rehearse(self, run_folder: Path | None) -> None:
        """One real step on the heaviest pass there can be, with its checkpoint; then everything is as it was."""
        before = {name: weight.detach().cpu().clone() for name, weight in self.named.items()}
        random = checkpoints.random_state(self.device)
        heaviest = self._heaviest()

        def peak() -> int:
            used_bytes(self.device, reset=True)
            self._step(heaviest, False)
            return used_bytes(self.device)

        self._in_memory(lambda: self.recomputation.settle(peak, self.device))
        most_recomputed = int(self.ranks.most(self.recomputation.layers, self.device))
        if most_recomputed != self.recomputation.layers:
            self.recomputation.put(most_recomputed)
        self.rehearsed_bytes = int(self.ranks.most(self._in_memory(peak), self.device))
        if run_folder is not None and self.ranks.first:
            trial = run_folder / REHEARSAL
            checkpoints.write(trial, self._checkpoint(0, _Told()), {}, keep=1)
            shutil.rmtree(trial, ignore_errors=True)
        with torch.no_grad():
            for name, weight in self.named.items():
                weight.copy_(before[name])
        start_over(self.optimizer, self.recipe.optimizer.learning_rate)
        self._begin()
        checkpoints.restore_random(random, self.device)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _heaviest(self) -> list[int]:
        """Rows that fill one pass, the longest first; a step never has more in one."""
        if not self.packed:
            return sorted(self.trained, key=lambda index: -batches.width_of(self.rows[index]))[: self.pass_rows]
        ordered = sorted(self.trained, key=lambda index: -tokens_of(self.rows[index]))
        chosen, used = ordered[:1], tokens_of(self.rows[ordered[0]])
        for index in ordered[1:]:
            if len(chosen) == self.recipe.batch.step_rows:
                break
            if used + tokens_of(self.rows[index]) <= self.forward_tokens:
                chosen.append(index)
                used += tokens_of(self.rows[index])
        return chosen

    # -- the run ----------------------------------------------------------------------------------------------------------------

    def learn(
        self,
        run_folder: Path | None,
        progress: OnProgress,
        identity: dict[str, str],
        resume: bool,
        tensorboard: Path | None,
    ) -> LoopResult:
        told = self._resumed(run_folder, identity) if resume and run_folder is not None else _Told()
        first = self.ranks.first
        metrics = Metrics(run_folder if first else None, tensorboard if first else None, told.step)
        began, written = time.perf_counter() - told.seconds, time.perf_counter()
        try:
            order = batches.steps(len(self.trained), self.recipe.batch, self.recipe.seed, self.total)
            for step, places in enumerate(order, start=1):
                if step <= told.step:
                    continue
                start, rate = time.perf_counter(), self.optimizer.param_groups[0]["lr"]
                indices = [self.trained[place] for place in places]
                if self.ranks.count > 1:  # so that a rank needs no random numbers of its own to go on
                    torch.manual_seed(hash((self.recipe.seed, step, self.ranks.rank)))
                loss, norm, preferred = self._in_memory(functools.partial(self._step, indices))
                if not math.isfinite(loss):
                    raise NothingLearned(
                        f"the loss is {loss} at step {step}",
                        next_step="lower the learning rate, or use compute_dtype: fp32",
                    )
                self._demand_all_move(step, norm)
                tokens, now = sum(tokens_of(self.rows[index]) for index in indices), time.perf_counter()
                point = CurvePoint(step=step, loss=loss, learning_rate=rate, tokens_s=round(tokens / (now - start), 1))
                told.add(point, tokens, now - began)
                validated = self._validated(step, told)
                memory = used_bytes(self.device)
                metrics.write(
                    step,
                    loss=loss,
                    learning_rate=rate,
                    gradient_norm=norm,
                    tokens_s=point.tokens_s,
                    memory_bytes=memory,
                    validation_loss=validated,
                    preferred=preferred,
                    seconds=round(told.seconds, 3),
                )
                if run_folder is not None and first and self._due(step, written):
                    checkpoints.write(run_folder, self._checkpoint(step, told), identity, self.recipe.checkpoints.keep)
                    written = time.perf_counter()
                progress(
                    Progress(
                        stage="training",
                        message=f"step {step} of {self.total}",
                        step=step,
                        steps=self.total,
                        loss=loss,
                        tokens_s=told.recent_tokens_s,
                        seconds_left=told.mean_step_s * (self.total - step),
                        memory_bytes=memory,
                    )
                )
        finally:
            metrics.close()
        self.ranks.demand_alike(self.named.values())
        return LoopResult(
            curve=tuple(told.curve),
            seconds=told.seconds,
            tokens=told.tokens,
            packed=self.packed,
            forward_tokens=self.forward_tokens if self.packed else 0,
            recomputed_layers=self.recomputation.layers,
            rehearsed_bytes=self.rehearsed_bytes,
            validation=tuple(told.validation),
            notes=tuple(self.notes),
        )

    def _due(self, step: int, written: float) -> bool:
        """A checkpoint is due after its steps or minutes, but not when the run is over."""
        section = self.recipe.checkpoints
        late = time.perf_counter() - written >= 60 * section.every_minutes
        return step < self.total and (step % section.every_steps == 0 or late)

    def _step(self, indices: Sequence[int], shared: bool = True) -> tuple[float, float, float | None]:
        """One optimizer step over the rows: its loss, the norm of its gradient before clipping, and how many pairs are preferred.

        Unless `shared`, every rank computes all of the rows.
        """
        self.optimizer.zero_grad(set_to_none=True)
        self.fused.refresh()
        own = self._dealt(indices) if shared else list(indices)
        found = self.ranks.together(lambda: self._gradients(own, indices), self.device)
        if self.ranks.count > 1:
            self.ranks.sum(found)
            found = ranks.put_back(list(self.named.values()), found)
        norm = self.ranks.together(self._move, self.device)
        lost, preferred = found.tolist()
        return lost, norm, preferred / len(indices) if self.recipe.method == "dpo" else None

    def _dealt(self, indices: Sequence[int]) -> list[int]:
        """The rows that this rank computes."""
        shares = batches.dealt([tokens_of(self.rows[index]) for index in indices], self.ranks.count)
        return [indices[place] for place in shares[self.ranks.rank]]

    def _gradients(self, own: Sequence[int], indices: Sequence[int]) -> torch.Tensor:
        """Adds up the gradients of the rank's own rows of a step; answers [loss, preferred pairs], behind the gradients if ranks share."""
        scale = self.scaler.get_scale() if self.scaler.is_enabled() else 1.0
        figures = torch.zeros(2, device=self.device)
        learned = sum(batches.learned_of(self.rows[index]) for index in indices)
        for laid, held in self._passes(own):
            if self.recipe.method == "dpo":
                reference = torch.cat([self._reference(index) for index in held])
                figures += losses.prefer(self.reader, laid, reference, self.recipe.dpo.beta, 1 / len(indices), scale)
            else:
                weights = torch.full((laid.texts,), 1 / learned, device=self.device)
                figures[0] += losses.learn(self.reader, laid, weights, scale)
        self.unreached = [name for name, weight in self.named.items() if weight.grad is None] if own else []
        return figures if self.ranks.count == 1 else ranks.flattened(list(self.named.values()), figures)

    def _move(self) -> float:
        """The optimizer's step; the norm of the gradient before clipping. Where fp16 overflowed there is none, nor one of the schedule."""
        self.scaler.unscale_(self.optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(self.named.values(), self.recipe.optimizer.max_grad_norm))
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.get_scale() >= before:
            self.schedule.step()
        return norm

    def _reference(self, index: int) -> torch.Tensor:
        """What the base says of a pair's two answers; asked once."""
        if index not in self.references:
            with self._answering(), self.model.disable_adapter():
                self.references[index] = losses.log_likelihoods(self.reader, self._lay([self.rows[index]]))
        return self.references[index]

    def _passes(self, indices: Sequence[int]) -> Iterator[tuple[Pass, list[int]]]:
        """The forward passes of a step, and the rows in each."""
        units = [self.rows[index] for index in indices]
        if self.packed:
            together = batches.packed([tokens_of(unit) for unit in units], self.forward_tokens)
        else:
            together = batches.padded([batches.width_of(unit) for unit in units], self.pass_rows)
        for places in together:
            held = [indices[place] for place in places]
            yield self._lay([self.rows[index] for index in held]), held

    def _lay(self, units: Sequence[Unit]) -> Pass:
        texts = [text for unit in units for text in texts_of(unit)]
        return (batches.lay_packed if self.packed else batches.lay_padded)(texts, self.pad_id, self.device)

    def _validated(self, step: int, told: _Told) -> float | None:
        """The loss of the rows kept out, when it is time: nats a token, or a pair's DPO loss."""
        due = step % self.recipe.validation.every_steps == 0 or step == self.total
        if not self.validated or not due:
            return None
        loss: float = self._in_memory(functools.partial(self.loss_of, self.validated))
        told.validation.append((step, loss))
        return loss

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def loss_of(self, indices: Sequence[int]) -> float:
        """The mean loss of rows as serving would compute it, without moving anything."""
        figures = self.ranks.together(lambda: self._lost(self._dealt(indices)), self.device)
        self.ranks.sum(figures)
        lost, count = figures.tolist()
        return float(lost / max(count, 1))

    def _lost(self, indices: Sequence[int]) -> torch.Tensor:
        """[sum of losses, what they count] of the rows."""
        lost = count = 0.0
        for laid, held in self._passes(indices):
            with self._answering():
                said = losses.log_likelihoods(self.reader, laid)
            if self.recipe.method == "dpo":
                gains = said - torch.cat([self._reference(index) for index in held])
                margin = self.recipe.dpo.beta * (gains[0::2] - gains[1::2])
                lost, count = lost - float(torch.nn.functional.logsigmoid(margin).sum()), count + len(held)
            else:
                lost, count = lost - float(said.sum()), count + laid.learned
        return torch.tensor([lost, count], dtype=torch.float64, device=self.device)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """While it holds, nothing is dropped out; also an error leaves the model as it was for training."""
        self.model.eval()
        try:
            yield
        finally:
            self.model.train()

    def _demand_all_move(self, step: int, norm: float) -> None:
        """Early in a run, while little is lost: every weight that is meant to move has a gradient that is a number."""
        if step != 1 or self.scaler.is_enabled():
            return
        if self.unreached or not math.isfinite(norm):
            what = f"no gradient reaches {self.unreached[0]}" if self.unreached else "the gradient is not a number"
            raise NothingLearned(
                f"{what} in the first step", next_step="look at lora.targets, or use compute_dtype: fp32"
            )

    # -- memory -----------------------------------------------------------------------------------------------------------------

    def _in_memory(self, work: Any) -> Any:
        """What `work` answers; when memory runs out it is done again with smaller passes, from the same random numbers."""
        while True:
            random = checkpoints.random_state(self.device)
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error):
                    raise
                problem = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
            self.optimizer.zero_grad(set_to_none=True)
            self.fused.refresh()
            self._scale(self.scaler.state_dict())
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self._shrink(problem)
            checkpoints.restore_random(random, self.device)

    def _shrink(self, problem: str) -> None:
        """Recomputes all layers, then halves the passes. DoesNotFit when nothing is left to make smaller."""
        longest = max(tokens_of(self.rows[index]) for index in self.trained)
        if self.recomputation.all():
            self.notes.append("memory ran out: every layer is recomputed")
        elif self.packed and self.forward_tokens > max(longest, SMALLEST_PASS):
            self.forward_tokens = max(self.forward_tokens // 2, longest, SMALLEST_PASS)
            self.notes.append(f"memory ran out: passes of at most {self.forward_tokens} tokens")
        elif not self.packed and self.pass_rows > 1:
            self.pass_rows //= 2
            self.notes.append(f"memory ran out: passes of {self.pass_rows} rows")
        else:
            raise DoesNotFit(
                f"memory ran out with the longest row alone in a pass ({longest} tokens): {problem}",
                where=f"recipe {self.recipe.name}",
                next_step="shorten the longest rows, hold the base in nf4, or take a smaller base or rank",
            )

    # -- going on ---------------------------------------------------------------------------------------------------------------

    def _checkpoint(self, step: int, told: _Told) -> checkpoints.Checkpoint:
        state = {
            "curve": [point.model_dump() for point in told.curve],
            "tokens": told.tokens,
            "seconds": told.seconds,
            "validation": told.validation,
            "forward_tokens": self.forward_tokens,
            "pass_rows": self.pass_rows,
            "recomputed_layers": self.recomputation.layers,
            "notes": self.notes,
            "schedule": self.schedule.state_dict()["last_epoch"],
            "scaler": self.scaler.state_dict(),
            "cards": self.ranks.count,
        }
        random = checkpoints.random_state(self.device)
        return checkpoints.Checkpoint(step, self.named, state_of(self.optimizer), random, state)

    def _resumed(self, run_folder: Path, identity: dict[str, str]) -> _Told:
        place = checkpoints.newest(run_folder)
        if place is None:
            return _Told()
        saved = checkpoints.read(place, identity)
        with torch.no_grad():
            for name, weight in self.named.items():
                weight.copy_(saved.weights[name])
        restore_state(self.optimizer, saved.optimizer)
        state = saved.state
        for _ in range(state["schedule"]):
            self.schedule.step()
        self._scale(state["scaler"])
        self.forward_tokens = min(self.forward_tokens, state["forward_tokens"])
        self.pass_rows = min(self.pass_rows, state["pass_rows"])
        self.recomputation.put(max(self.recomputation.layers, state["recomputed_layers"]))
        before, now = state.get("cards", 1), self.ranks.count
        many = f"{now} card{'s' if now > 1 else ''}"
        moved = f" on {many} instead of {before}: the same but for rounding and dropout" if before != now else ""
        new = [note for note in self.notes if note not in state["notes"]]
        self.notes = [*state["notes"], *new, f"went on from step {saved.step}{moved}"]
        checkpoints.restore_random(saved.random, self.device)
        told = _Told([CurvePoint(**point) for point in state["curve"]], state["tokens"], state["seconds"])
        told.validation = [(step, loss) for step, loss in state["validation"]]
        return told


@dataclass
class _Told:
    """What a run has said so far. `seconds` are those of the loop, over all its parts."""

    curve: list[CurvePoint] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    validation: list[tuple[int, float]] = field(default_factory=list)

    @property
    def step(self) -> int:
        return self.curve[-1].step if self.curve else 0

    def add(self, point: CurvePoint, tokens: int, seconds: float) -> None:
        self.curve.append(point)
        self.tokens += tokens
        self.seconds = seconds

    @property
    def mean_step_s(self) -> float:
        return self.seconds / max(self.step, 1)

    @property
    def recent_tokens_s(self) -> float:
        """Over the last few steps: a single one jumps with the lengths of its rows."""
        recent = [point.tokens_s for point in self.curve[-8:] if point.tokens_s]
        return len(recent) / sum(1 / speed for speed in recent) if recent else 0.0


def packed_as_asked(recipe: Recipe, packed: bool) -> bool:
    return packed or not recipe.batch.packing
