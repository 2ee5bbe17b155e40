"""Cases that repeat others on more networks, options and files, for ``make test-thorough``."""

import pytest


def thorough(*cases):
    """Mark cases of ``parametrize``: ``[first, *thorough(second, third)]``."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.thorough)
        for case in cases
    ]


def first_of(cases, count=1):
    """Mark all but the first cases."""
    cases = list(cases)
    return [*cases[:count], *thorough(*cases[count:])]


def one_in(step, cases):
    """Mark all but every so many-th case."""
    return [case if number % step == 0 else thorough(case)[0] for number, case in enumerate(cases)]
