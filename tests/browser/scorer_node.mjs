// Score images with the WebAssembly that browsers run: node scorer_node.mjs SCORER.onnx IMAGES.json RESULT.json
import { readFile, writeFile } from "node:fs/promises";
import * as ort from "onnxruntime-web";

const [scorer, images, result] = process.argv.slice(2);
ort.env.wasm.numThreads = 1;
const { shape, values } = JSON.parse(await readFile(images, "utf-8"));
const session = await ort.InferenceSession.create(await readFile(scorer), { executionProviders: ["wasm"] });
const outputs = await session.run({ image: new ort.Tensor("float32", Float32Array.from(values), shape) });
const found = Object.entries(outputs).map(([name, tensor]) => [name, Array.from(tensor.data, Number)]);
await writeFile(result, JSON.stringify({ found: Object.fromEntries(found) }));
