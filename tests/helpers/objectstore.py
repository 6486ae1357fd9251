"""Serves object storage on this machine by moto's S3 server, and injects failures into its answers."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
ERRORS = {
    "400": ("400 Bad Request", b"<Error><Code>BadRequest</Code><Message>No.</Message></Error>"),
    "500": ("500 Internal Server Error", b"<Error><Code>InternalError</Code><Message>No.</Message></Error>"),
    "403": ("403 Forbidden", b""),
    "503": ("503 Slow Down", b"<Error><Code>SlowDown</Code><Message>Ask less.</Message></Error>"),
}


@dataclass
class ObjectStore:
    """The server's URL, the requests so far, and the failures to inject.

    For each request that reads an object's bytes, ``fails`` takes its path and returns "400", "403", "500",
    "503", "hang", "cut" or ``None``. For each request that writes, ``refuses`` takes its path and query and
    returns one of the same.
    """

    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    fails: Callable[[str], str | None] = lambda _: None
    refuses: Callable[[str], str | None] = lambda _: None

    @property
    def n_reads(self) -> int:
        """The number of requests for objects' bytes so far."""
        return sum(method == "READ" for method, _ in self.asked)

    def client(self):
        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
        return boto3.client("s3", endpoint_url=self.url, region_name="us-east-1", **keys)

    def app(self, served: Callable) -> Callable:
        def answer(environ, start_response):
            path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
            method = "READ" if "HTTP_RANGE" in environ else method
            self.asked.append((method, path))
            kind = self.fails(path) if method == "READ" else None
            if method in ("PUT", "POST"):
                kind = self.refuses(f"{path}?{environ['QUERY_STRING']}")
            if kind == "hang":
                time.sleep(5)
            if kind in ERRORS:
                status, body = ERRORS[kind]
                start_response(status, [("Content-Length", str(len(body)))])
                return [body]
            body = served(environ, start_response)
            return (part[: len(part) // 2] for part in body) if kind == "cut" else body

        return answer


@contextlib.contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Serve an object store on a free port of this machine until the context ends.

    All servers of a process hold the same objects.
    """
    store = ObjectStore()
    app = store.app(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    store.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        thread.join()
