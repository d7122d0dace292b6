"""Pieces of a self-contained page: nothing is loaded from elsewhere, no script runs, and every text is escaped."""

import html
import re
from collections.abc import Sequence
from importlib import resources


def missing(sentence: str) -> str:
    """Return the sentence that stands in place of what is not there; a command in it stands in backticks."""
    told = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(sentence))
    return f'<p class="missing">{told}</p>'


def figure(picture: str, caption: str) -> str:
    """Return a picture, given as HTML, with its caption."""
    return f"<figure>{picture}<figcaption>{html.escape(caption)}</figcaption></figure>"


def image(uri: str, alt: str, *, reduced: str | None = None) -> str:
    """Return an <img> of a data URI; `reduced` is the still picture for readers who asked for less motion."""
    plain = f'<img src="{uri}" alt="{html.escape(alt)}">'
    if reduced is None:
        return plain
    return f'<picture><source media="(prefers-reduced-motion: reduce)" srcset="{reduced}">{plain}</picture>'


def render(title: str, header: str, sections: Sequence[tuple[str, str, str]], *, style: str = "") -> str:
    """Put a page together.

    Args:
        title: of the window.
        header: HTML that stands first.
        sections: an id, a heading and the HTML of each.
        style: rules beside those of report.css.
    """
    style = resources.files("lewm.report").joinpath("report.css").read_text(encoding="utf-8") + style
    links = "".join(f'<a href="#{name}">{html.escape(heading)}</a>' for name, heading, _ in sections)
    body = "".join(
        f'<section id="{name}"><h2>{html.escape(heading)}</h2>{content}</section>'
        for name, heading, content in sections
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # An empty icon, so that no browser asks a server for one.
        f'<link rel="icon" href="data:,"><style>{style}</style></head>'
        f"<body><main>{header}<nav>{links}</nav>{body}</main></body></html>\n"
    )
