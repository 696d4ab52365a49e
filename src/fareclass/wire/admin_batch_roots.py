"""Where a project's batches may read and write, over HTTP (R47)."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from fareclass.flow.batch_roots import BatchRoots, BatchRootsView
from fareclass.store.batch_roots import RootRow
from fareclass.wire import admin_types as types
from fareclass.wire.admin_http import ACTOR, Operation, answer, path_part, read_body


class BatchRootAdmin:
    """Turns HTTP into commands of `BatchRoots`."""

    def __init__(self, roots: BatchRoots) -> None:
        self._roots = roots

    def operations(self) -> list[Operation]:
        """What the control plane can do with such places."""
        at, op = "/projects/{project}/batch_roots", Operation
        return [
            op("GET", at, self.show, "Show where a project's batches may read and write", BatchRootsView),
            op("PUT", at, self.put, "Set where they may", BatchRootsView, types.BatchRootsIn),
        ]

    async def show(self, request: Request) -> Response:
        return answer(await asyncio.to_thread(self._roots.get, path_part(request, "project")))

    async def put(self, request: Request) -> Response:
        given = await read_body(request, types.BatchRootsIn)
        rows = [RootRow(uri=root.uri, folder=root.folder, store=root.store) for root in given.roots]
        return answer(await asyncio.to_thread(self._roots.set, ACTOR, path_part(request, "project"), rows))
