"""What a person sees while the hub is asked: one line on standard error, which counts the headers on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from onecard.weights.hashes import Progress


@contextmanager
def asking(host: str, repo: str) -> Iterator[Progress]:
    """Says that `host` is asked, and yields what takes (headers read, headers in all)."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    about = f"{host} about {repo}"
    what = "its config and the headers of its weights, no weights"
    if not console.is_terminal:
        console.print(Text(f"asking {about}: {what}"))
        yield lambda done, total: None
        return
    with console.status(Text(f"asking {about}")) as shown:
        yield lambda done, total: shown.update(Text(f"asking {about}: headers of {done} of {total} files"))
    console.print(Text(f"asked {about}: {what}", style="dim"))
