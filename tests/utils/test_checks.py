"""Checks of options: ranges and unknown names."""

import pytest

from eca_lightning.utils.checks import require_at_least, require_known


def test_a_value_below_the_minimum_is_an_error_that_names_the_option() -> None:
    """None stands for a default and is allowed."""
    require_at_least(1, batch_size=1, eval_batch_size=None)
    with pytest.raises(ValueError, match=r"^data\.batch_size must be at least 1, got 0$"):
        require_at_least(1, eval_batch_size=8, batch_size=0)


def test_an_unknown_name_is_an_error_with_the_nearest_known_one() -> None:
    """Nothing is suggested where nothing is near."""
    require_known("eca", ("eca", "se"), "attention")
    message = r"^unknown attention 'eka' \(did you mean 'eca'\?\); known: eca, se$"
    with pytest.raises(ValueError, match=message):
        require_known("eka", ("eca", "se"), "attention")
    with pytest.raises(ValueError, match=r"^unknown attention 'xyz'; known: eca, se$"):
        require_known("xyz", ("eca", "se"), "attention")
