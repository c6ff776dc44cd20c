// Score the images of images.json with scorer.onnx, both beside the page, and keep the outputs in the page.
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";

ort.env.wasm.numThreads = 1;
const { shape, values } = await (await fetch("images.json")).json();
const session = await ort.InferenceSession.create("scorer.onnx");
const outputs = await session.run({ image: new ort.Tensor("float32", Float32Array.from(values), shape) });
const found = Object.entries(outputs).map(([name, tensor]) => [name, Array.from(tensor.data, Number)]);
document.documentElement.dataset.found = JSON.stringify(Object.fromEntries(found));
