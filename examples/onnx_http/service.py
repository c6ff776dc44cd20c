"""An HTTP service for a decoder exported by vaekit."""

import io
import json
import os
from typing import Annotated

import numpy as np
import onnxruntime
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BATCH = 64
LARGEST_BODY = 1_000_000
"""In bytes; 64 vectors of 512 numbers take about 700,000."""


class Latents(BaseModel):
    """Latent vectors to decode."""

    model_config = ConfigDict(extra="forbid")

    latents: Annotated[list[list[FiniteFloat]], Field(min_length=1, max_length=LARGEST_BATCH)]


class Limited:
    """ASGI middleware that limits request bodies to `LARGEST_BODY` bytes; larger requests receive status 413.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts, size, more = [], 0, scope["type"] == "http"
        while more:
            message = await receive()
            parts.append(message)
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
            if size > LARGEST_BODY:
                answer = JSONResponse({"detail": f"requests are limited to {LARGEST_BODY:,} bytes"}, 413)
                await answer(scope, receive, send)
                return
        parts.reverse()

        async def replay() -> Message:
            return parts.pop() if parts else await receive()

        await self.app(scope, replay, send)


def create_app(decoder: str) -> FastAPI:
    """Return the service for an exported decoder."""
    session = onnxruntime.InferenceSession(decoder, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["vaekit"])
    size, (low, high) = about["latent_size"], about["value_range"]
    app = FastAPI(title="vaekit decoder")
    app.add_middleware(Limited)

    @app.exception_handler(RequestValidationError)
    def explain(request: Request, error: RequestValidationError) -> JSONResponse:
        """Respond without repeating the input, unlike FastAPI's default, which would fail for NaN, as JSON has none."""
        return JSONResponse({"detail": [{"at": item["loc"], "problem": item["msg"]} for item in error.errors()]}, 422)

    def decode(latents: np.ndarray) -> np.ndarray:
        [images] = session.run(["image"], {"latent": latents.astype(np.float32)})
        return images

    @app.get("/about")
    def describe() -> dict:
        return {key: about[key] for key in ("latent_size", "data_shape", "value_range", "prior", "latents", "licence")}

    @app.get("/sample", response_class=Response)
    def sample(seed: Annotated[int, Query(ge=0, lt=2**63)] = 0) -> Response:
        if about["prior"]["kind"] != "normal":
            raise HTTPException(501, "sampling needs a normal prior")
        [image] = decode(np.random.default_rng(seed).standard_normal((1, size)))
        pixels = np.rint(255 * (image.transpose(1, 2, 0) - low) / (high - low)).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
        return Response(file.getvalue(), media_type="image/png")

    @app.post("/decode")
    def decode_latents(body: Latents) -> dict:
        lengths = {len(latent) for latent in body.latents}
        if lengths != {size}:
            raise HTTPException(422, f"latent vectors must have {size} numbers; given {sorted(lengths)}")
        latents = np.array(body.latents)
        if np.abs(latents).max() > np.finfo(np.float32).max:
            raise HTTPException(422, "a number is too large for a 32-bit float")
        return {"images": decode(latents).tolist()}

    return app


def __getattr__(name: str) -> FastAPI:
    """Create ``service:app`` on first access, from the file named by the environment variable DECODER."""
    if name != "app":
        raise AttributeError(name)
    return create_app(os.environ.get("DECODER", "decoder.onnx"))
