"""The Prefect server of one run: `prefect server start`, ready a second sooner.

    python -m flows.temporary_server

Its address is in `PREFECT_SERVER_API_HOST` and `PREFECT_SERVER_API_PORT`. Where Prefect's settings
name a server to report to, it ends at once: the run reports there.
"""

from __future__ import annotations

import gc


def main() -> None:
    gc.disable()  # imports make objects by the hundred thousand, and hardly any garbage
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if settings.api.url:
        return
    import uvicorn
    from prefect.server.api.server import create_app

    app = create_app()
    gc.freeze()
    gc.enable()
    api = settings.server.api
    uvicorn.run(app, host=api.host, port=api.port, log_level="warning")


if __name__ == "__main__":
    main()
