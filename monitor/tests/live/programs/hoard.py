"""A server that never closes, and its client that does: NUMBER connections each.

With "open" behind the number the client stays. A line on the standard input ends the waiting: the
server takes it for leave to close everything.
"""

import os
import resource
import signal
import socket
import sys

number, keeps_open = int(sys.argv[1]), sys.argv[2:] == ["open"]
signal.alarm(150)
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
address = listener.getsockname()
server, client = socket.socketpair()
if os.fork() == 0:
    signal.alarm(150)
    listener.close()
    server.close()
    opened = [socket.create_connection(address) for _ in range(number)]
    client.send(b"x")
    if not keeps_open:
        opened.clear()
        client.send(b"x")
    # Until the other one is gone.
    client.recv(1)
    os._exit(0)
client.close()
held = [listener.accept()[0].detach() for _ in range(number)]
server.recv(1)
if not keeps_open:
    server.recv(1)
print(number, flush=True)
sys.stdin.readline()
for descriptor in held:
    os.close(descriptor)
print("closed", flush=True)
sys.stdin.readline()
