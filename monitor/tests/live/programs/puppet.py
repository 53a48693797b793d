"""A process with sockets that it treats as badly as it is told to.

Reads a command a line and answers each with a line: a descriptor, a port, a pid, or "done".
"""

import ctypes
import os
import signal
import socket
import sys

PR_SET_NAME = 15
SECONDS = 60


def obey(command, held):
    match command:
        case ["listen", address, backlog]:
            # The port first, so that `held` ends with the connections.
            held.insert(0, socket.create_server((address, 0), backlog=int(backlog)))
            return held[0].getsockname()[1]
        case ["accept"]:
            held.append(held[0].accept()[0])
            return held[-1].fileno()
        case ["connect", address, port]:
            held.append(socket.create_connection((address, int(port))))
            return held[-1].fileno()
        case ["begin", address, port]:
            held.append(socket.socket())
            held[-1].setblocking(False)
            held[-1].connect_ex((address, int(port)))
            return held[-1].fileno()
        case ["send", number]:
            held[-1].sendall(bytes(int(number)))
        case ["drain"]:
            while held[-1].recv(1 << 16):
                pass
        case ["shutdown"]:
            held[-1].shutdown(socket.SHUT_WR)
        case ["close"]:
            held.pop().close()
        case ["fork"]:
            child = os.fork()
            if child == 0:
                signal.alarm(SECONDS)
                signal.pause()
            return child
        case ["name", *numbers]:
            name = ctypes.create_string_buffer(bytes(map(int, numbers)))
            ctypes.CDLL(None).prctl(PR_SET_NAME, name, 0, 0, 0)
    return "done"


signal.alarm(SECONDS)
sockets = []
for line in sys.stdin:
    print(obey(line.split(), sockets), flush=True)
