"""An S3-compatible server on the loopback address (moto), run by whichever Python has it: `python s3_server.py PORT`."""

import sys
from collections.abc import Callable, Iterable

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple


class _Named:
    """Moto calls the answer that ends an upload another name than S3 does, and Arrow looks at it."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app

    def __call__(self, environ: dict, start_response: Callable[..., object]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "POST" or "uploadId=" not in environ.get("QUERY_STRING", ""):
            return self._app(environ, start_response)
        started: list = []
        body = b"".join(self._app(environ, lambda *told: started.extend(told)))
        body = body.replace(b"CompleteMultipartUploadResponse", b"CompleteMultipartUploadResult")
        headers = [(name, value) for name, value in started[1] if name.lower() != "content-length"]
        start_response(started[0], [*headers, ("Content-Length", str(len(body)))])
        return [body]


if __name__ == "__main__":
    run_simple("127.0.0.1", int(sys.argv[1]), _Named(DomainDispatcherApplication(create_backend_app)), threaded=True)
