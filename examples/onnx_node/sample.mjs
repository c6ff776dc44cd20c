// Decode a latent vector with a decoder exported by vaekit, and write the image as PGM or PPM.
import { readFile, writeFile } from "node:fs/promises";
import * as ort from "onnxruntime-node";

const [decoder, picture, given] = process.argv.slice(2);
if (!picture) {
  console.error("usage: node sample.mjs decoder.onnx image.pgm [z1,z2,...]");
  process.exit(2);
}
const about = JSON.parse(await readFile(decoder.replace(/\.onnx$/, ".json"), "utf8"));
const size = about.latent_size;
const [low, high] = about.value_range; // black and white
const latent = given ? given.split(",").map(Number) : Array.from({ length: size }, normal);
if (latent.length !== size || !latent.every(Number.isFinite)) {
  console.error(`expected ${size} numbers`);
  process.exit(2);
}

const session = await ort.InferenceSession.create(decoder);
const { image } = await session.run({ latent: new ort.Tensor("float32", Float32Array.from(latent), [1, size]) });
const [, channels, height, width] = image.dims;
if (channels !== 1 && channels !== 3) throw new Error(`cannot write an image of ${channels} channels`);
const pixels = Buffer.alloc(height * width * channels);
for (let c = 0; c < channels; c++) {
  for (let i = 0; i < height * width; i++) {
    pixels[i * channels + c] = Math.round((255 * (image.data[c * height * width + i] - low)) / (high - low));
  }
}
await writeFile(picture, Buffer.concat([Buffer.from(`P${channels === 1 ? 5 : 6}\n${width} ${height}\n255\n`), pixels]));

// A sample from the standard normal distribution, by the Box-Muller transform.
function normal() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}
