"""A server on this machine that answers as servers and networks do: whole, in part, slowly, wrongly."""

import http.server
import threading
import time
from contextlib import contextmanager


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
        answer = self.server.answers.get(self.path)
        if answer is None:
            self.send_error(404)
            return
        answer(self, self.server.asked)

    def log_message(self, *args):
        pass


def send(handler, content, *, code=200, kind="application/octet-stream", length=None, only=None, tag='"a"', pause=0.0):
    """Answer with a file, or the part of it that was asked for; `only` breaks off after so many bytes."""
    wanted, start = handler.headers.get("Range"), 0
    if wanted and tag and handler.headers.get("If-Range") == tag:
        code, start = 206, int(wanted.removeprefix("bytes=").partition("-")[0])
    body = content[start:]
    handler.send_response(code)
    handler.send_header("Content-Type", kind)
    if length is not False:
        handler.send_header("Content-Length", str(len(body) if length is None else length))
    if code == 206:
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    if tag:
        handler.send_header("ETag", tag)
    handler.send_header("Connection", "close")
    handler.end_headers()
    body = body[:only]
    step = max(1, len(body) // 6) if pause else len(body) or 1
    for place in range(0, len(body), step):
        handler.wfile.write(body[place : place + step])
        time.sleep(pause)
    handler.close_connection = True


def redirect(address):
    def answer(handler, asked):
        handler.send_response(302)
        handler.send_header("Location", address)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@contextmanager
def serving():
    """A server with `answers` by path, the requests it was `asked` so far, and its `address`."""
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.answers, made.asked = {}, []
    made.address = f"http://127.0.0.1:{made.server_address[1]}"
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        made.shutdown()
        thread.join()
        made.server_close()
