from fareclass.console.pages.costs import _line


def test_the_hours_of_a_fee_are_told_to_the_minute_that_it_is_for():
    line = {
        "kind": "reservation", "model": "m", "amount": "0.2352", "input_tpm": 1_000, "output_tpm": 100,
        "reservation": "rsv_1", "minutes": 4, "hourly_usd": "3.528",
    }  # fmt: skip
    assert _line(0, line)["quantity"] == "4 min"
