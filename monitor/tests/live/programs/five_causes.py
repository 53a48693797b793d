"""Five causes in the network namespace it runs in, which must be empty: see `five_causes.rs`.

By hand, as root:
    ip netns add five && ip -n five link set lo up
    ip netns exec five python3 monitor/tests/live/programs/five_causes.py
and in another terminal `tcplinger stuck --netns five`. A line on the standard input ends it.

SECONDS (default 15) is how long the leak takes to grow to 1,000 sockets.
"""

import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import time

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 15
PORTS, BUCKETS, LEAKED = 400, 300, 1_000
LEAKY, LAZY, CROWDED, QUICK, BLACK_HOLE = 8080, 9090, 7070, 6060, 4444


def set_sysctl(key, value):
    with open(f"/proc/sys/net/ipv4/{key}", "w") as file:
        file.write(str(value))


def process(name, job):
    """A process of that name, which ends with this one; returns when the job says it is ready."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(600)
        # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        open("/proc/self/comm", "w").write(name)
        job(lambda: os.write(writer, b"x"))
        while True:
            time.sleep(600)
    os.read(reader, 1)
    return pid


def server(name, port, serve):
    def job(is_ready):
        listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        is_ready()
        kept = []
        while True:
            serve(listener.accept()[0], kept)
    return process(name, job)


def keep(connection, kept):
    kept.append(connection)


def read_and_close(connection, _):
    connection.recv(1)
    connection.close()


def connect(port, source=None):
    return socket.create_connection(("127.0.0.1", port), source_address=source and (source, 0))


_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
set_sysctl("ip_local_port_range", f"40000 {40000 + PORTS - 1}")
set_sysctl("tcp_max_tw_buckets", BUCKETS)
set_sysctl("tcp_tw_reuse", 0)
subprocess.run(["nft", "-f", "-"], check=True, text=True, input=f"""
table inet hole {{
  chain input {{ type filter hook input priority 0; tcp dport {BLACK_HOLE} drop; }}
}}""")


# 1. A service that does not close: 1,000 CLOSE_WAIT, a few every now and then.
def leaky(connection, kept):
    connection.recv(1)
    kept.append(connection)


def leak_clients(is_ready):
    is_ready()
    begun = time.monotonic()
    for number in range(LEAKED):
        time.sleep(max(0, begun + SECONDS * number / LEAKED - time.monotonic()))
        connect(LEAKY, f"127.0.0.{10 + number % 4}").close()


# 2. A service that does not read: data waits.
def lazy_clients(is_ready):
    for number in range(12):
        connection = connect(LAZY, "127.0.0.20")
        connection.sendall(b"request" * 1_000)
        connection.close()
    is_ready()


# 3. A client that is out of ports.
def crowd(is_ready):
    held = []
    try:
        while True:
            held.append(connect(CROWDED))
    except OSError:
        is_ready()
        while True:
            time.sleep(600)


# 4. More closes than there are TIME_WAIT buckets.
def hasty_clients(is_ready):
    number = 0
    while True:
        connection = connect(QUICK, f"127.0.{1 + number % 8}.30")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.close()
        number += 1
        if number == 2 * BUCKETS:
            is_ready()
        time.sleep(0.01)


# 5. A SYN that nobody answers.
def hopeful(is_ready):
    connection = socket.socket()
    connection.setblocking(False)
    connection.connect_ex(("127.0.0.1", BLACK_HOLE))
    is_ready()
    while True:
        time.sleep(600)


children = [
    # First: what binds a port takes it from everybody.
    server("crowded", CROWDED, keep),
    process("pool", crowd),
    server("leaky", LEAKY, leaky),
    server("lazy", LAZY, keep),
    server("quick", QUICK, read_and_close),
    process("visitors", leak_clients),
    process("senders", lazy_clients),
    process("hasty", hasty_clients),
    process("hopeful", hopeful),
]
print("ready", flush=True)
sys.stdin.readline()
for child in children:
    os.kill(child, signal.SIGKILL)
print("done", flush=True)
