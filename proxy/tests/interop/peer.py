"""The test cases of gRPC's interoperability tests (doc/interop-test-descriptions.md of grpc/grpc) over grpcio.

    peer.py serve            prints its port, and serves until it is killed
    peer.py CASE PORT        runs one case, or `all`; prints `ok CASE` for each

Messages are encoded here (grpc.testing, messages.proto), so that grpcio is all that is needed.
"""

import sys
import time
from concurrent import futures

import grpc

SERVICE = "/grpc.testing.TestService/"
INITIAL, TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"


def varint(n):
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def encode(*fields):
    """Pairs of a number and an int or bytes; zero and empty ones too."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def decode(data):
    """Lists of values by number."""
    fields, at = {}, 0

    def number():
        nonlocal at
        n = shift = 0
        while True:
            byte = data[at]
            at += 1
            n |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return n

    while at < len(data):
        key = number()
        value = number()
        if key & 7 == 2:
            value, at = data[at : at + value], at + value
        fields.setdefault(key >> 3, []).append(value)
    return fields


def payload(size):
    return encode((2, bytes(size)))


def body(fields, number):
    inner = decode(fields.get(number, [b""])[0])
    return inner.get(2, [b""])[0]


def echo(fields, context):
    """Metadata and the status that the request asks for."""
    for key, value in context.invocation_metadata():
        if key == INITIAL:
            context.send_initial_metadata(((key, value),))
        if key == TRAILING:
            context.set_trailing_metadata(((key, value),))
    if 7 in fields:
        status = decode(fields[7][0])
        code = status.get(1, [0])[0]
        code = next(c for c in grpc.StatusCode if c.value[0] == code)
        context.abort(code, status.get(2, [b""])[0].decode())


class Server(grpc.GenericRpcHandler):
    def service(self, details):
        kind, call = {
            SERVICE + "EmptyCall": (grpc.unary_unary_rpc_method_handler, lambda r, c: b""),
            SERVICE + "UnaryCall": (grpc.unary_unary_rpc_method_handler, self.unary),
            SERVICE + "StreamingInputCall": (grpc.stream_unary_rpc_method_handler, self.input),
            SERVICE + "StreamingOutputCall": (grpc.unary_stream_rpc_method_handler, self.output),
            SERVICE + "FullDuplexCall": (grpc.stream_stream_rpc_method_handler, self.duplex),
        }.get(details.method, (None, None))
        return kind and kind(call)

    def unary(self, request, context):
        fields = decode(request)
        echo(fields, context)
        return encode((1, payload(fields.get(2, [0])[0])))

    def input(self, requests, context):
        return encode((1, sum(len(body(decode(r), 1)) for r in requests)))

    def output(self, request, context):
        fields = decode(request)
        echo(fields, context)
        for parameters in map(decode, fields.get(2, [])):
            time.sleep(parameters.get(2, [0])[0] / 1e6)
            yield encode((1, payload(parameters.get(1, [0])[0])))

    def duplex(self, requests, context):
        for request in requests:
            yield from self.output(request, context)


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(32))
    server.add_generic_rpc_handlers((Server(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


class Client:
    def __init__(self, port):
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.empty = channel.unary_unary(SERVICE + "EmptyCall")
        self.unary = channel.unary_unary(SERVICE + "UnaryCall")
        self.input = channel.stream_unary(SERVICE + "StreamingInputCall")
        self.output = channel.unary_stream(SERVICE + "StreamingOutputCall")
        self.duplex = channel.stream_stream(SERVICE + "FullDuplexCall")
        self.method = channel.unary_unary(SERVICE + "UnimplementedCall")
        self.service = channel.unary_unary("/grpc.testing.UnimplementedService/UnimplementedCall")

    def empty_unary(self):
        assert self.empty(b"", timeout=10) == b""

    def large_unary(self):
        answer = self.unary(encode((2, 314159), (3, payload(271828))), timeout=10)
        assert len(body(decode(answer), 1)) == 314159

    def client_streaming(self):
        sizes = (27182, 8, 1828, 45904)
        answer = self.input(iter(encode((1, payload(n))) for n in sizes), timeout=10)
        assert decode(answer)[1] == [74922]

    def server_streaming(self):
        sizes = (31415, 9, 2653, 58979)
        request = encode(*((2, encode((1, n))) for n in sizes))
        answers = [len(body(decode(a), 1)) for a in self.output(request, timeout=10)]
        assert tuple(answers) == sizes, answers

    def ping_pong(self):
        turn = []
        answered = [31415, 9, 2653, 58979]

        def requests():
            for i, (size, sent) in enumerate(zip(answered, (27182, 8, 1828, 45904))):
                while len(turn) < i:
                    time.sleep(0.001)
                yield encode((2, encode((1, size))), (3, payload(sent)))

        for answer in self.duplex(requests(), timeout=10):
            turn.append(len(body(decode(answer), 1)))
        assert turn == answered, turn

    def empty_stream(self):
        assert list(self.duplex(iter(()), timeout=10)) == []

    def fails(self, call, code, message=None):
        try:
            call()
        except grpc.RpcError as error:
            assert error.code() == code, error
            assert message is None or error.details() == message, error.details()
        else:
            raise AssertionError(f"{code} did not come")

    def cancel_after_begin(self):
        call = self.input.future(iter(()), timeout=10)
        call.cancel()
        assert call.cancelled() and call.code() == grpc.StatusCode.CANCELLED

    def cancel_after_first_response(self):
        def requests():
            yield encode((2, encode((1, 31415))), (3, payload(27182)))
            time.sleep(5)

        call = self.duplex(requests(), timeout=10)
        next(call)
        call.cancel()
        self.fails(lambda: next(call), grpc.StatusCode.CANCELLED)

    def timeout_on_sleeping_server(self):
        request = encode((2, encode((1, 1), (2, 1_000_000))), (3, payload(27182)))
        late = lambda: list(self.duplex(iter((request,)), timeout=0.2))
        self.fails(late, grpc.StatusCode.DEADLINE_EXCEEDED)

    def status_code_and_message(self, message="test status message"):
        status = encode((1, 2), (2, message.encode()))
        unknown = grpc.StatusCode.UNKNOWN
        self.fails(lambda: self.unary(encode((7, status)), timeout=10), unknown, message)
        stream = lambda: list(self.duplex(iter((encode((7, status)),)), timeout=10))
        self.fails(stream, unknown, message)

    def special_status_message(self):
        self.status_code_and_message("\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n")

    def unimplemented_method(self):
        self.fails(lambda: self.method(b"", timeout=10), grpc.StatusCode.UNIMPLEMENTED)

    def unimplemented_service(self):
        self.fails(lambda: self.service(b"", timeout=10), grpc.StatusCode.UNIMPLEMENTED)

    def custom_metadata(self):
        sent = ((INITIAL, "test_initial_metadata_value"), (TRAILING, b"\xab\xab\xab"))
        request = encode((2, 314159), (3, payload(271828)))
        answer, call = self.unary.with_call(request, metadata=sent, timeout=10)
        assert len(body(decode(answer), 1)) == 314159
        request = encode((2, encode((1, 314159))), (3, payload(271828)))
        stream = self.duplex(iter((request,)), metadata=sent, timeout=10)
        assert len(list(stream)) == 1
        for call in (call, stream):
            assert dict(call.initial_metadata())[INITIAL] == sent[0][1]
            assert dict(call.trailing_metadata())[TRAILING] == sent[1][1]


CASES = [
    name
    for name, value in vars(Client).items()
    if callable(value) and name not in ("__init__", "fails")
]


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    client = Client(sys.argv[2])
    for name in CASES if sys.argv[1] == "all" else [sys.argv[1]]:
        getattr(client, name)()
        print("ok", name, flush=True)
