"""Streamlit's server in this process, for one model, with nothing that speaks to the outside."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from fer_pipeline.errors import FerError

if TYPE_CHECKING:
    from fer_pipeline.serving.predictor import FusedPredictor

_PAGE = Path(__file__).with_name("page.py")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_OPTIONS = {
    "browser.gatherUsageStats": False,
    "client.showErrorDetails": "none",  # a traceback belongs into the log
    "client.showErrorLinks": False,
    "client.toolbarMode": "minimal",
    "logger.hideWelcomeMessage": True,
    "runner.magicEnabled": False,  # or strings that stand alone in the code are shown
    "server.fileWatcherType": "none",
    "server.headless": True,
    "server.maxUploadSize": 20,  # MB
    "server.showEmailPrompt": False,
    "theme.base": "light",  # the colours of the figures are made for it
    "theme.primaryColor": "#1f6fc9",
}


@dataclass(frozen=True)
class Shown:
    """The model that the page shows, and what people call it."""

    predictor: FusedPredictor
    name: str


_shown: Shown | None = None


def shown() -> Shown:
    """What `serve` was given: Streamlit runs the page as a script, which takes no arguments."""
    if _shown is None:
        raise FerError("no model is loaded: the page is started by 'fer app'")
    return _shown


def require_streamlit() -> None:
    """Raise an error where the extra is not installed."""
    if not (find_spec("streamlit") and find_spec("cv2")):
        raise FerError("the page needs packages: in the project's folder, pip install -e '.[app]'")


def require_free(host: str, port: int) -> None:
    """Raise an error where the address can't be had, before a model is loaded."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as closed_soon:
            closed_soon.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            closed_soon.bind((host, port))
            closed_soon.listen()
    except OSError as error:
        raise FerError(f"{host}:{port}: {error.strerror}: give another --host or --port") from error


def serve(model: Shown, host: str, port: int) -> None:
    """Show the page until the process is interrupted."""
    from streamlit import net_util
    from streamlit.web import bootstrap

    global _shown
    _shown = model
    # Streamlit asks a server on the internet for this machine's address, to tell a foreign page
    # that opens a connection from its own. Such a page is refused without.
    vars(net_util)["get_external_ip"] = lambda: None
    options = _OPTIONS | {"server.address": host, "server.port": port}
    if host in _LOOPBACK:  # no other name may lead here, as one of a foreign page's server might
        options["server.allowedHosts"] = _LOOPBACK
    flags = {name.replace(".", "_"): value for name, value in options.items()}
    bootstrap.load_config_options(flags)
    bootstrap.run(str(_PAGE), False, [], flags)
