"""Which certificate the console takes for its gateway's (R51)."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.x509.oid import NameOID

from fareclass.console.client import _trust
from fareclass.console.settings import Settings

ISSUER = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority")])


def signed(key: EllipticCurvePrivateKey, name: str, by: EllipticCurvePrivateKey) -> str:
    """A certificate of this name, by the authority."""
    subject, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), datetime.now(UTC)
    builder = x509.CertificateBuilder(ISSUER, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=key is by, path_length=None), critical=True)
    return builder.sign(by, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def served(folder: Path, chain: str, key: EllipticCurvePrivateKey) -> ssl.SSLContext:
    """A server with this certificate."""
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    (file := folder / "server.pem").write_text(chain + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    """Without a socket; raises `ssl.SSLError` where one does not take the other."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)]
    while ends:
        for end in ends[:]:
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                pass


def test_r51_it_trusts_the_gateways_own_certificate_and_no_other_of_its_authority(tmp_path: Path) -> None:
    """`tls.cert` is a whole chain, as ACME clients write it."""
    authority, own, foreign = (generate_private_key(SECP256R1()) for _ in range(3))
    root = signed(authority, "an authority", authority)
    chain = signed(own, "gateway.example", authority) + root
    (file := tmp_path / "fullchain.pem").write_text(chain)
    context = _trust(Settings(gateway="https://127.0.0.1", trusted=str(file)))
    shake_hands(context, served(tmp_path, chain, own))
    other = served(tmp_path, signed(foreign, "other.example", authority) + root, foreign)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(context, other)
