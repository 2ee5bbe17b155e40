"""What the tests of the launchers share."""

from pathlib import Path

import pytest
import yaml

from eca_lightning.cli import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def understood(monkeypatch, capsys):
    """A function that has the program read its arguments, and returns the config they come to."""

    def read(arguments):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr("sys.argv", ["eca-lightning"])
        with pytest.raises(SystemExit) as stop:
            main([*arguments, "--print_config"])
        shown = capsys.readouterr()
        assert stop.value.code == 0, shown.err
        return yaml.safe_load(shown.out)

    return read
