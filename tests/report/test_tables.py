import re

from featdenoise.base.binomial import Proportion
from featdenoise.base.summary import Blackbox, Certification, Whitebox
from featdenoise.report.tables import (
    Cell,
    Table,
    blackbox_table,
    certification_table,
    percent,
    radius_grid,
    whitebox_details,
    whitebox_table,
)


def counts(*correct, count=200):
    return tuple(Proportion(c, count) for c in correct)


SWEEP = Whitebox(
    model="denoise <b>",
    attack="targeted PGD, linf, epsilon 16/255",
    targeted=True,
    budgets=(10, 100),
    clean_accuracy=Proportion(190, 200),
    robust_accuracy=counts(150, 140),
    worst_case_accuracy=counts(149, 131),
    attack_success_rate=counts(20, 30),
)
SHORT = Whitebox(
    model="plain",
    attack=SWEEP.attack,
    targeted=True,
    budgets=(10,),
    clean_accuracy=Proportion(199, 200),
    robust_accuracy=counts(4),
    worst_case_accuracy=counts(3),
    attack_success_rate=counts(170),
)
CERTIFIED = Certification(
    model="net",
    noise="Gaussian, sigma 0.25",
    n0=100,
    n=1000,
    alpha=0.001,
    radii=(0.1, 0.25, 0.6, 0.6999),
    abstained=Proportion(1, 5),
)


def values(row):
    return [cell.value for cell in row]


def test_percentages_carry_the_interval_of_their_counts():
    cell = percent(Proportion(76, 100))
    low, high = Proportion(76, 100).interval()
    assert cell == Cell("76.0%", f"{100 * low:.1f}-{100 * high:.1f}")
    assert str(Proportion(76, 100)).startswith(cell.value)


def test_whitebox_table_has_a_column_for_every_budget_of_any_run():
    table = whitebox_table([SWEEP, SHORT])
    assert table.columns == ("model", "clean", "10", "100", "never broken", "attack success")
    assert values(table.rows[0]) == ["denoise <b>", "95.0%", "75.0%", "70.0%", "65.5%", "15.0%"]
    assert values(table.rows[1]) == ["plain", "99.5%", "2.0%", "-", "1.5%", "85.0%"]
    assert "16/255" in table.title
    assert "classified as the target" in table.caption


def test_untargeted_success_is_defined_in_the_caption():
    run = Whitebox(**{**vars(SWEEP), "targeted": False})
    assert "misclassified" in whitebox_table([run]).caption
    assert "misclassified" in whitebox_details([run]).caption


def test_whitebox_details_show_now_ever_and_success_at_every_budget():
    rows = [values(row) for row in whitebox_details([SWEEP]).rows]
    assert rows == [
        ["denoise <b>", "10", "75.0%", "74.5%", "10.0%"],
        ["denoise <b>", "100", "70.0%", "65.5%", "15.0%"],
    ]


def test_blackbox_table_has_a_column_a_model_and_marks_missing_attackers():
    first = Blackbox(
        model="one",
        epsilon=16 / 255,
        clean_accuracy=Proportion(9, 10),
        robust_accuracy={"a": Proportion(6, 10), "b": Proportion(5, 10)},
        all_or_nothing_score=Proportion(4, 10),
        all_or_nothing_score_with_clean=Proportion(3, 10),
    )
    second = Blackbox(
        model="two",
        epsilon=16 / 255,
        clean_accuracy=None,
        robust_accuracy={"b": Proportion(7, 10)},
        all_or_nothing_score=Proportion(7, 10),
        all_or_nothing_score_with_clean=None,
    )
    table = blackbox_table([first, second])
    assert table.columns == ("attacker", "one", "two")
    assert [values(row) for row in table.rows] == [
        ["clean images", "90.0%", "-"],
        ["a", "60.0%", "-"],
        ["b", "50.0%", "70.0%"],
        ["all-or-nothing", "40.0%", "70.0%"],
        ["all-or-nothing with clean", "30.0%", "-"],
        ["worst single attacker", "50.0%", "70.0%"],
    ]
    assert "within epsilon 16/255" in table.caption


def test_certification_table_stops_at_the_largest_radius_and_floors_the_average():
    assert radius_grid([CERTIFIED]) == [0, 0.25, 0.5]
    table = certification_table([CERTIFIED])
    assert table.columns == ("model", "noise", "0", "0.25", "0.5", "ACR", "abstained")
    # (0.1 + 0.25 + 0.6 + 0.6999) / 5 = 0.32998
    assert values(table.rows[0])[2:] == ["80.0%", "60.0%", "40.0%", "0.329", "20.0%"]
    assert "n = 1000" in table.caption


def test_grid_of_a_model_without_certificates_is_radius_zero():
    nothing = Certification(**{**vars(CERTIFIED), "radii": ()})
    assert radius_grid([nothing]) == [0]
    assert values(certification_table([nothing]).rows[0])[2] == "0.0%"


def test_text_columns_line_up():
    table = whitebox_table([SWEEP, SHORT])
    title, _, head, rule, *rows = table.text().splitlines()
    assert title == table.title
    assert len(rows) == 4  # each run has a line of values and one of intervals
    ends = [match.end() for match in re.finditer("-+", rule)]
    assert [head[:end].split("  ")[-1].strip() for end in ends[1:]] == list(table.columns[1:])
    assert rows[0][: ends[1]].endswith("95.0%")


def test_markdown_has_a_pipe_row_for_each_run():
    table = Table(
        title="T", caption="C", columns=("a", "b"), rows=((Cell("x|y"), Cell("1%", "0-2")),)
    )
    lines = table.markdown().splitlines()
    assert lines == ["**T**", "", "| a | b |", "| :-- | --: |", "| x\\|y | 1% [0-2] |", "", "C"]


def test_html_is_escaped():
    page = whitebox_table([SWEEP]).html()
    assert "denoise &lt;b&gt;" in page
    assert "<b>" not in page


def test_details_are_folded_away_on_the_page():
    assert whitebox_details([SWEEP]).html().startswith("<details>")
    assert "<details>" not in whitebox_table([SWEEP]).html()
