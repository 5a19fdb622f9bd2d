"""A judge over HTTP for tests, which behaves, or misbehaves as the first part of the path says: POST /never/...

usage: judge_server.py [--tls CERT KEY] [--port N]

Prints its port and serves until its stdin is closed. It answers what the JSON judge, the chat judge and the detector
post (docs/HTTP_JUDGES.md): a sample's score is the number that its prompt (or the message) ends with, else 0.5. A second
part of the path delays that: /good/0.5. GET of the same path tells what came there:
{"requests", "most_at_once", "authorization": [...]}.
"""

import argparse
import collections
import functools
import gzip
import http.server
import json
import socket
import ssl
import struct
import sys
import threading
import time

STEP_S = 0.05  # between the drops of what comes slowly


@functools.cache
def bomb():
    return gzip.compress(b" " * (32 << 20))


class Log:
    """What came in, for the tests to ask."""

    def __init__(self):
        self.lock = threading.Lock()
        self.requests = self.at_once = self.most_at_once = 0
        self.authorization = set()

    def enter(self, authorization):
        with self.lock:
            self.requests += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.authorization.add(authorization or "")
            return self.requests

    def leave(self):
        with self.lock:
            self.at_once -= 1

    def text(self):
        with self.lock:
            return json.dumps({"requests": self.requests, "most_at_once": self.most_at_once,
                               "authorization": sorted(self.authorization)})


def number_in(text):
    try:
        return float(text.split()[-1])
    except (IndexError, ValueError):
        return 0.5


def answer_to(request):
    """What a judge that behaves says."""
    if "messages" in request:
        content = request["messages"][-1]["content"]
        text = content if isinstance(content, str) else content[0]["text"]
        reply = json.dumps({"score": number_in(text)})
        return {"choices": [{"message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}]}
    if "images" in request:
        return {"detections": [[{"class": "circle", "color": "red", "confidence": 0.9,
                                 "box": [1, 1, image["width"] - 1, image["height"] - 1]}] for image in request["images"]]}
    return {"scores": [{"id": sample["id"], "score": number_in(sample["prompt"]), "parts": {"length": len(sample["prompt"])},
                        "reason": "as asked", "notes": {"judge": "test"}} for sample in request["samples"]]}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def setup(self):
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_GET(self):
        self.reply(self.server.logs[self.path].text().encode())

    def do_HEAD(self):
        """Nobody is behind the gateway of /gateway; other paths know POST alone, which is an answer too."""
        self.head(502 if self.path.startswith("/gateway") else 405, Content_Length=0)

    def do_POST(self):
        log = self.server.logs[self.path]
        number = log.enter(self.headers.get("Authorization"))
        _, mode, *delay = self.path.split("/")
        try:
            self.body = self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(float(delay[0]) if delay else 0)
            getattr(self, "mode_" + mode)(number)
        except OSError:  # the other side has left, as it should
            self.close_connection = True
        finally:
            log.leave()

    def good(self):
        return json.dumps(answer_to(json.loads(self.body))).encode()

    def reply(self, body, status=200, **fields):
        self.head(status, Content_Length=len(body), **fields)
        self.wfile.write(body)

    def head(self, status=200, **fields):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def raw(self, data):
        self.close_connection = True
        self.wfile.write(data)

    def drip(self, piece):
        while True:
            self.raw(piece)
            time.sleep(STEP_S)

    def cut(self):
        """Ends the connection by a reset."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    # What a server may do

    def mode_good(self, _):
        self.reply(self.good())

    def mode_slow_header(self, _):
        """Slow loris: one header a step, without end, and small enough never to reach a limit soon."""
        self.raw(b"HTTP/1.1 200 OK\r\n")
        self.drip(b"X: 1\r\n")

    def mode_slow_body(self, _):
        self.head(Content_Length=100000)
        self.drip(b" ")

    def mode_endless_body(self, _):
        self.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            self.raw(b"10000\r\n" + b" " * 0x10000 + b"\r\n")

    def mode_huge_body(self, _):
        self.reply(b" " * (2 << 20) + self.good())

    def mode_length_too_long(self, _):
        """Promises more than it sends, and ends the connection."""
        self.head(Content_Length=len(self.good()) + 100)
        self.raw(self.good())

    def mode_length_too_short(self, _):
        """The answer breaks off where its length says."""
        self.head(Content_Length=len(self.good()) // 2)
        self.raw(self.good())

    def mode_length_negative(self, _):
        self.head(Content_Length=-5)
        self.raw(self.good())

    def mode_truncated(self, _):
        self.reply(self.good()[:-10])

    def mode_gzip_bomb(self, _):
        self.reply(bomb(), Content_Encoding="gzip")

    def mode_transfer_bomb(self, _):
        packed = bomb()
        self.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(packed), packed))

    def mode_redirect(self, _):
        host, port = self.server.server_address[:2]
        self.reply(b"", status=307, Location=f"http://{host}:{port}/elsewhere")

    def mode_redirect_to_metadata(self, _):
        self.reply(b"", status=302, Location="http://169.254.169.254/latest/meta-data/")

    def mode_recovers(self, number):
        self.reply(b"busy" if number == 1 else self.good(), status=500 if number == 1 else 200)

    def mode_always_500(self, _):
        self.reply(b"out of order", status=500)

    def mode_retry_after(self, number):
        if number == 1:
            self.reply(b"", status=429, Retry_After=1)
        else:
            self.reply(self.good())

    def mode_retry_never(self, _):
        self.reply(b"", status=429, Retry_After=86400)

    def mode_unauthorized(self, _):
        """Echoes the key, as careless servers do."""
        self.reply(json.dumps({"error": "bad key: " + self.headers.get("Authorization", "")}).encode(), status=401)

    def mode_echo(self, _):
        """A right answer with the key in every text, escaped and plain."""
        answer = answer_to(json.loads(self.body))
        key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        escaped = "".join(f"\\u{ord(c):04x}" for c in key)
        for score in answer["scores"]:
            score.update(reason=f"key {key}", notes={"a": "x" * 990 + key, "b": "ESCAPED"}, parts={"c": key})
        self.reply(json.dumps(answer).replace("ESCAPED", escaped).encode())

    def mode_no_choices(self, _):
        self.reply(b'{"choices": {}}')

    def mode_null_content(self, _):
        self.reply(b'{"choices": [{"message": {"content": null}}]}')

    def mode_not_json(self, _):
        self.reply(b"<html>not a judge</html>")

    def mode_too_deep(self, _):
        self.reply(b'{"scores": ' + b"[" * 100000 + b"]" * 100000 + b"}")

    def mode_nan(self, _):
        self.reply(b'{"scores": [' + b", ".join([b"NaN"] * self.count()) + b"]}")

    def mode_huge_integer(self, _):
        self.reply(b'{"scores": [' + b", ".join([b"9" * 400] * self.count()) + b"]}")

    def mode_out_of_range(self, _):
        self.reply(json.dumps({"scores": [9223372036854775807] * self.count()}).encode())

    def mode_wrong_count(self, _):
        self.reply(json.dumps({"scores": [0.5] * (self.count() + 1)}).encode())

    def mode_wrong_types(self, _):
        self.reply(json.dumps({"scores": [{"score": "0.5"}] * self.count()}).encode())

    def mode_wrong_order(self, _):
        answer = answer_to(json.loads(self.body))
        answer["scores"].reverse()
        self.reply(json.dumps(answer).encode())

    def mode_huge_header(self, _):
        self.reply(self.good(), X="a" * 20000)

    def mode_many_headers(self, _):
        self.reply(self.good(), **{f"X-{i}": "a" * 100 for i in range(200)})

    def mode_endless_continue(self, _):
        while True:
            self.raw(b"HTTP/1.1 100 Continue\r\n\r\n")

    def mode_connection_cut(self, _):
        self.cut()

    def mode_cut_in_body(self, _):
        self.head(Content_Length=1000)
        self.wfile.write(self.good()[:10])
        self.wfile.flush()
        self.cut()

    def mode_no_utf8(self, _):
        """A right answer in Latin-1."""
        self.reply(self.good().replace(b"as asked", b"tr\xe8s bien"))

    def mode_never(self, _):
        time.sleep(600)

    def mode_not_http(self, _):
        self.raw(b"SSH-2.0-OpenSSH_9.2\r\n")

    def mode_empty(self, _):
        self.reply(b"")

    def mode_some_fail(self, number):
        """Every third request finds it busy, whatever it asks."""
        if number % 3 == 0:
            self.reply(b"", status=503)
        else:
            self.reply(self.good())

    def detections(self, **changes):
        sound = {"class": "star", "box": [1, 1, 9, 9]}
        self.reply(json.dumps({"detections": [[sound | changes] for _ in json.loads(self.body)["images"]]}).encode())

    def mode_detections_count(self, _):
        self.reply(b'{"detections": []}')

    def mode_detections_box(self, _):
        self.detections(box=[0, 0, 1000, 1000])

    def mode_detections_inside_out(self, _):
        self.detections(box=[9, 9, 3, 3])

    def mode_detections_class(self, _):
        self.detections(**{"class": None})

    def mode_detections_confidence(self, _):
        self.detections(confidence="high")

    def count(self):
        return len(json.loads(self.body)["samples"])


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request, client_address):  # clients that leave in a handshake
        pass


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"))
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    server = Server(("127.0.0.1", options.port), Handler)
    server.logs = collections.defaultdict(Log)
    if options.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*options.tls)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    print(server.server_address[1], flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
