"""What an operator may write of a reservation: floors, times, weekly hours, overflow (R18, R21)."""

import re
from zoneinfo import available_timezones

from fareclass.core.limits import QUOTA, RESERVATION_DAYS, RESERVATION_WINDOWS
from fareclass.core.snapshot import Hours, Window
from fareclass.core.tiers import ALIASES, Tier
from fareclass.core.times import DAY_US, MINUTE_US
from fareclass.flow.operator_rules import REJECT, ControlError
from fareclass.store.records import HoursRecord, WindowRecord, moment

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
OVERFLOWS = (Tier.DEFAULT.word, Tier.PRIORITY.word, Tier.FLEX.word, REJECT)
_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)|(24):(00)", re.ASCII)
_NO_ZONES = frozenset(("localtime", "posixrules", "Factory"))
"""They stand beside the zones, but mean another on each machine, or none."""


def check_floor(input_tpm: int, output_tpm: int) -> None:
    for name, tpm in (("input_tpm", input_tpm), ("output_tpm", output_tpm)):
        if not 0 <= tpm <= QUOTA:
            raise ControlError("invalid", f"{name} must be from 0 to {QUOTA}", name)
    if input_tpm + output_tpm == 0:
        raise ControlError("invalid", "input_tpm must not be 0 where output_tpm is 0 too", "input_tpm")


def overflow_word(word: str) -> str:
    """The overflow in our own words."""
    own = ALIASES[word].word if word in ALIASES else word
    if own not in OVERFLOWS:
        raise ControlError("invalid", f"overflow must be one of {', '.join(OVERFLOWS)}", "overflow")
    return own


def check_start(old_us: int, asked_us: int | None, now_us: int) -> int:
    """When it starts: now (None), or later. That of one that has begun stays; `old_us` 0 is of one to be made."""
    if 0 < old_us <= now_us:
        if asked_us != old_us:
            raise ControlError(
                "invalid",
                f"starts_at was {utc_text(old_us)}: it has begun already, so its start can't be changed any more",
                "starts_at",
            )
        return old_us
    if asked_us is not None and asked_us < now_us - MINUTE_US:
        raise ControlError(
            "invalid", f"starts_at is over, it is {utc_text(now_us)}: leave it out to begin now", "starts_at"
        )
    return max(asked_us or 0, now_us)


def utc_text(at_us: int) -> str:
    """A time as messages name it."""
    return f"{moment(at_us):%Y-%m-%d %H:%M} UTC"


def check_times(starts_us: int, ends_us: int | None, now_us: int) -> None:
    """An end must lie ahead of the start and of now."""
    for field, at_us in (("starts_at", starts_us), ("ends_at", ends_us)):
        if at_us is not None and at_us > now_us + RESERVATION_DAYS * DAY_US:
            raise ControlError("invalid", f"{field} must be within {RESERVATION_DAYS} days from now", field)
    if ends_us is not None and ends_us <= max(starts_us, now_us):
        raise ControlError("invalid", "ends_at must be later than starts_at and than now", "ends_at")


def hours_of(record: HoursRecord) -> Hours:
    """Weekly hours as the data path reads them."""
    if not 1 <= len(record.weekly) <= RESERVATION_WINDOWS:
        raise ControlError("invalid", f"must be 1 to {RESERVATION_WINDOWS} windows", "hours.weekly")
    weekly = tuple(_window(window, f"hours.weekly[{place}]") for place, window in enumerate(record.weekly))
    return Hours(tz=_zone(record.tz), weekly=weekly)


def hours_record(hours: Hours) -> HoursRecord:
    """The other way round."""
    weekly = tuple(
        WindowRecord(
            days=tuple(DAYS[day] for day in window.days),
            from_=_clock(window.from_minute),
            to=_clock(window.to_minute),
        )
        for window in hours.weekly
    )
    return HoursRecord(tz=hours.tz, weekly=weekly)


def _window(record: WindowRecord, field: str) -> Window:
    unknown = [day for day in record.days if day not in DAYS]
    if unknown or not record.days:
        raise ControlError("invalid", f"days must be some of {', '.join(DAYS)}", f"{field}.days")
    begin, end = _minute(record.from_, f"{field}.from"), _minute(record.to, f"{field}.to")
    if end <= begin:
        raise ControlError(
            "invalid",
            f"{record.to} is not later than {record.from_}: hours that pass midnight are two windows, such as 22:00 "
            "to 24:00, and 00:00 to 06:00 of the days after",
            f"{field}.to",
        )
    return Window(days=tuple(sorted({DAYS.index(day) for day in record.days})), from_minute=begin, to_minute=end)


def _minute(text: str, field: str) -> int:
    match = _TIME.fullmatch(text)
    if match is None:
        raise ControlError("invalid", f"{text[:64]!r} is no time of day from 00:00 to 24:00", field)
    hour, minute = text.split(":")
    return int(hour) * 60 + int(minute)


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def _zone(name: str) -> str:
    if name in _NO_ZONES or name not in available_timezones():
        raise ControlError(
            "invalid", f"{name[:64]!r} is no time zone of the IANA list, such as Europe/Vienna", "hours.tz"
        )
    return name
