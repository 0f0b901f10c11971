"""The contract of every engine as tests, asked through the protocol alone; the reference is transformers and PEFT by themselves.

A test module of an engine imports everything of this one and brings a fixture `subject`. Engines that cannot be asked for a part of it
leave those tests out by name, and say why.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from onecard.engines.engine import Engine, GenerationRequest, Message
from onecard.errors import EngineFailed, InputError, UnknownName
from tests.engines.conftest import MadeAdapter, Told, ask, asked, collect, load_plain, peft_answer

QUESTIONS = ("What is a hash table?", "Why do caches exist at all, and when do they hurt the people who use them?")
STYLED = tuple(f"<STYLE_TERSE> {question}" for question in QUESTIONS)
CONTEXT = 1000
LONG = 250  # tokens; the embedded base answers in fewer and ends its turn
# So hot that an end of turn is unlikely: an answer that is still going on when something happens to it. OpenAI's API allows up to 2.
RAMBLING = GenerationRequest(text="A", temperature=2.0, seed=19, max_new_tokens=900)


@dataclass(frozen=True)
class Subject:
    """An engine with three adapters, what each route must begin with, `expected[adapter, prompt]`, and one whole answer of the base.

    `idle` says whether nothing is being answered and no memory is held for it.
    """

    engine: Engine
    made: dict[str, MadeAdapter]
    expected: dict[tuple[str | None, str], Told]
    expected_whole: Told
    idle: Callable[[], bool]

    def digest(self, name: str | None) -> str | None:
        return self.made[name].digest if name else None

    def requests(self) -> list[GenerationRequest]:
        return [asked(prompt, self.digest(name)) for name, prompt in self.expected]


def subject_of(
    mini: Path,
    quantization: str,
    made: dict[str, MadeAdapter],
    start: Callable[[], Engine],
    idle: Callable[[Engine], bool],
) -> Subject:
    """The reference answers first, then the engine with its adapters."""
    base = load_plain(mini, quantization)
    (whole,) = peft_answer(base, None, QUESTIONS[:1], LONG)
    expected: dict[tuple[str | None, str], Told] = {}
    # The styled adapter comes last: PEFT grows the vocabulary of the base it is laid on.
    for name, prompts in ((None, QUESTIONS), ("plain", QUESTIONS), ("other", QUESTIONS[:1]), ("styled", STYLED)):
        told = peft_answer(base, made[name] if name else None, prompts)
        expected |= dict(zip([(name, prompt) for prompt in prompts], told, strict=True))
    engine = start()
    for adapter in made.values():
        assert engine.load_adapter(adapter.folder, adapter.manifest) == adapter.digest
    return Subject(engine, made, expected, whole, lambda: idle(engine))


def test_alone_it_answers_as_transformers_and_peft_do(subject: Subject) -> None:
    told = [ask(subject.engine, request) for request in subject.requests()]
    assert told == list(subject.expected.values())
    to_one_question = {subject.expected[name, QUESTIONS[0]].text for name in (None, "plain", "other")}
    assert len(to_one_question) == 3, "the routes must differ, or this test shows nothing"


@pytest.mark.parametrize("gap_s", [0.0, 0.02])
def test_mixed_and_at_any_arrival_it_answers_the_same(subject: Subject, gap_s: float) -> None:
    async def all_at_once() -> list[Told]:
        requests = list(reversed(subject.requests()))
        chunks = await asyncio.gather(*(collect(subject.engine, r, n * gap_s) for n, r in enumerate(requests)))
        return [Told.of(c) for c in reversed(chunks)]

    assert asyncio.run(all_at_once()) == list(subject.expected.values())


def test_an_answer_ends_itself_where_the_base_says_so(subject: Subject) -> None:
    told = ask(subject.engine, asked(QUESTIONS[0], max_new_tokens=LONG))
    assert told == subject.expected_whole
    assert told.reason == "stop" and told.tokens < LONG


def test_added_tokens_mean_something_to_their_owner_only(subject: Subject) -> None:
    base = [ask(subject.engine, asked(prompt)) for prompt in STYLED[:1]]
    as_text = asked(STYLED[0])
    # For the base the token is text of many tokens; for its owner it is one.
    chunks = asyncio.run(collect(subject.engine, as_text))
    owner = asyncio.run(collect(subject.engine, asked(STYLED[0], subject.digest("styled"))))
    assert chunks[-1].prompt_tokens > owner[-1].prompt_tokens
    assert base[0].text != Told.of(owner).text
    verbose = ask(subject.engine, asked(STYLED[0].replace("TERSE", "VERBOSE"), subject.digest("styled")))
    assert verbose != subject.expected["styled", STYLED[0]], "the two tokens have different rows"


def test_sampling_repeats_by_seed_alone_and_among_others(subject: Subject) -> None:
    request = asked(QUESTIONS[0], subject.digest("plain"), temperature=1.0, top_p=0.95, seed=7)
    alone = ask(subject.engine, request)

    async def among_others() -> list[Told]:
        others = [replace(request, seed=seed, adapter=None) for seed in (1, 2)]
        return [Told.of(c) for c in await asyncio.gather(*(collect(subject.engine, r) for r in [*others, request]))]

    assert asyncio.run(among_others())[-1] == alone
    assert ask(subject.engine, replace(request, seed=8)) != alone


def test_the_last_chunk_tells_the_reason_and_the_length_of_the_prompt(subject: Subject) -> None:
    chunks = asyncio.run(collect(subject.engine, asked(QUESTIONS[0], max_new_tokens=3)))
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason in ("length", "stop")
    assert chunks[-1].prompt_tokens > 0


def test_a_stop_string_is_cut_off_even_across_tokens(subject: Subject) -> None:
    whole = ask(subject.engine, asked(QUESTIONS[0], max_new_tokens=12)).text
    stop = whole[len(whole) // 2 : len(whole) // 2 + 5]
    told = ask(subject.engine, asked(QUESTIONS[0], max_new_tokens=12, stop=("never said", stop)))
    assert told.text == whole[: whole.index(stop)]
    assert told.reason == "stop"


def test_a_text_is_taken_as_it_is(subject: Subject) -> None:
    text, chat = GenerationRequest(text=QUESTIONS[0], max_new_tokens=4), asked(QUESTIONS[0], max_new_tokens=4)
    tokens = [asyncio.run(collect(subject.engine, request))[-1].prompt_tokens for request in (text, chat)]
    assert tokens[0] < tokens[1], "the chat template adds tokens"


def test_what_does_not_fit_the_context_is_refused_with_the_numbers(subject: Subject) -> None:
    prompt_tokens = asyncio.run(collect(subject.engine, asked("hash " * 20, max_new_tokens=1)))[-1].prompt_tokens
    fits = CONTEXT - prompt_tokens
    with pytest.raises(InputError, match=rf"{prompt_tokens} tokens and {fits + 1} more.*{CONTEXT}"):
        ask(subject.engine, asked("hash " * 20, max_new_tokens=fits + 1))
    with pytest.raises(InputError, match=str(CONTEXT)):
        ask(subject.engine, asked("hash " * 1000))


@pytest.mark.parametrize(
    "wrong",
    [
        GenerationRequest(),
        GenerationRequest(messages=(Message("user", "both"),), text="both"),
        GenerationRequest(messages=(Message("wizard", "unknown role"),)),
        asked("x", max_new_tokens=0),
        asked("x", temperature=-1.0),
        asked("x", temperature=float("nan")),
        asked("x", top_p=0.0),
        asked("x", top_p=1.5),
        asked("x", stop=("",)),
        asked("x", seed=1 << 70),
    ],
    ids=lambda request: repr(request)[18:70],
)
def test_a_wrong_request_is_an_input_error_and_hurts_nobody(subject: Subject, wrong: GenerationRequest) -> None:
    async def beside_a_good_one() -> list[object]:
        good = collect(subject.engine, asked(QUESTIONS[0], subject.digest("plain")))
        return await asyncio.gather(good, collect(subject.engine, wrong), return_exceptions=True)

    good, error = asyncio.run(beside_a_good_one())
    assert Told.of(good) == subject.expected["plain", QUESTIONS[0]]  # type: ignore[arg-type]
    assert isinstance(error, InputError)


def test_an_unknown_adapter_is_an_error_and_never_the_base(subject: Subject) -> None:
    for adapter in ("0" * 64, ""):
        with pytest.raises(UnknownName):
            ask(subject.engine, asked(QUESTIONS[0], adapter))
        with pytest.raises(UnknownName):
            asyncio.run(subject.engine.score(asked(QUESTIONS[0], adapter), ["x"]))
    with pytest.raises(UnknownName):
        subject.engine.remove_adapter("0" * 64)


def test_closing_the_iterator_cancels_and_frees_the_line(subject: Subject) -> None:
    async def leave_early() -> bool:
        for _ in range(8):  # twice the lines there are: lines that leaked would be missed
            stream = subject.engine.generate(RAMBLING)
            await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]
        return await asyncio.to_thread(eventually, subject.idle)

    assert asyncio.run(leave_early())


def test_cancelling_the_task_cancels_the_request(subject: Subject) -> None:
    async def cancelled() -> bool:
        task = asyncio.create_task(collect(subject.engine, RAMBLING))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await asyncio.to_thread(eventually, subject.idle)

    assert asyncio.run(cancelled())
    assert ask(subject.engine, asked(QUESTIONS[0])) == subject.expected[None, QUESTIONS[0]]


def test_scores_rank_what_an_adapter_would_say_itself_first(subject: Subject) -> None:
    for name in (None, "plain"):  # six candidates on four lines
        own = subject.expected[name, QUESTIONS[0]].text
        candidates = [QUESTIONS[1], own, "zebra zebra zebra", " ".join(reversed(own.split())), "why why why", "X Y Z"]
        request = GenerationRequest(text=ask_text(QUESTIONS[0]), adapter=subject.digest(name))
        scores = asyncio.run(subject.engine.score(request, [f" {candidate}" for candidate in candidates]))
        assert max(scores) == scores[1] and max(scores) < 0
        again = asyncio.run(subject.engine.score(request, [f" {own}"]))
        assert again[0] == pytest.approx(scores[1], rel=1e-3)
    assert asyncio.run(subject.engine.score(asked("x"), [])) == []
    with pytest.raises(InputError):
        asyncio.run(subject.engine.score(GenerationRequest(text="x"), [""]))
    with pytest.raises(InputError, match=str(CONTEXT)):
        asyncio.run(subject.engine.score(asked("x"), ["hash " * 1000]))


def test_memory_names_its_parts_and_removing_an_adapter_frees_its_own(subject: Subject) -> None:
    name = "other"
    made = subject.made[name]
    before = subject.engine.memory()
    assert before.process_bytes > 0 and before.total_bytes > 0
    subject.engine.remove_adapter(made.digest)
    assert subject.engine.memory().total_bytes < before.total_bytes
    assert made.digest not in subject.engine.info().adapters
    with pytest.raises(UnknownName):
        ask(subject.engine, asked(QUESTIONS[0], made.digest))
    for other in (None, "plain", "styled"):
        prompt = STYLED[0] if other == "styled" else QUESTIONS[0]
        assert ask(subject.engine, asked(prompt, subject.digest(other))) == subject.expected[other, prompt]
    subject.engine.load_adapter(made.folder, made.manifest)
    assert ask(subject.engine, asked(QUESTIONS[0], made.digest)) == subject.expected[name, QUESTIONS[0]]


def test_a_request_that_began_finishes_on_the_adapter_that_is_removed_meanwhile(subject: Subject) -> None:
    made = subject.made["plain"]

    async def removed_meanwhile() -> Told:
        stream = subject.engine.generate(asked(QUESTIONS[0], made.digest))
        chunks = [await anext(stream)]
        await asyncio.to_thread(subject.engine.remove_adapter, made.digest)
        return Told.of([*chunks, *[chunk async for chunk in stream]])

    size = subject.engine.memory().total_bytes
    assert asyncio.run(removed_meanwhile()) == subject.expected["plain", QUESTIONS[0]]
    assert eventually(lambda: subject.engine.memory().total_bytes < size), "and is freed then"
    subject.engine.load_adapter(made.folder, made.manifest)


def test_info_and_token_counts(subject: Subject) -> None:
    info = subject.engine.info()
    assert set(info.adapters) == {made.digest for made in subject.made.values()}
    assert (info.context, info.concurrency) == (CONTEXT, 4)
    assert {info.base_fingerprint} == {made.manifest.base.fingerprint for made in subject.made.values()}
    assert subject.engine.count_tokens("") == 0
    assert 0 < subject.engine.count_tokens("a hash table") < subject.engine.count_tokens("a hash table and its buckets")


def check_closing(engine: Engine) -> None:
    """Closing ends what is in flight and everything after. The engine is used up by it."""

    async def closed_meanwhile() -> list[object]:
        running = [asyncio.create_task(collect(engine, RAMBLING)) for _ in range(6)]
        await asyncio.sleep(0.1)
        await asyncio.to_thread(engine.close)
        return await asyncio.gather(*running, return_exceptions=True)

    assert [type(outcome) for outcome in asyncio.run(closed_meanwhile())] == [EngineFailed] * 6
    with pytest.raises(EngineFailed):
        ask(engine, asked("x"))
    engine.close()
    assert engine.memory().total_bytes == 0


def ask_text(question: str) -> str:
    """The chat prompt of the embedded base, written out, so that a continuation is scored as it stands."""
    return f"[INST] {question} [/INST]"


def eventually(condition: Callable[[], bool], within_s: float = 3.0) -> bool:
    """Whether it becomes true: the worker frees between two steps, after it has delivered."""
    end = time.monotonic() + within_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()
