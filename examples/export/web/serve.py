"""Serves the page, with the library and perhaps a sound that it opens at once.

python examples/export/web/serve.py build/wasm32/vad.wasm [sound.wav]
"""

from __future__ import annotations

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event

HERE = Path(__file__).resolve().parent
PATIENCE = 12
"""Seconds for which a page that is not drawn is waited for."""
TYPES = {".wasm": "application/wasm", ".js": "text/javascript", ".html": "text/html", ".wav": "audio/wav"}


class Handler(SimpleHTTPRequestHandler):
    """The files of this folder, and some of others. said: what the page reports when it has drawn a given sound."""

    def __init__(self, *args: object, others: dict[str, Path], said: list[str], drawn: Event) -> None:
        self.others, self.said, self.drawn = others, said, drawn
        super().__init__(*args, directory=str(HERE))  # type: ignore[arg-type]

    def translate_path(self, path: str) -> str:
        """Where a file is."""
        name = path.partition("?")[0].lstrip("/")
        return str(self.others[name]) if name in self.others else super().translate_path(path)

    def guess_type(self, path: object) -> str:  # type: ignore[override]
        """The type of a file."""
        return TYPES.get(Path(str(path)).suffix, "application/octet-stream")

    def do_GET(self) -> None:
        """A file; or nothing, as soon as the page has drawn, so that it is loaded only then."""
        if self.path == "/drawn":
            self.drawn.wait(PATIENCE)
            self.send_response(204)
            self.end_headers()
        else:
            super().do_GET()

    def do_POST(self) -> None:
        """The page has drawn."""
        self.said.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(204)
        self.end_headers()
        self.drawn.set()

    def log_message(self, *args: object) -> None:
        """Nothing: the page shows what it does."""


def server(library: Path, sound: Path | None = None) -> tuple[ThreadingHTTPServer, list[str], Event]:
    """A server on a free port, what pages report to it, and an event that tells when one has."""
    said: list[str] = []
    drawn = Event()
    others = {"vad.wasm": library} | ({} if sound is None else {"sound.wav": sound})
    handler = partial(Handler, others=others, said=said, drawn=drawn)
    return ThreadingHTTPServer(("127.0.0.1", 0), handler), said, drawn


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    serving, _, _ = server(*map(Path, sys.argv[1:3]))
    query = "?sound=sound.wav" if len(sys.argv) > 2 else ""
    print(f"http://127.0.0.1:{serving.server_port}/{query}")
    serving.serve_forever()
