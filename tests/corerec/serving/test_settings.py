import pytest

from corerec.errors import ConfigError
from corerec.serving import ServerSettings

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "wrong",
    [{"queue_size": 0}, {"batch_size": 0}, {"batch_window_ms": -1}, {"deadline_s": 0}, {"token": " "}],
)
def test_settings_are_checked(wrong):
    with pytest.raises(ConfigError):
        ServerSettings(**wrong)
