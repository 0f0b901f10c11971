"""The page's tables and lists of facts, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

NO_FIGURE = "-"


def table(
    caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], footnote: str | None = None, text: int = 0
) -> str:
    """Cells are HTML already; the first `text` columns are words, the others figures."""
    kinds = [' class="text"' if column < text else "" for column in range(len(head))]
    top = "".join(f'<th scope="col"{kind}>{name}</th>' for kind, name in zip(kinds, head, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{cell}</td>' for kind, cell in zip(kinds, row, strict=True))}</tr>" for row in rows
    )
    said = f"<caption>{caption}</caption>" if caption else ""
    below = f'<p class="footnote">{footnote}</p>' if footnote else ""
    return f'<div class="wide"><table>{said}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>{below}'


def definitions(rows: dict[str, str]) -> str:
    """Names and what they are, escaped here; what is empty is left out."""
    return f"<dl>{''.join(f'<dt>{escape(k)}</dt><dd>{escape(v)}</dd>' for k, v in rows.items() if v)}</dl>"
