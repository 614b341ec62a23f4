"""Test that what the library warns of in a worker is collected, and nothing of others."""

from __future__ import annotations

import logging
import warnings

from sra_fast.files.collected_warnings import collected_warnings
from sra_fast.tools.sra_warning import SRAWarning


def test_own_warnings_and_logged_ones_are_collected() -> None:
    with collected_warnings() as messages:
        logging.getLogger("sra_fast.files").warning("a file of %d bytes", 3)
        logging.getLogger("sra_fast.files").info("not this")
        logging.getLogger("elsewhere").warning("nor this")
        warnings.warn("look here", SRAWarning, stacklevel=1)
        warnings.warn("of others", UserWarning, stacklevel=1)
    assert messages == ["a file of 3 bytes", "look here"]
    logging.getLogger("sra_fast.files").warning("later")
    assert len(messages) == 2
