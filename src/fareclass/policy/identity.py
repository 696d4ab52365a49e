"""Whose request this is."""

import hmac

from fareclass.core.outcomes import Outcome, Refusal
from fareclass.core.snapshot import Key, Snapshot
from fareclass.core.tokens import key_id

_NOBODY = b"fc_key_000000000000000000000000_0000000000000000000000000000000000000000000000000000"
"""As long as a real token, so that an unknown key id takes as long to refuse as a wrong proof (R51)."""
_ADMIN = b"fc_admin_"
_WRONG = "The API key is wrong or has been revoked"


def authenticate(snapshot: Snapshot, token: bytes | None) -> Key:
    """The key in force that this bearer token proves.

    Raises:
        Refusal: `unauthenticated`, in the same words whether the key is unknown, revoked or the proof is wrong.
    """
    if token is None:
        raise Refusal(
            Outcome.UNAUTHENTICATED,
            "No API key was given. Send it as `Authorization: Bearer fc_key_…`.",
        )
    key = snapshot.keys.get(key_id(token) or "")
    if not hmac.compare_digest(_NOBODY if key is None else key.secret, token) or key is None:
        what = "An admin key is for the control plane alone" if token.startswith(_ADMIN) else _WRONG
        raise Refusal(Outcome.UNAUTHENTICATED, f"{what}. Ask your administrator for a key of your project.")
    return key
