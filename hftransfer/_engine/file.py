"""The transfer of one file: the choice between three strategies, and the check at the end.

The data path of a chunk, in the strategy `ranges`::

    buffer from the pool (the back-pressure) → read → XXH3, CRC ─┬→ every sink
                                                                 └→ the file's SHA-256, in order
    buffer back to the pool ←────────────────────────────────────┘

The task of a chunk owns its buffer from the first byte to the last write, so data is neither
copied nor queued in between. A digest such as SHA-256 needs the bytes in file order; a chunk
that arrives early waits for its turn with its buffer. That cannot deadlock: the chunks of a
file get their buffers in file order, so the chunk whose turn it is always has one.

==========  =============================================================  ====================
strategy    used when                                                      memory per chunk
==========  =============================================================  ====================
`ranges`    neither of the others applies                                  a buffer
`stream`    the source answered a ranged read with the whole body          one buffer per file
`sendfile`  a local file of several chunks, without a digest to check,     a window of 1 MiB
            goes to sinks that can all send it from the page cache         while it is hashed
==========  =============================================================  ====================

Failures are handled at four levels, and only *retry* waits between two attempts:

- *recover*: a store removes a cause that it knows, such as an expired signed URL or a bucket in
  another region, within one attempt of the engine. Stores retry only what no chunk waits for (a
  listing, the completion of an upload), so no retry is nested in another.
- *retry*: after a `TransientError` the engine repeats the read or the write of a chunk
  (`retrying`). A read continues behind the bytes that have arrived. `RetryPolicy` limits the
  seconds since the first failure; progress begins a new count. While a server is down, all
  operations wait for the result of one (`hftransfer._io.origins`).
- *hedge*: the scheduler asks again for the missing bytes of a request that is far slower than its
  peers, over another connection (`hedging`). It is no failure and does not count as an attempt.
- *restart*: bytes can be damaged in transit, so a chunk that does not match its manifest is read a
  second time (`CHUNK_ATTEMPTS`), and a file that does not match its digest is moved a second time
  (`transfer`), as is one whose upload is gone. A source that rejects ranges is read from its start
  as one stream.
"""

from __future__ import annotations

from hftransfer._core.manifest import FileManifest
from hftransfer._engine.file_state import FileState
from hftransfer._engine.ranges import RangeStrategy
from hftransfer._engine.sendfile import SendfileStrategy
from hftransfer._engine.stream import StreamStrategy
from hftransfer.errors import RangeNotSupportedError

__all__ = ("FileTransfer",)


class FileTransfer:
    """One attempt to move a file from the source into the opened sinks.

    Args:
        state: of the file, of which nothing has been moved.
    """

    def __init__(self, state: FileState) -> None:
        self._state = state

    @property
    def is_fully_started(self) -> bool:
        """True if the bytes of every chunk have been requested."""
        return self._state.started == len(self._state.chunks)

    async def run(self) -> FileManifest:
        """Move all chunks; return their record once the file's digest is verified.

        Raises:
            IntegrityError: if the file or a chunk does not match its digest.
            TransferError: the first failure; further ones are its notes.
        """
        state = self._state
        try:
            await self._move_chunks()
        finally:
            state.close()
        state.check_file_digest()
        return state.manifest()

    @property
    def is_checked_on_arrival(self) -> bool | None:
        """True if the bytes were compared with a digest of the source or with a manifest.

        None if they were not, but have crossed no network. Valid after `run`.
        """
        return self._state.is_checked_on_arrival

    async def _move_chunks(self) -> None:
        sendfile = SendfileStrategy.find(self._state)
        if sendfile is not None:
            await sendfile.run()
            return
        try:
            await RangeStrategy(self._state).run()
        except RangeNotSupportedError:
            await StreamStrategy(self._state).run()

    def rollback_progress(self) -> None:
        """Subtract the progress that was announced, since the whole file is moved again."""
        self._state.rollback_progress()
