"""Serve a trained model over HTTP: a JSON API, health checks, metrics and a web page. `pip install
'corerec-bert4rec[serve]'`.

    >>> from corerec.serving import create_app

Only this package imports a web framework.
"""

from corerec.errors import MissingPackageError

try:
    import fastapi  # noqa: F401
    import fastapi_offline  # noqa: F401
    import prometheus_client  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError as error:
    raise MissingPackageError(
        f"serving needs the package {error.name}, which is not installed: pip install 'corerec-bert4rec[serve]'"
    ) from None

from corerec.serving.app import create_app
from corerec.serving.settings import LOOPBACK, ServerSettings

__all__ = ["LOOPBACK", "ServerSettings", "create_app"]
