"""gcp-storage-emulator with what it lacks: conditions on an object's generation, by which TensorStore keeps writers
apart, and moving an object.

Command: python tests/end_to_end/bucket_server.py PORT; it serves a bucket named "bucket" from memory.
"""

from __future__ import annotations

import sys
from http import HTTPStatus
from http.server import HTTPServer
from typing import Any

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects


def generation(storage: Any, bucket: str, name: str) -> str:
    """The object's generation; "0" where there is none."""
    try:
        return str(storage.get_file_obj(bucket, name)["generation"])
    except NotFound:
        return "0"


def conditional(handler: Any, *, writes: bool) -> Any:
    """The handler, behind ifGenerationMatch and ifGenerationNotMatch; what is read says its generation."""

    def handle(request: Any, response: Any, storage: Any, *args: Any, **kwargs: Any) -> None:
        name = request.query["name"][0] if "name" in request.query else request.params.get("object_id", "")
        found = generation(storage, request.params["bucket_name"], name)
        wanted, unwanted = (request.query.get(f"ifGeneration{kind}", [None])[0] for kind in ("Match", "NotMatch"))
        if wanted not in (None, found):
            response.status = HTTPStatus.PRECONDITION_FAILED
        elif unwanted == found:
            response.status = HTTPStatus.PRECONDITION_FAILED if writes else HTTPStatus.NOT_MODIFIED
        else:
            if not writes:
                response["x-goog-generation"] = found
            handler(request, response, storage, *args, **kwargs)

    return handle


objects.insert = conditional(objects.insert, writes=True)
objects.delete = conditional(objects.delete, writes=True)
objects.download = conditional(objects.download, writes=False)  # which `get` calls for alt=media


def move(request: Any, response: Any, storage: Any, *args: Any, **kwargs: Any) -> None:
    """objects.moveTo: a copy, and the original goes."""
    bucket, name = request.params["bucket_name"], request.params["object_id"]
    response.json(objects._copy(request.base_url, storage, bucket, name, bucket, request.params["dest_object_id"]))
    storage.delete_file(bucket, name)


if __name__ == "__main__":
    from gcp_storage_emulator import server  # which takes the handlers as they are now

    object_path = r"^/storage/v1/b/(?P<bucket_name>[^/]+)/o/(?P<object_id>.+)/moveTo/o/(?P<dest_object_id>.+)$"
    server.HANDLERS = ((object_path, {"POST": move}), *server.HANDLERS)
    HTTPServer.request_queue_size = 128  # it answers one request at a time, and clients ask for many
    server.create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket="bucket").run()
