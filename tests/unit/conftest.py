from pathlib import Path

import pytest


@pytest.fixture
def write(tmp_path):
    """Write a settings file."""

    def write(text: str | bytes) -> Path:
        file = tmp_path / "fareclass.yaml"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    return write
