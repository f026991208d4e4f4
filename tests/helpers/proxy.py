"""A line between two processes on this machine that is slow, cut, or dead."""

import contextlib
import socket
import threading
import time


class Proxy:
    """Passes bytes on in both directions, each after a delay. A context manager.

    Args:
      delay: seconds.
    """

    def __init__(self, delay: float = 0.0):
        self._delay = delay
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._is_dead = threading.Event()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *error) -> None:
        self.cut()

    def to(self, port: int) -> int:
        """The port of a line to `port`."""
        threading.Thread(target=self._accept, args=(port,), daemon=True).start()
        return self._listener.getsockname()[1]

    def cut(self) -> None:
        """Closes every connection, and takes no other."""
        for end in (self._listener, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def lose_all(self) -> None:
        """From now on nothing arrives, and no connection ends: a cable is out."""
        self._is_dead.set()

    def _accept(self, port: int) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                try:
                    there = socket.create_connection(("127.0.0.1", port))
                except OSError:  # nobody listens there yet, as the other side shall see
                    here.close()
                    continue
                self._ends += [here, there]
                for source, target in ((here, there), (there, here)):
                    threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                time.sleep(self._delay)
                if not self._is_dead.is_set():
                    target.sendall(data)
            if not self._is_dead.is_set():
                target.shutdown(socket.SHUT_WR)
