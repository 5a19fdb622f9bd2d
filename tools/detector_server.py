"""A detector over HTTP for the rewards geneval and edit (docs/HTTP_JUDGES.md): find_objects() is the place for a model.

usage: detector_server.py [--host 127.0.0.1] [--port 8080]

As it stands it finds the coloured shapes of the embedded world: pixels go to the nearest line between background and a
palette colour, connected pixels of one colour are an object, and the share of its box that it fills tells its shape.
Objects of one colour that touch are taken for one. Python's standard library only, so PNG only (image_format = "png").
Prints the address once it serves.
"""

import argparse
import base64
import functools
import http.server
import json
import math
import struct
import zlib

MAX_REQUEST_BYTES = 256 << 20
MAX_PIXELS = 1 << 24

BACKGROUND = (250, 250, 250)
PALETTE = {"red": (220, 40, 40), "green": (40, 160, 60), "blue": (45, 80, 220), "yellow": (240, 210, 40),
           "purple": (140, 60, 180), "orange": (245, 140, 30)}
FILLED = {"square": 1.0, "circle": math.pi / 4, "triangle": 0.5, "star": 0.33}  # share of the box
MAX_RESIDUAL = 60  # distance of a pixel from its line, in RGB
MIN_AREA = 18 / 64**2  # share of the image


def find_objects(width, height, pixels):
    """What is in an RGB image: [{"class", "color", "confidence", "box": [left, top, right, bottom]}], in pixels.

    pixels: width * height * 3 bytes, rows top to bottom. Put a model of your own here.
    """
    step = max(1, max(width, height) // 64)  # the world's own resolution is enough
    columns, rows = -(-width // step), -(-height // step)
    colors = [nearest_color(pixels[at:at + 3]) for y in range(rows) for x in range(columns)
              for at in [3 * (y * step * width + x * step)]]
    found = []
    for color, cells in regions(colors, columns, rows):
        if len(cells) < MIN_AREA * columns * rows:
            continue
        xs, ys = [cell % columns for cell in cells], [cell // columns for cell in cells]
        left, top, right, bottom = min(xs), min(ys), max(xs) + 1, max(ys) + 1
        filled = len(cells) / ((right - left) * (bottom - top))
        shape = min(FILLED, key=lambda name: abs(FILLED[name] - filled))
        found.append({"class": shape, "color": color, "confidence": max(0.0, 1 - abs(FILLED[shape] - filled) / 0.2),
                      "box": [left * step, top * step, min(right * step, width), min(bottom * step, height)]})
    return found


@functools.lru_cache(1 << 16)
def nearest_color(pixel):
    """The palette colour that covers at least half of the pixel; None for background and for colours of no palette."""
    best, best_residual, best_coverage = None, math.inf, 0.0
    offset = [background - value for background, value in zip(BACKGROUND, pixel)]
    for name, color in PALETTE.items():
        direction = [background - value for background, value in zip(BACKGROUND, color)]
        coverage = sum(a * b for a, b in zip(offset, direction)) / sum(a * a for a in direction)
        coverage = min(max(coverage, 0.0), 1.15)
        residual = sum((a - coverage * b) ** 2 for a, b in zip(offset, direction))
        if residual < best_residual:
            best, best_residual, best_coverage = name, residual, coverage
    return best if best_coverage >= 0.5 and best_residual <= MAX_RESIDUAL**2 else None


def regions(colors, columns, rows):
    """Yields (colour, cells) for each set of neighbouring cells of one colour."""
    seen = [color is None for color in colors]
    for start, color in enumerate(colors):
        if seen[start]:
            continue
        seen[start] = True
        cells, waiting = [], [start]
        while waiting:
            cell = waiting.pop()
            cells.append(cell)
            x, y = cell % columns, cell // columns
            for near, inside in ((cell - 1, x > 0), (cell + 1, x < columns - 1),
                                 (cell - columns, y > 0), (cell + columns, y < rows - 1)):
                if inside and not seen[near] and colors[near] == color:
                    seen[near] = True
                    waiting.append(near)
        yield color, cells


def read_png(data):
    """(width, height, RGB bytes) of an 8-bit RGB PNG without interlacing, as unigrpo sends it."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("no PNG; this server reads image_format = \"png\"")
    at, packed, size = 8, b"", None
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + length]
        if kind == b"IHDR":
            width, height, *form = struct.unpack(">IIBBBBB", body)
            if form != [8, 2, 0, 0, 0] or not 0 < width * height <= MAX_PIXELS:
                raise ValueError(f"PNG of form {form}, {width}x{height} pixels; expected 8-bit RGB")
            size = width, height
        elif kind == b"IDAT":
            packed += body
        at += length + 12
    if size is None:
        raise ValueError("PNG without a header")
    width, height = size
    stride = 3 * width
    raw = zlib.decompressobj().decompress(packed, (stride + 1) * height)
    if len(raw) != (stride + 1) * height:
        raise ValueError("PNG that is cut short")
    rows, above = [], bytearray(stride)
    for y in range(height):
        line = raw[y * (stride + 1):(y + 1) * (stride + 1)]
        above = unfilter(line[0], bytearray(line[1:]), above)
        rows.append(above)
    return width, height, b"".join(rows)


def unfilter(kind, row, above):
    """Undoes one row's PNG filter (ISO 15948, section 9)."""
    for i, value in enumerate(row):
        left, up, corner = (row[i - 3], above[i], above[i - 3]) if i >= 3 else (0, above[i], 0)
        if kind == 4:
            estimate = left + up - corner
            guess = min((left, up, corner), key=lambda one: abs(estimate - one))
        else:
            guess = (0, left, up, (left + up) // 2)[kind]
        row[i] = (value + guess) & 0xFF
    return row


def detections_of(image):
    """What is found in one image of a request, or a text saying why that is not known."""
    try:
        return find_objects(*read_png(base64.b64decode(image["data"], validate=True)))
    except (ValueError, KeyError, TypeError, IndexError, struct.error, zlib.error) as error:
        return f"cannot read the image: {error}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        try:
            length = int(self.headers.get("Content-Length", ""))
            if not 0 < length <= MAX_REQUEST_BYTES:
                raise ValueError(f"a request of {length} bytes")
            images = json.loads(self.rfile.read(length))["images"]
            status, answer = 200, {"detections": [detections_of(image) for image in images]}
        except (ValueError, KeyError, TypeError) as error:
            self.close_connection = True
            status, answer = 400, {"error": f"expected JSON with a list 'images': {error}"}
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080, help="0: any that is free")
    options = parser.parse_args()
    server = http.server.ThreadingHTTPServer((options.host, options.port), Handler)
    print(f"http://{options.host}:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
