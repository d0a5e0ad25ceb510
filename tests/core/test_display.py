"""Figures as people read them: intervals, percent, signs, and a dash for what is unknown."""

import pytest

from mai_app.core.display import show_interval


@pytest.mark.parametrize(
    ("figure", "options", "shown"),
    [
        ((0.9, 0.85, 0.94), {}, "0.900 (0.850–0.940)"),
        ((0.9, 0.85, 0.94), {"html_": True}, "0.900<small>0.850–0.940</small>"),
        ((0.9, 0.85, 0.94), {"percent": True}, "90 % (85–94)"),
        ((-0.1, -0.2, 0.0), {"shift": True}, "-0.100 (-0.200 to +0.000)"),
        ((0.1, None, None), {}, "0.100"),
        ((0.1, None, None), {"html_": True}, "0.100"),
        ((None, None, None), {"html_": True, "percent": True}, "–"),
    ],
)
def test_a_figure_is_shown_with_its_interval_or_alone(
    figure: tuple[float | None, float | None, float | None], options: dict[str, bool], shown: str
) -> None:
    assert show_interval(dict(zip(("value", "low", "high"), figure, strict=True)), **options) == shown
