"""Settings of a server, and the numbers that make no sense."""

from dataclasses import asdict

import pytest

from realgen.serving import Limits, ServerSettings


def test_it_is_this_machine_only_by_default():
    assert ServerSettings().host == "127.0.0.1"


def test_its_limits_are_those_of_requests_by_default():
    assert {name: getattr(ServerSettings(), name) for name in asdict(Limits())} == asdict(Limits())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 80),
        ("port", 65536),
        ("workers_per_device", 0),
        ("max_batch_size", 0),
        ("batch_timeout", 0.0),
        ("batch_timeout", 60.0),
        ("timeout", float("inf")),
        ("max_concurrency", 0),
        ("max_bytes", 0),
        ("max_images", 0),
        ("max_pixels", 0),
        ("devices", 0),
        ("devices", []),
    ],
)
def test_the_message_names_the_setting(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be .*got"):
        ServerSettings(**{name: value})
