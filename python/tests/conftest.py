import pathlib

import pytest

import ds4

ROOT = pathlib.Path(__file__).resolve().parents[2]
AUSTEN = ROOT / "models/austen"


@pytest.fixture(scope="session", params=["simd", "reference"])
def model(request):
    return ds4.load(AUSTEN, backend=request.param, exact=True)


@pytest.fixture(scope="session")
def simd():
    return ds4.load(AUSTEN)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)
