// Decode latent vectors with a decoder exported by vaekit: decoder.onnx and decoder.json, next to this page.
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";

ort.env.wasm.numThreads = 1; // more threads need a server that isolates the page, by COOP and COEP headers
const about = await (await fetch("decoder.json")).json();
const session = await ort.InferenceSession.create("decoder.onnx");
const latent = new Float32Array(about.latent_size);
const [low, high] = about.value_range; // black and white
const canvas = document.getElementById("image");

// The most informative latents come first.
const order = about.latents.map((_, i) => i).sort((i, j) => (about.latents[j].kl ?? 0) - (about.latents[i].kl ?? 0));
const sliders = order.map((i) => {
  const [min, max] = about.latents[i].range;
  const slider = Object.assign(document.createElement("input"), { type: "range", min, max, step: "any" });
  slider.addEventListener("input", () => set(i, Number(slider.value)));
  const label = document.createElement("label");
  label.append(`z${i}`, slider);
  document.getElementById("sliders").append(label);
  return slider;
});
document.getElementById("random").addEventListener("click", () => show(latent.map(normal)));
await show(latent);

function set(i, value) {
  latent[i] = value;
  return show(latent);
}

async function show(values) {
  latent.set(values);
  order.forEach((i, rank) => (sliders[rank].value = latent[i]));
  const { image } = await session.run({ latent: new ort.Tensor("float32", latent.slice(), [1, latent.length]) });
  const [, channels, height, width] = image.dims;
  const pixels = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    for (let c = 0; c < 3; c++) {
      const value = image.data[(channels === 3 ? c : 0) * height * width + i];
      pixels.data[4 * i + c] = Math.round((255 * (value - low)) / (high - low));
    }
    pixels.data[4 * i + 3] = 255;
  }
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  canvas.dataset.latent = JSON.stringify(Array.from(latent));
}

// A sample from the standard normal distribution, by the Box-Muller transform.
function normal() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}
