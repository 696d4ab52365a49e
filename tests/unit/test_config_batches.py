"""R47, section 13 of the rules: what batches may be given of the machine and of the network."""

from pathlib import Path

import pytest

from fareclass.config import load
from tests.unit.settings import problems

MODEL = "models: {m: {engine: {kind: simulated}}}\n"
STORE = 'object_stores: {minio: {url: "%s", access_key_id: a, secret_access_key_env: S3_SECRET}}\n'


def test_both_are_read(write, tmp_path: Path):
    (tmp_path / "nightly").mkdir()
    file = write(MODEL + "batch_folders: [nightly]\n" + STORE % "https://s3.example.com:9000")
    config = load(file, {"S3_SECRET": "sesame"})
    assert config.batch_folders == (tmp_path / "nightly",)
    assert config.object_stores["minio"].url == "https://s3.example.com:9000"
    assert "sesame" not in repr(config), "no secret in a log (R51)"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("data_folder: data/of/mine\n", "data_folder"),
        ("data_folder: /var/lib/fareclass-of-test\nmaster_key_file: data/master.key\n", "master_key_file"),
        ("data_folder: /var/lib/fareclass-of-test\nstore: sqlite:///data/fareclass.db\n", "store"),
    ],
)
def test_a_folder_of_batches_holds_nothing_of_the_gateway(write, tmp_path: Path, line: str, name: str):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "inner").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in ("data", "data/..", "link"):
        says = problems(write(f"{MODEL}{line}batch_folders: [{folder}]\n"))
        assert any(f"must not be above {name}: batches write there (R47)" in said for said in says), says
    beside = problems(write(f"{MODEL}{line}batch_folders: [data/inner]\nlisten: nowhere\n"))
    assert not any("batch_folders" in said for said in beside), "beside it is well"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("batch_folders: [missing]\n", "batch_folders[0]: must be a folder that is there"),
        (STORE % "https://s3.example.com/bucket", "object_stores.minio.url: must be https://HOST[:PORT] and no more"),
        (STORE % "ftp://s3.example.com", "object_stores.minio.url: must be https://HOST[:PORT] and no more"),
        (STORE % "https://user:pass@s3.example.com", "object_stores.minio.url: must be https://HOST[:PORT]"),
        ("object_stores: {minio: {url: 'https://s3', access_key_id: a}}\n", "object_stores.minio"),
        (
            "object_stores: {minio: {url: 'https://s3', access_key_id: a, secret_access_key: sesame}}\n",
            "object_stores.minio.secret_access_key",
        ),
    ],
)
def test_mistakes_are_told(write, text: str, says: str):
    found = problems(write(MODEL + text), {"S3_SECRET": "sesame"})
    assert any(says in said for said in found), found
    assert not any("sesame" in said or "user:pass" in said for said in found), "no secret in a message (R51)"
