import pytest
from loopback import serving

from involution.models.weights import download


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.001)
    with serving() as made:
        yield made
