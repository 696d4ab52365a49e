"""The form of a bearer token: `fc_<key id>_<proof>`, one word that a double click selects whole."""

PREFIX = "fc_"


def token(key_id: str, proof: str) -> str:
    """The whole secret of a key; `proof` is derived from the master key and holds no underscore (R51)."""
    return f"{PREFIX}{key_id}_{proof}"


def key_id(bearer: bytes) -> str | None:
    """The key id that a bearer token names, None where it is not of our form. Proves nothing: compare the secret."""
    head, _, proof = bearer.rpartition(b"_")
    if not (head.startswith(PREFIX.encode()) and proof and head.isascii()):
        return None
    return head[len(PREFIX) :].decode("ascii")
