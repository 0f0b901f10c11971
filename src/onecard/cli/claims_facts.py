"""What the catalog knows about a claim: whether a repository exists, what its licence is, whether a form converts anything."""

from __future__ import annotations

from pathlib import Path

from onecard.catalog.licences import find_licence
from onecard.catalog.models import find_model, find_prequantized, wrong_ids
from onecard.cli.claims_subjects import Unsaid, said
from onecard.cli.model_shapes import shape_of
from onecard.evidence.claims import Predicted, Subject


def exists(subject: Subject, folder: Path) -> Predicted:
    model_id = said(subject.model, "no model is named")
    wrong = next((wrong for wrong in wrong_ids() if wrong.id.lower() == model_id.lower()), None)
    if wrong is not None:
        story = "never was one" if wrong.problem == "never existed" else "was renamed"
        by = f"catalog: {wrong.id} {story}, use {' or '.join(wrong.use)} ({wrong.note or wrong.source})"
        return Predicted(by, "exact", answer=False)
    ready = find_prequantized(model_id)
    if ready is not None and subject.checkpoint is None:
        return _seen(f"{ready[1].id} is {ready[0].id} as {ready[1].form}", ready[1].verified)
    model = find_model(model_id)
    if subject.checkpoint is None:
        return Predicted(f"catalog: {model.published.source}", "exact", answer=True)
    known = [copy for copy in model.prequantized if copy.form == subject.checkpoint]
    if not known:
        raise Unsaid(f"the catalog knows no repository of it as {subject.checkpoint}")
    best = next((copy for copy in known if copy.verified), known[0])
    return _seen(best.id, best.verified)


def _seen(copy: str, verified: bool) -> Predicted:
    if not verified:
        raise Unsaid(f"{copy}: the catalog has the name, but nobody saw the repository")
    return Predicted(f"catalog: {copy}", "exact", answer=True)


def quantizes(subject: Subject, folder: Path) -> Predicted:
    form = said(subject.quantization, "no quantization is named")
    shape = shape_of(said(subject.model, "no model is named"), folder, offline=True)
    if form in ("int8", "nf4") and not shape.quantizable:
        return Predicted(f"{form} leaves it in 16 bits: its layers are no plain Linears", "exact", answer=False)
    return Predicted(f"its {shape.linear_count} Linears are converted to {form}", "exact", answer=True)


def fully_open(subject: Subject, folder: Path) -> Predicted:
    licence = find_model(said(subject.model, "no model is named")).licence
    name = find_licence(licence.key).name
    return Predicted(f"catalog: {name}; {licence.reason}", "exact", answer=licence.fully_open)


def licence(subject: Subject, folder: Path) -> Predicted:
    licence = find_model(said(subject.model, "no model is named")).licence
    return Predicted(f"catalog: {licence.source}", "exact", answer=licence.key)
