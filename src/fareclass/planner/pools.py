"""What a replay runs on: the pools of a configuration, each replica with the speed that it has or is said to have."""

from collections.abc import Mapping
from decimal import Decimal

import msgspec
from msgspec import structs

from fareclass import config as settings
from fareclass.config import Config
from fareclass.core.limits import SIMULATED_TOKENS
from fareclass.core.snapshot import Burndown, Capacity, PriceBook
from fareclass.core.tiers import Tier, TierPolicy
from fareclass.engine.sim_replica import Speed
from fareclass.metering.pricing import compile_book, free_book
from fareclass.sched.brain import Brain

SPARE_SLOTS = 2
"""What an engine runs beyond the scheduler's slots, so that a call being cancelled holds up nobody (R17)."""
_CHUNK_TOKENS = 2_048
"""Of engines of which only the capacity is known: prompt tokens in one step, as vLLM has it."""


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """One replica: `slots` of the scheduler, what its engine does, and the tiers that it serves (R16; None: all)."""

    slots: int
    speed: Speed
    tiers: frozenset[Tier] | None = None


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """What serves one model, and on what terms."""

    model: str
    lanes: tuple[Lane, ...]
    policies: Mapping[Tier, TierPolicy]
    book: PriceBook
    capacity: Capacity
    burndown: Burndown = Burndown()
    headroom: int | None = None
    max_tokens_default: int = 512
    declared_context: int | None = None

    @property
    def slots(self) -> int:
        """Sequences that all replicas together may run at once."""
        return sum(lane.slots for lane in self.lanes)

    @property
    def context_tokens(self) -> int:
        """What prompt and answer of one request may hold: what is declared, and what some replica's memory has room for."""
        room = max(lane.speed.kv_tokens for lane in self.lanes)
        return room if self.declared_context is None else min(room, self.declared_context)

    def brain(self, kind: type[Brain] = Brain) -> Brain:
        """The pool's scheduler, over replicas "0", "1", … that can continue an answer and keep a cut prompt."""
        brain = kind(self.policies, burndown=self.burndown, capacity=self.capacity, headroom=self.headroom)
        for number, lane in enumerate(self.lanes):
            brain.add_replica(str(number), lane.slots, 0.0, tiers=lane.tiers)
            brain.set_replica(
                str(number),
                0.0,
                continuable=True,
                recompute_tokens=lane.speed.block_tokens,
                keeps_cut=lane.speed.keeps_cut_prefill,
            )
        return brain


def pools_of(config: Config) -> dict[str, Pool]:
    """The pools of all models whose speed is known: simulated ones, and those with a `capacity`."""
    pools = {}
    for name, model in config.models.items():
        lanes = _lanes(model)
        if lanes:
            declared = model.capacity
            pools[name] = Pool(
                model=name,
                lanes=lanes,
                policies=config.policies(),
                book=_book(config, name, model),
                capacity=Capacity(**structs.asdict(declared)) if declared else _sum_capacity(lanes),
                burndown=Burndown(**{kind: int(part * 100) for kind, part in structs.asdict(model.burndown).items()}),
                headroom=model.headroom,
                max_tokens_default=model.max_tokens_default,
                declared_context=model.most_tokens,
            )
    return pools


def speed_of(capacity: Capacity, slots: int, all_slots: int) -> Speed:
    """A speed with which a replica does its share of a capacity: prompts alone, and full batches that decode.

    A step of a full batch is half a fixed part and half the sequences', as vLLM was measured with contexts of about a
    thousand tokens.
    """
    share = slots / all_slots
    full_us = max(2.0, slots * 60_000_000 / (capacity.output_tpm * share))
    sequence_us = int(full_us / 2 / slots)
    base_us = int(full_us) - sequence_us * slots
    chunk_us = _CHUNK_TOKENS * 60_000_000 / (capacity.input_tpm * share)
    compute_us = max(chunk_us - base_us - sequence_us, chunk_us / 2)
    return Speed(
        limit=slots + SPARE_SLOTS,
        base_us=base_us,
        sequence_us=sequence_us,
        chunk_tokens=_CHUNK_TOKENS,
        prefill_tokens_s=max(1, int(_CHUNK_TOKENS * 1_000_000 / compute_us)),
        kv_tokens=SIMULATED_TOKENS,
    )


def capacity_of(speed: Speed, slots: int) -> Capacity:
    """What a replica does of each kind alone: whole chunks of one prompt, or full batches that decode (R19)."""
    chunk_us, step_us = speed.step_us(1, speed.chunk_tokens), speed.step_us(slots, 0)
    return Capacity(input_tpm=speed.chunk_tokens * 60_000_000 // chunk_us, output_tpm=slots * 60_000_000 // step_us)


def _lanes(model: settings.Model) -> tuple[Lane, ...]:
    capacity = None if model.capacity is None else Capacity(**structs.asdict(model.capacity))
    match model.engine:
        case settings.SimulatedEngine() as engine:
            return (Lane(slots=engine.slots, speed=_simulated(engine)),) * engine.replicas
        case settings.LocalEngine() as engine if capacity is not None:
            return (Lane(slots=engine.slots, speed=speed_of(capacity, engine.slots, engine.slots)),)
        case None if capacity is not None:
            slots = sum(replica.slots for replica in model.replicas)
            return tuple(
                Lane(
                    slots=replica.slots,
                    speed=speed_of(capacity, replica.slots, slots),
                    tiers=None if replica.tiers is None else frozenset(replica.tiers),
                )
                for replica in model.replicas
            )
        case _:
            return ()


def _simulated(engine: settings.SimulatedEngine) -> Speed:
    names = structs.asdict(engine).keys() & set(Speed.__struct_fields__)
    return Speed(limit=engine.slots + SPARE_SLOTS, **{name: getattr(engine, name) for name in names})


def _sum_capacity(lanes: tuple[Lane, ...]) -> Capacity:
    each = [capacity_of(lane.speed, lane.slots) for lane in lanes]
    return Capacity(input_tpm=sum(one.input_tpm for one in each), output_tpm=sum(one.output_tpm for one in each))


def _book(config: Config, name: str, model: settings.Model) -> PriceBook:
    """As the configuration has it; what was set later through the control plane is in its database alone."""
    if model.price is None:
        return free_book(name)
    reserved = model.reserved_price
    per_hour = (Decimal(0), Decimal(0)) if reserved is None else (reserved.input, reserved.output)
    return compile_book(name, 1, model.price.kinds(), config.multipliers(name), per_hour)
