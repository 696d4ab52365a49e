"""The how-to of reservations is true: its commands run, in order, and print what it shows."""

import json
import re
import sys
from datetime import UTC, datetime

import pytest

from fareclass import __main__ as program
from tests.test_docs import ROOT, commands
from tests.test_docs_run import Gateway, gateway  # noqa: F401 - `gateway` is a fixture

RESERVE = ROOT / "docs" / "how-to" / "reserve.md"


class Typed:
    """The commands of an operator who sits at this gateway, next year."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, words: list[str]) -> tuple[int | str | None, str]:
        """How it ended, and what it printed; dates of 2027 are next year's, ids are of the first reservation."""
        words = [word.replace("2027-", f"{datetime.now(UTC).year + 1}-") for word in words]
        if any(word.startswith("rsv_") for word in words):
            first = json.loads(self(["reservation", "list", "--json"])[1])[0]["id"]
            words = [first if word.startswith("rsv_") else word for word in words]
        self._monkeypatch.setattr(sys, "argv", ["fareclass", *words])
        with pytest.raises(SystemExit) as ended:
            program.main()
        shown = self._capsys.readouterr()
        return ended.value.code, shown.out + shown.err


@pytest.mark.parametrize("gateway", ["reserved_price: {input"], indirect=True)
def test_the_examples_of_reservations_run(
    gateway: Gateway,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """R18, R19."""
    monkeypatch.chdir(gateway.folder)
    monkeypatch.setenv("FARECLASS_URL", gateway.url)
    monkeypatch.setenv("FARECLASS_MASTER_KEY_FILE", "one/keys/master.key")
    typed = Typed(monkeypatch, capsys)
    said = [typed(words) for _, words in commands(RESERVE)]
    assert [code for code, _ in said] == [0] * 8
    text = RESERVE.read_text()
    table = re.search(r"^WHAT.*?(?=\n```)", text, re.MULTILINE | re.DOTALL)
    assert table is not None

    def columns(shown: str) -> list[list[str]]:
        return [line.split()[:-2] for line in shown.splitlines()[2:]]

    assert columns(said[0][1]) == columns(table[0])
    assert re.search(r"usd/h +11\.34\n", said[2][1])
    refused = re.search(r"^```text\n\$ fareclass (.*)$", text, re.MULTILINE)
    assert refused is not None
    code, message = typed(refused[1].split())
    assert code == 1
    assert re.search(
        r"beside what is sold at .*; the largest that fits all the time, in the proportion asked for, is ", message
    )
