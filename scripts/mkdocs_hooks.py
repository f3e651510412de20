"""What the site's builder must be told about our pages."""

import re


def on_page_markdown(markdown: str, **_: object) -> str:
    """Drop the remark of a block that is not run, which the builder's Markdown does not know."""
    return re.sub(r"^( *`{3,}python) no-run: .*$", r"\1", markdown, flags=re.MULTILINE)
