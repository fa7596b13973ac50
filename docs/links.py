"""Links that are right in the repository are made right in the site, where pages lie elsewhere."""

import re
from pathlib import Path

__all__ = ["as_in_site"]


def as_in_site(name: str, text: str, docs: Path) -> str:
    """The source of a page with its links as the site needs them.

    Args:
        name: Of the page without its ending, such as ``"zoo/faces"``.
        text: Its Markdown, or the JSON of a notebook.
        docs: The folder that Sphinx reads.
    """
    if name == "index":  # pages may be taken up by a pattern that still matches nothing
        kept = (line for line in text.splitlines() if not line.endswith("*") or any(docs.glob(f"{line}.*")))
        text = "\n".join(kept)
    text = re.sub(r"\]\((?:\.\./)+models/(\w+)/README\.md", r"](/zoo/\1.md", text)
    if name.startswith("zoo/"):
        text = re.sub(r"\]\(\.\./\.\./docs/", "](../", text)
        # files of the repository, which the site does not hold
        text = re.sub(r"\[([^\]]+)\]\((?!https?:|\.\./|/|#)[^)]+\)", r"`\1`", text)
    if name.startswith("notebooks/"):
        text = text.replace("](../docs/", "](../")
    return text
