"""A TCP proxy that holds every byte back: delay-proxy.py TARGET-PORT ONE-WAY-MILLISECONDS. Prints its port.

Bytes go from socket to pipe to socket by splice(2), which copies none: who is measured shares the processors with this, and a
network would take nothing of them.
"""

import fcntl
import os
import selectors
import socket
import sys
import time
from collections import deque

target, delay = int(sys.argv[1]), float(sys.argv[2]) / 1000
at_once = 1024 * 1024
watching = selectors.EpollSelector()
# Pipes that hold nothing: outlet and inlet.
pipes: list[tuple[int, int]] = []


def make_pipe() -> tuple[int, int]:
    outlet, inlet = os.pipe()
    fcntl.fcntl(inlet, fcntl.F_SETPIPE_SZ, at_once)
    return outlet, inlet


class Way:
    """One direction of a connection."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        # When, how many bytes, and where they are; none is the end.
        self.held: deque[tuple[float, int, tuple[int, int]]] = deque()
        # Of the first of those.
        self.sent = 0
        self.ended = self.over = False

    def take(self) -> bool:
        """Takes what has come. Returns whether more may come now."""
        while not self.ended:
            pipe = pipes.pop() if pipes else make_pipe()
            try:
                size = os.splice(self.source.fileno(), pipe[1], at_once, flags=os.SPLICE_F_NONBLOCK)
            except BlockingIOError:
                pipes.append(pipe)
                return True
            except OSError:
                size = 0
            self.held.append((time.monotonic() + delay, size, pipe))
            self.ended = size == 0
        return False

    def give(self) -> float | None:
        """Gives on what is due. Returns when more will be, or None."""
        while self.held:
            due, size, pipe = self.held[0]
            if due > time.monotonic():
                return due
            try:
                while self.sent < size:
                    self.sent += os.splice(pipe[0], self.sink.fileno(), size - self.sent, flags=os.SPLICE_F_NONBLOCK)
            except BlockingIOError:
                # Its window is full for the moment.
                return time.monotonic() + 0.001
            except OSError:
                self.over = True
                return None
            self.held.popleft()
            pipes.append(pipe)
            self.sent = 0
            if size == 0:
                self.over = True
                try:
                    self.sink.shutdown(socket.SHUT_WR)
                except OSError:
                    pass
        return None

    def close(self) -> None:
        # Of a connection that broke.
        for _, _, pipe in self.held:
            for end in pipe:
                os.close(end)


class Connection:
    def __init__(self, client: socket.socket) -> None:
        upstream = socket.create_connection(("127.0.0.1", target))
        self.ends = (client, upstream)
        for end in self.ends:
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ways = (Way(client, upstream), Way(upstream, client))
        for way in self.ways:
            watching.register(way.source, selectors.EVENT_READ, way)

    def close(self) -> None:
        for way in self.ways:
            way.close()
        for end in self.ends:
            try:
                watching.unregister(end)
            except KeyError:
                pass
            end.close()


server = socket.create_server(("127.0.0.1", 0))
watching.register(server, selectors.EVENT_READ)
print(server.getsockname()[1], flush=True)
connections: list[Connection] = []
next_due: float | None = None
while True:
    patience = None if next_due is None else max(0.0, next_due - time.monotonic())
    for key, _ in watching.select(patience):
        if key.data is None:
            connections.append(Connection(server.accept()[0]))
        elif not key.data.take():
            watching.unregister(key.fileobj)
    dues = []
    for connection in list(connections):
        for way in connection.ways:
            due = way.give()
            if due is not None:
                dues.append(due)
        if all(way.over for way in connection.ways):
            connection.close()
            connections.remove(connection)
    next_due = min(dues, default=None)
