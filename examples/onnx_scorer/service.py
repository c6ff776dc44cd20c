"""An HTTP service that finds anomalous images, with a scorer that vaekit exported: one file with model, map and threshold."""

import io
import json
import os

import numpy as np
import onnxruntime
from fastapi import FastAPI, HTTPException, Request, Response
from PIL import Image, UnidentifiedImageError

LARGEST_BODY = 5_000_000
"""Bytes of an image file."""


def create_app(scorer: str) -> FastAPI:
    """Return the service for an exported scorer of grey or colour images."""
    session = onnxruntime.InferenceSession(scorer, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["vaekit"])
    (channels, height, width), (low, high) = about["data_shape"], about["value_range"]
    app = FastAPI(title="vaekit scorer")

    async def read(request: Request) -> np.ndarray:
        """Read the image file that is the body of a request, ``(1, C, H, W)`` in the range of the data."""
        content = b""
        async for part in request.stream():
            content += part
            if len(content) > LARGEST_BODY:
                raise HTTPException(413, f"a request has at most {LARGEST_BODY:,} bytes")
        try:
            with Image.open(io.BytesIO(content)) as image:
                if image.size != (width, height):  # known from the header, before any pixel is decoded
                    given, expected = "×".join(map(str, image.size)), f"{width}×{height}"
                    raise HTTPException(422, f"images are {expected} (width × height); given {given}")
                pixels = np.array(image.convert("L" if channels == 1 else "RGB"), np.float32) / 255
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise HTTPException(422, "the body is not a complete image file") from error
        planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        return (low + (high - low) * planes)[None]

    @app.get("/about")
    def describe() -> dict:
        return {key: about[key] for key in ("data_shape", "value_range", "threshold", "licence")}

    @app.post("/score")
    async def score(request: Request) -> dict:
        score, anomalous, normalised = session.run(["score", "is_anomaly", "normalised_score"], {"image": await read(request)})
        return {"score": float(score[0]), "is_anomaly": bool(anomalous[0]), "normalised_score": float(normalised[0])}

    @app.post("/map", response_class=Response)
    async def draw_map(request: Request) -> Response:
        [error] = session.run(["map"], {"image": await read(request)})
        shown = np.sqrt(error[0] / channels) / (high - low)  # root mean square over channels; white is the whole range
        file = io.BytesIO()
        Image.fromarray(np.rint(255 * shown.clip(0, 1)).astype(np.uint8)).save(file, "PNG")
        return Response(file.getvalue(), media_type="image/png")

    return app


def __getattr__(name: str) -> FastAPI:
    """Create ``service:app`` when a server accesses it, from the file that the variable SCORER names."""
    if name != "app":
        raise AttributeError(name)
    return create_app(os.environ.get("SCORER", "scorer.onnx"))
