"""A client that connects with a timeout and blocks from then on. No signal: one thread waits for the
answer while another sends a request that is larger than the buffers.

Usage: late.py server HOST:PORT | late.py client HOST:PORT"""

import select
import socket
import sys
import threading
import time

SIZE, ROUNDS = 20_000_000, 5
verb, at = sys.argv[1:]
host, port = at.split(":")


def serve():
    listener = socket.create_server((host, int(port)))
    listener.setblocking(False)
    while True:
        select.select([listener], [], [])
        s, _ = listener.accept()
        s.setblocking(False)
        # So that the sender fills the buffers and waits for room.
        time.sleep(0.2)
        left = SIZE
        while left:
            select.select([s], [], [])
            left -= len(s.recv(1 << 18))
        s.send(b"answer")
        s.close()


def ask():
    with socket.create_connection((host, int(port)), 5) as s:
        s.settimeout(None)
        answers = []

        def read():
            try:
                answers.append(s.recv(100))
            except OSError as e:
                answers.append(type(e).__name__)

        reader = threading.Thread(target=read)
        reader.start()
        s.sendall(bytes(SIZE))
        reader.join()
        return answers[0]


if verb == "server":
    serve()
for _ in range(ROUNDS):
    print(ask(), flush=True)
