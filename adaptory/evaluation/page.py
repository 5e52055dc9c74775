"""A report as one HTML file: no network, light and dark, printable."""

import base64
import html
import re
from pathlib import Path

_COLOUR = {"PASS": "#1a7f37", "FAIL": "#c62f3f", "INCONCLUSIVE": "#9a6700", "STALE": "#9a6700", "CHAMPION_BROKEN": "#c62f3f"}
_FOLDED = ("Rows that changed", "Where it differs", "What was tried", "Row by row", "The data", "How the numbers are made")
_STYLE = """
:root { color-scheme: light dark; --ink: #1f2933; --soft: #616e7c; --line: #d5dae0; --paper: #fff; --tint: #f5f7fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --soft: #9aa5b1; --line: #3e4c59; --paper: #12181f; --tint: #1a222b; } img { filter: brightness(.9); }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
body { max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .4rem; }
h1 .verdict { color: #fff; border-radius: 6px; padding: .1rem .6rem; font-size: 1.1rem; }
h1 + p { font-size: 1.1rem; margin-top: 0; }
h2 { font-size: 1.15rem; margin-top: 2rem; } summary h2 { display: inline; } summary { cursor: pointer; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; font-size: .88rem; }
th, td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; text-align: left; }
th { color: var(--soft); font-weight: 600; white-space: normal; vertical-align: bottom; }
table.texts td { white-space: normal; vertical-align: top; }
img { max-width: 49%; vertical-align: top; background: #fff; border-radius: 4px; } p:has(> img) { display: inline; }
img[alt^="classes and"], img[alt^="slices"], img[alt^="who took"] { max-width: 100%; }
code { font-size: .9em; background: var(--tint); padding: .05rem .3rem; border-radius: 4px; }
pre { background: var(--tint); padding: .8rem 1rem; border-radius: 6px; overflow-x: auto; } pre code { padding: 0; }
ul { padding-left: 0; list-style: none; }
@media (max-width: 46rem) { img { max-width: 100%; } }
@media print { body { margin: 0; max-width: none; } details::details-content { content-visibility: visible; height: auto; } }
"""


def page(text: str, folder: Path) -> str:
    """The Markdown as HTML, with the pictures of the folder inside it; what is long folds."""
    from markdown_it import MarkdownIt

    def inline(found: "re.Match[str]") -> str:
        data = base64.b64encode((folder / found[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    # html=False: whatever a row or a label holds stays text.
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    body = re.sub(r'src="([a-z]+\.png)"', inline, body)
    body = re.sub(r"<table>(.*?)</table>", _table, body, flags=re.DOTALL)
    body = re.sub(r"<h1>(.*): (\w+)</h1>", _head, body, count=1)
    first, *sections = re.split(r"(?=<h2>)", body)
    body = first + "".join(_section(one) for one in sections)
    name = html.escape(text.splitlines()[0].lstrip("# "))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{name}</title><style>{_STYLE}</style><body>{body}</body></html>\n"
    )


def _head(found: "re.Match[str]") -> str:
    return f'<h1>{found[1]} <span class="verdict" style="background:{_COLOUR.get(found[2], "#616e7c")}">{found[2]}</span></h1>'


def _table(found: "re.Match[str]") -> str:
    """Numbers stay on one line; texts may break."""
    kind = ' class="texts"' if "text-align:right" not in found[1] else ""
    return f'<div class="scroll"><table{kind}>{found[1]}</table></div>'


def _section(body: str) -> str:
    title = re.match(r"<h2>(.*?)</h2>", body)
    assert title is not None
    if not title[1].startswith(_FOLDED):
        return body
    return f"<details><summary><h2>{title[1]}</h2></summary>{body[title.end() :]}</details>"
