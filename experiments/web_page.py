"""HTML pages that need no other file."""

import html


def document(title: str, style: str, body: str) -> str:
    """A whole page; `body` is HTML, `title` is text and stands above it."""
    title = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{style}</style></head><body><h1>{title}</h1>{body}</body></html>\n"
    )
