"""Requests and their echoes: four bytes of length, then the bytes.

Usage: echo.py asyncio-server|blocking-server HOST:PORT
       echo.py asyncio|blocking|timeout|connect-timeout HOST:PORT

`blocking`, `timeout` (each call has one, for which Python polls a non-blocking socket) and
`connect-timeout` (only the connect has one; blocking from then on) get a signal every few
milliseconds."""

import asyncio
import hashlib
import random
import signal
import socket
import sys
import threading

SIZES = [0, 1, 100, 1_000, 16_000, 100_000, 1_000_000, 5_000_000]
ROUNDS, CLIENTS = 5, 4
SIGNAL_EVERY = 0.002


def request(client, size):
    return size.to_bytes(4, "big") + random.Random(client * 7 + size).randbytes(size)


def report(sums, signals=None):
    line = f"{len(sums)} echoes, sum {hashlib.sha256(b''.join(sorted(sums))).hexdigest()}"
    if signals is not None:
        line += ", signals came" if signals else ", NO signal came"
    print(line, flush=True)


async def serve_asyncio(host, port):
    async def echo(reader, writer):
        try:
            while True:
                head = await reader.readexactly(4)
                body = await reader.readexactly(int.from_bytes(head, "big"))
                writer.write(head + body)
                await writer.drain()
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(echo, host, port)
    await server.serve_forever()


async def dial_asyncio(host, port):
    async def one(client):
        reader, writer = await asyncio.open_connection(host, port)
        sums = []
        for _ in range(ROUNDS):
            for size in SIZES:
                message = request(client, size)
                writer.write(message)
                await writer.drain()
                assert await reader.readexactly(len(message)) == message, "another answer"
                sums.append(hashlib.sha256(message).digest())
        writer.close()
        await writer.wait_closed()
        return sums

    all = await asyncio.gather(*map(one, range(CLIENTS)))
    report([s for sums in all for s in sums])


def read(s, count):
    data = bytearray()
    while len(data) < count:
        part = s.recv(min(count - len(data), 1 << 16))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def serve_blocking(host, port):
    def echo(s):
        try:
            while True:
                head = read(s, 4)
                s.sendall(head + read(s, int.from_bytes(head, "big")))
        except EOFError:
            s.close()

    listener = socket.create_server((host, port))
    while True:
        threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()


def dial_blocking(kind, host, port):
    signals = 0

    def on_signal(*_):
        nonlocal signals
        signals += 1

    signal.signal(signal.SIGALRM, on_signal)
    signal.setitimer(signal.ITIMER_REAL, SIGNAL_EVERY, SIGNAL_EVERY)
    sums = []
    for client in range(CLIENTS):
        s = socket.create_connection((host, port), None if kind == "blocking" else 20)
        if kind == "connect-timeout":
            s.settimeout(None)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(ROUNDS):
            for size in SIZES:
                message = request(client, size)
                # The echo begins when the request is whole, so that nobody waits for room for ever.
                s.sendall(message)
                assert read(s, len(message)) == message, "another answer"
                sums.append(hashlib.sha256(message).digest())
        s.close()
    signal.setitimer(signal.ITIMER_REAL, 0)
    report(sums, signals)


def main():
    verb, at = sys.argv[1:3]
    host, port = at.split(":")
    if verb == "asyncio-server":
        asyncio.run(serve_asyncio(host, int(port)))
    elif verb == "asyncio":
        asyncio.run(dial_asyncio(host, int(port)))
    elif verb == "blocking-server":
        serve_blocking(host, int(port))
    else:
        dial_blocking(verb, host, int(port))


main()
