"""The served demo under load, in short: `python tests/tools/load_demo.py` is the long form."""

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def networks():
    """Leave the released networks in place: the program under load serves them."""


def test_many_clients_get_their_own_results_and_memory_is_bounded():
    from load_demo import run

    tally = run(clients=8, seconds=20)
    assert tally.good, tally.report()
    assert tally.refused > 0
    half = len(tally.megabytes) // 2
    assert max(tally.megabytes[half:]) < 1.25 * max(tally.megabytes[:half]) + 100, tally.report()
