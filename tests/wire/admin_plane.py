"""A control plane for tests: real database, real commands, over HTTP without a socket."""

import time
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from starlette.applications import Starlette

from fareclass.config import Price, ReservedPrice
from fareclass.core.snapshot import Capacity, Model
from fareclass.core.tiers import TIERS
from fareclass.flow.batch_roots import BatchRoots
from fareclass.flow.batches import Batches
from fareclass.flow.control import Control, Tariff
from fareclass.flow.files import Files
from fareclass.flow.planning import Planning
from fareclass.flow.spending import Spending
from fareclass.flow.webhooks import Webhooks
from fareclass.policy.budgets import Budgets
from fareclass.policy.outbound_address import judge
from fareclass.store.database import Store
from fareclass.store.fingerprints import open_master_key
from fareclass.store.master_key import MasterKey
from fareclass.wire.admin import admin_app

FACTORS = tuple(Decimal(text) for text in ("1", "1.75", "1", "0.5", "0.5"))
MODELS = ("smollm2", "meta-llama/Llama-3")
CAPACITY = Capacity(input_tpm=80_000, output_tpm=8_000)
ADMIN_KEY = "fc_admin_test"
READ_ONLY_KEY = "fc_reader_test"


class OnePool:
    """One replica of the first model, whose slots and tiers can be changed."""

    def __init__(self) -> None:
        self.followed = 0
        self.replica: dict[str, Any] = {
            "id": "r1", "up": True, "slots": 8, "tiers": None, "drain": False, "running": {"flex": 2}
        }  # fmt: skip

    def describe(self, model: str | None) -> list[dict[str, Any]]:
        if model not in {None, MODELS[0]}:
            raise LookupError(model)
        return [{"model": MODELS[0], "replicas": [self.replica], "queued": {"flex": 3}, "kept_share": 0.5}]

    def follow(self) -> None:
        self.followed += 1

    async def change(
        self, model: str, replica: str, *, drain: bool | None, tiers: Sequence[str] | None, slots: int | None
    ) -> dict[str, Any]:
        if (model, replica) != (MODELS[0], "r1"):
            raise LookupError(replica)
        if slots is not None and slots > 64:
            raise ValueError("the engine has 64 slots")
        given = {"drain": drain, "tiers": tiers, "slots": slots}
        self.replica = self.replica | {name: value for name, value in given.items() if value is not None}
        return self.replica


def make_control(
    store: Store, folder: Path, price: Price | None = None, reserved: ReservedPrice | None = None
) -> Control:
    """What `app` makes of a configuration with two models, the first with these prices and a known capacity."""
    made = dict.fromkeys(MODELS, None) | {MODELS[0]: price}
    return Control(
        store,
        open_master_key(folder / "keys" / "master.key", store),
        {
            name: Model(name=name, upstream_model=name, created=0, tiers=frozenset(TIERS), capacity=capacity)
            for name, capacity in zip(MODELS, (CAPACITY, None), strict=True)
        },
        {
            name: Tariff(price=given, multipliers=FACTORS, reserved=reserved if name == MODELS[0] else None)
            for name, given in made.items()
        },
    )


def make_app(control: Control) -> Starlette:
    webhooks = Webhooks(control, MasterKey({1: bytes(32)}), judge(["127.0.0.0/8"]), http=True)
    spending = Spending(control, Budgets(time.time_ns() // 1000))
    roots = BatchRoots(control, [Path("/srv/batches")], {"minio"})
    nowhere = Path("/nowhere")
    files = Files(control.store, nowhere)
    batches = Batches(control.store, nowhere, files, lambda: control.snapshot, {}, {}, {})
    planning = Planning(control, {})
    return admin_app(control, spending, webhooks, roots, OnePool(), batches, planning, ADMIN_KEY, READ_ONLY_KEY)
