"""What can't work is said in one line before a model is loaded."""

from __future__ import annotations

import socket
import sys

import pytest

from fer_pipeline.app.server import require_free, require_streamlit
from fer_pipeline.errors import FerError


def test_an_address_that_is_taken_or_elsewhere_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(FerError, match=f"^127.0.0.1:{port}: Address already in use: give"):
            require_free("127.0.0.1", port)
    require_free("127.0.0.1", port)
    with pytest.raises(FerError, match=r"^192\.0\.2\.1:80: .*: give another --host or --port$"):
        require_free("192.0.2.1", 80)
    with pytest.raises(FerError, match=r"^no\.such\.host\.invalid:80: "):
        require_free("no.such.host.invalid", 80)


@pytest.mark.parametrize("missing", ["streamlit", "cv2"])
def test_a_missing_extra_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require_streamlit()
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(FerError, match=r"pip install -e '.\[app\]'$"):
        require_streamlit()
