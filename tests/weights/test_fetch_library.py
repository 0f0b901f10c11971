"""huggingface_hub answers at once while it is opened, and is the same as ever after."""

from __future__ import annotations

from typing import Any

import pytest

from onecard.weights.fetch_library import opened_hub


def test_the_library_does_not_wait_on_its_own_and_is_put_back_as_it_was(hub: Any) -> None:
    from huggingface_hub import constants, get_session

    def busy(handler: Any, path: str) -> bool:
        handler.refuse(429, "", "slow down", {"Retry-After": "3600"})
        return True

    hub.tricks["hub"] = busy
    before = constants.DOWNLOAD_CHUNK_SIZE, constants.HF_HUB_DOWNLOAD_TIMEOUT
    with opened_hub(3.0), pytest.raises(Exception, match="answers 429"):
        get_session().get(hub.url)
    assert get_session().get(hub.url).status_code == 429
    assert before == (constants.DOWNLOAD_CHUNK_SIZE, constants.HF_HUB_DOWNLOAD_TIMEOUT)
