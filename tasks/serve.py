"""Serve an exported model over HTTP: the ONNX file is all that is needed.

    python -m tasks.serve models/model.onnx
    curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8000/predict

Open http://127.0.0.1:8000 for a page to drop an image on. `/predict` takes an image as the body, or
as the file of a form, and `?threshold=`; `/metadata` says what the model is, `/healthz` that the
server lives. It listens on loopback only, unless --host says otherwise: it has neither TLS nor
login. SIGTERM or Ctrl-C ends it once the requests at hand are answered.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from components.errors import TimmflowError
from tasks.predict import count, share


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's text."""
    args = _parser().parse_args(argv)
    import logging
    import socket

    from components.export.predictor import OnnxPredictor
    from components.inference.http_app import create_app, loopback_names
    from components.inference.http_limits import Limits
    from components.inference.http_server import serve

    limits = Limits(
        max_bytes=args.max_megabytes * 1_000_000,
        max_pixels=args.max_megapixels * 1_000_000,
        upload_seconds=args.upload_seconds,
        predict_seconds=args.predict_seconds,
        max_requests=args.max_requests,
    )
    try:
        predictor = OnnxPredictor(args.model, args.threads)
    except TimmflowError as error:
        print(f"error: serve: {error}", file=sys.stderr)
        return 1
    family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
    try:
        listening = socket.create_server((args.host, args.port), family=family)
    except OSError as error:
        print(f"error: serve: {args.host} port {args.port}: {error.strerror}", file=sys.stderr)
        return 1
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(message)s", force=True
    )
    logging.getLogger("timmflow.access").setLevel(logging.INFO)
    hosts = loopback_names(args.host)
    shown = f"[{args.host}]" if ":" in args.host else args.host
    print(f"serve: {args.model} on http://{shown}:{listening.getsockname()[1]}", flush=True)
    if hosts is None:
        print("serve: whoever can reach this address can use the model: no TLS, no login")
    with listening:
        serve(create_app(predictor, limits, args.threshold, hosts), listening, limits)
    print("serve: stopped", flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tasks.serve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", type=Path, help="the ONNX file")
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    add("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    add("--threshold", type=share, help="of requests that name none; see tasks.predict")
    add("--threads", type=count, default=0, help="of ONNX Runtime (default: one per core)")
    add("--max-megabytes", type=count, default=32, help="largest body (default: 32)")
    add("--max-megapixels", type=count, default=64, help="largest image (default: 64)")
    add("--max-requests", type=count, default=16, help="images at hand at a time (default: 16)")
    add("--upload-seconds", type=count, default=20, help="for a request to arrive (default: 20)")
    add("--predict-seconds", type=count, default=30, help="for an answer, queue too (default: 30)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
