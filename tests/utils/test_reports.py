"""Progress, on a terminal and in a log."""

import pytest

from eca_lightning.utils import reports
from eca_lightning.utils.reports import in_threads


def test_a_log_gets_plain_lines(monkeypatch, capsys):
    monkeypatch.setattr(reports, "LINE_EVERY", 0)
    assert in_threads(lambda item: 2 * item, range(150), 3, "doubling") == [*range(0, 300, 2)]
    assert capsys.readouterr().err.splitlines() == [
        "doubling: 64 of 150",
        "doubling: 128 of 150",
        "doubling: 150 of 150",
    ]


def test_a_log_of_quick_work_is_empty(capsys):
    in_threads(str, range(150), 3, "writing")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    in_threads(str, range(150), 3, "writing")
    assert "150/150" in capsys.readouterr().err


def test_an_error_ends_the_threads():
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda item: 1 // (item - 70), range(10_000), 2, "dividing")
