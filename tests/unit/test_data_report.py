"""F36: whatever a row holds, in a report it is text: no formula, no markup, no second line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from adaptory.evaluation.data_report import shown


@pytest.mark.parametrize("text", ['=HYPERLINK("http://x","y")', "+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1"])
def test_f36_a_formula_is_shown_with_a_mark_that_keeps_a_spreadsheet_from_running_it(text: str) -> None:
    assert shown(text).startswith("'")


def test_an_ordinary_text_is_shown_as_it_is_and_a_long_one_is_cut() -> None:
    assert shown("a fine film, really") == "a fine film, really"
    assert shown("x" * 100) == "x" * 71 + "…"


@given(st.text(max_size=60))
def test_no_text_leaves_its_cell_or_becomes_markup(text: str) -> None:
    page = MarkdownIt("commonmark", {"html": False}).enable("table").render(f"| a | b |\n|---|---|\n| {shown(text)} | end |\n")
    assert page.count("<tr>") == 2
    assert page.count("<td>") == 2
    for tag in ("<a ", "<img", "<code", "<em", "<strong", "<script", "<h1"):
        assert tag not in page
