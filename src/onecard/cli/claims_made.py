"""From the options of `onecard claims add` to a claim, with errors that name the option and the nearest word."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from onecard.catalog.cards import find_card
from onecard.catalog.quantization import QUANTIZATIONS
from onecard.errors import CatalogError, InputError, nearest
from onecard.evidence.claims import QUANTITIES, Claim, Comparison, Quantity

_COMPARISONS: dict[str, Comparison] = {
    "is_": "is", "about": "about", "at_most": "at_most", "at_least": "at_least", "range_": "range",
}  # fmt: skip
_SUBJECT = (
    "model", "quantization", "card", "engine", "context", "callers", "prompt_tokens", "new_tokens", "recipe", "rows",
    "row_tokens",
)  # fmt: skip
_FIGURE = re.compile(r"\s*([0-9][0-9,]*(?:\.[0-9]+)?)(?:\s*(?:-|to)\s*([0-9][0-9,]*(?:\.[0-9]+)?))?\s*([A-Za-z/]*)\s*")


def claim_of(said: Mapping[str, Any]) -> Claim:
    """The claim that the options describe. InputError for whatever is wrong with them."""
    quantity = _word("--quantity", said["quantity"], tuple(QUANTITIES))
    measure = QUANTITIES[quantity]
    given = {name: said[name] for name in _COMPARISONS if said.get(name) is not None}
    if len(given) != 1:
        raise InputError(
            "a claim has one value" if given else "the claimed value is missing",
            where=" ".join(_option(name) for name in given) or "claims add",
            allowed="one of --is, --about, --at-most, --at-least, --range",
        )
    [(name, text)] = given.items()
    value, unit = _value(_option(name), text, quantity)
    subject = {key: said[key] for key in _SUBJECT if said.get(key) is not None}
    if "quantization" in subject:
        subject["quantization"] = _word("--quantization", subject["quantization"], QUANTIZATIONS)
    if "card" in subject:
        subject["card"] = _card(subject["card"])
    record = {
        "id": said.get("claim_id") or _id(subject, quantity),
        "statement": said.get("statement") or _statement(subject, f"{measure.words}: {_shown(name)}{text}"),
        "subject": subject,
        "quantity": quantity,
        "comparison": _COMPARISONS[name],
        "value": value,
        "unit": unit,
        "who": said["who"],
        "where": {"source": said.get("source")},
        "date": said.get("date"),
        "note": said.get("note"),
    }
    try:
        return Claim.model_validate(record)
    except ValidationError as error:
        raise _explained(error, _option(name)) from None


def _value(option: str, text: str, quantity: Quantity) -> tuple[Any, str | None]:
    """The value and its unit; without one, the quantity's own."""
    measure = QUANTITIES[quantity]
    if measure.kind == "words":
        return text, None
    if measure.kind == "yes or no":
        word = text.strip().lower()
        if word not in ("yes", "no", "true", "false"):
            raise InputError(f"'{text}' is neither yes nor no", where=option, allowed="yes, no")
        return word in ("yes", "true"), None
    match = _FIGURE.fullmatch(text)
    if match is None:
        raise InputError(
            f"'{text}' is no figure", where=option, allowed=f"a number with a unit: {', '.join(measure.units)}",
            next_step=f'write it like "12.2 {measure.unit}"',
        )  # fmt: skip
    low, high = (float(part.replace(",", "")) if part else None for part in match.group(1, 2))
    units = {unit.lower(): unit for unit in measure.units}
    unit = match[3] or measure.unit
    if unit.lower() not in units:
        problem = f"'{unit}' is no unit of {quantity}{nearest(unit, list(measure.units))}"
        raise InputError(problem, where=option, allowed=", ".join(measure.units))
    return (low if high is None else (low, high)), units[unit.lower()]


def _word(option: str, word: str, known: tuple[str, ...]) -> Any:
    if word not in known:
        raise InputError(f"'{word}' is unknown here{nearest(word, known)}", where=option, allowed=", ".join(known))
    return word


def _card(name: str) -> str:
    try:
        return find_card(name).id
    except CatalogError as error:
        raise InputError(error.problem, where="--card", allowed=error.allowed) from None


def _id(subject: Mapping[str, Any], quantity: Quantity) -> str:
    name = str(subject.get("model", "")).rpartition("/")[2]
    parts = [slug(str(part)) for part in (name, subject.get("quantization", ""), subject.get("card", ""), quantity)]
    return "-".join(part for part in parts if part)[:64].strip("-.")


def slug(text: str) -> str:
    """Lower case letters, digits, dots and dashes."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")


def _statement(subject: Mapping[str, Any], rest: str) -> str:
    """What and how much, when nobody wrote a sentence."""
    who = str(subject.get("model", "")).rpartition("/")[2] or "It"
    form = f" in {subject['quantization']}" if subject.get("quantization", "none") != "none" else ""
    where = f" on {subject['card']}" if "card" in subject else ""
    return f"{who}{form}{where}, {rest}."


def _shown(name: str) -> str:
    words = {"is_": "", "range_": ""}
    return words.get(name, name.replace("_", " ") + " ")


def _option(name: str) -> str:
    return "--" + name.strip("_").replace("_", "-")


def _explained(error: ValidationError, value_option: str) -> InputError:
    """The first fault, at the option it came from."""
    fault = error.errors()[0]
    context = fault.get("ctx") or {}
    key = str(context.get("key") or next((p for p in reversed(fault["loc"]) if isinstance(p, str)), ""))
    options = {"value": value_option, "unit": value_option, "comparison": value_option, "id": "--id"}
    allowed = context.get("expected") if fault["type"] == "literal_error" else None
    said = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "literal_error":
        words = [word.strip(" '") for word in str(allowed).replace(" or ", ", ").split(",")]
        said = f"'{fault['input']}' is unknown here{nearest(str(fault['input']), words)}"
    return InputError(said[0].lower() + said[1:], where=options.get(key, _option(key)), allowed=allowed)
