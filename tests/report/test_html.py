import base64

from featdenoise.report.html import Picture, Section, write_report
from featdenoise.report.tables import Cell, Table

# The first bytes of a PNG of 300 x 10 points, enough for its width.
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (300).to_bytes(4, "big") + (10).to_bytes(4, "big")


def page_of(tmp_path, *sections, title="Title"):
    write_report(tmp_path / "deep" / "report.html", title, sections)
    return (tmp_path / "deep" / "report.html").read_text()


def test_every_text_is_escaped(tmp_path):
    bad = "<script>alert('x')</script> & \"more\""
    section = Section(
        heading=bad,
        paragraphs=(bad,),
        pictures=(Picture(name=bad, caption=bad, png=PNG, svg=b""),),
        tables=(Table(title=bad, caption=bad, columns=(bad,), rows=((Cell(bad, bad),),)),),
        commands=(bad,),
    )
    page = page_of(tmp_path, section, title=bad)
    assert "<script" not in page
    # title twice, heading, paragraph, picture's name and caption, five in the table, command
    assert page.count("&lt;script&gt;") == 12


def test_picture_is_inline_and_as_wide_as_at_96_dots_per_inch(tmp_path):
    picture = Picture(name="strip", caption="Ten digits", png=PNG, svg=b"")
    page = page_of(tmp_path, Section(heading="Pictures", pictures=(picture,)))
    assert f'src="data:image/png;base64,{base64.b64encode(PNG).decode()}"' in page
    assert 'width="200"' in page
    assert "<figcaption>Ten digits</figcaption>" in page


def test_commands_stand_on_lines_of_their_own(tmp_path):
    page = page_of(tmp_path, Section(heading="Again", commands=("first", "second")))
    assert "<pre>first\nsecond</pre>" in page


def test_sections_keep_their_order(tmp_path):
    page = page_of(tmp_path, Section(heading="One"), Section(heading="Two"))
    assert page.index("<h2>One") < page.index("<h2>Two")
