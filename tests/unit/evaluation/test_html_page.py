from hart_studio.evaluation.html_page import write_page, write_table

HOSTILE = '<b>"&'


def test_texts_are_escaped() -> None:
    text = write_table([HOSTILE], [[HOSTILE]], caption=HOSTILE, kinds=["measured"], has_row_heads=True)
    assert HOSTILE not in text and text.count("&lt;b&gt;&quot;&amp;") == 3
    assert HOSTILE not in write_page(HOSTILE, [text])


def test_only_tables_with_row_heads_scroll() -> None:
    assert write_table(["a"], [["b"]]).startswith("<table><thead>")
    wide = write_table(["a", "b"], [["c", "d"]], has_row_heads=True)
    assert wide.startswith('<div class="scroll" tabindex="0"><table>')
    assert '<th scope="row">c</th><td>d</td>' in wide


def test_a_page_is_whole_and_as_wide_as_asked() -> None:
    page = write_page("t", ["<p>x</p>"], width_px=700)
    assert page.startswith("<!doctype html>") and "max-width:700px" in page and "prefers-color-scheme:dark" in page
