"""Findings stand in the way of a conversion or are written down; none is lost, and none is accepted by a misspelt
name."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from data_prep.findings import SHOWN, Finding, Severity, print_findings, settle
from sgma_jax.errors import InputError


def finding(severity: Severity, check: str, place: str = "a.tif") -> Finding:
    return Finding(severity, check, place, "is odd.", "Mend it.")


def printed(findings: list[Finding], width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_findings(findings, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


some_findings = st.lists(
    st.builds(finding, st.sampled_from(Severity), st.sampled_from(["one", "two", "three"])), max_size=6
)


@given(findings=some_findings, accepted=st.sets(st.sampled_from(["one", "two", "three", "four"])))
def test_a_conversion_goes_on_exactly_where_nothing_stands_in_the_way(
    findings: list[Finding], accepted: set[str]
) -> None:
    refused = {f.check for f in findings if f.severity is Severity.REFUSED}
    blocked = any(f.severity is Severity.ERROR for f in findings) or not refused <= accepted or not accepted <= refused
    try:
        lines = settle(findings, sorted(accepted))
    except InputError:
        assert blocked
    else:
        assert not blocked
        assert len(lines) == len(findings)
        assert [line.startswith("accepted: ") for line in lines] == [f.severity is Severity.REFUSED for f in findings]


def test_an_error_cannot_be_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"a.tif: is odd. \[broken\] Mend it.$"):
        settle([finding(Severity.ERROR, "broken")], ["broken"])


def test_the_worst_is_told_first_and_the_others_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [
        finding(Severity.NOTE, "n", "n.tif"),
        finding(Severity.REFUSED, "r", "r.tif"),
        finding(Severity.ERROR, "e", "e.tif"),
    ]
    with pytest.raises(InputError, match=r"^e.tif: .* \(1 more above\)$"):
        settle(findings, [])
    listed = capsys.readouterr().err
    assert listed.index("e.tif") < listed.index("r.tif") < listed.index("n.tif")


def test_a_refusal_says_how_to_override_it() -> None:
    with pytest.raises(InputError, match=r"Or take it as it is with --accept r\.$"):
        settle([finding(Severity.REFUSED, "r")], [])
    assert settle([finding(Severity.REFUSED, "r")], ["r"]) == ("accepted: a.tif: is odd. [r] Mend it.",)


def test_what_brackets_hold_is_text_and_no_markup() -> None:
    place = "[red]2_10[/red] [link=x].tif"
    assert place in printed([finding(Severity.NOTE, "n", place)], width=200)
    assert "[n]" in printed([finding(Severity.NOTE, "n", place)], width=200)


def test_a_thousand_findings_of_one_kind_leave_room_for_the_others() -> None:
    text = printed(
        [*(finding(Severity.NOTE, "many", f"tile{i}") for i in range(1000)), finding(Severity.NOTE, "zero", "other")],
        width=120,
    )
    assert text.count("[many]") == SHOWN
    assert f"and {1000 - SHOWN} more of many" in text
    assert "other" in text


def test_nothing_odd_is_no_table() -> None:
    assert printed([]) == ""
