// The program of the page: unpacks the runtime and the model, then keeps one latent vector `z` and draws everything that depends on it.
const $ = (id) => document.getElementById(id);
const about = JSON.parse($("about").textContent);
const { decoder: model, encoder: encoderModel, draws } = about;
const size = model.latent_size;
const [channels, height, width] = model.data_shape;
const [low, high] = model.value_range; // the values of black and white pixels
const latents = model.latents.map(({ mean, std, range: [low, high], kl }) =>
  high > low ? { mean, std, low, high, kl } : { mean, std, low: mean - 1, high: mean + 1, kl });
const order = latents.map((_, i) => i).sort((i, j) => (latents[j].kl ?? 0) - (latents[i].kl ?? 0));
const SHOWN = 16; // sliders shown at first
const GRID = 24; // samples
const BATCH = 12; // images decoded at once, or fewer if that would take longer than 100 ms
const MAP = 9; // points on each side of the map that are decoded

let z = Float32Array.from(latents, ({ mean }) => mean);
let pixels = new Float32Array(channels * height * width);
let cost = 0; // milliseconds per image
let ends = [];
let codes = []; // codes of the samples
let steps = []; // steps from the image to each sample around it
let given = null; // the file encoded last
let runtime, decoder, encoder;

// Unpacking

async function unpack(id) {
  const element = $(id);
  const text = element.textContent;
  element.remove();
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function start() {
  const address = URL.createObjectURL(new Blob([await unpack("module")], { type: "text/javascript" }));
  runtime = await import(address);
  runtime.env.wasm.numThreads = 1; // more threads would need HTTP headers, which a file does not have
  runtime.env.wasm.wasmBinary = await unpack("wasm");
  decoder = await runtime.InferenceSession.create(await unpack("decoder"));
  if (encoderModel) encoder = await runtime.InferenceSession.create(await unpack("encoder"));
  build();
  ends = [draw(), draw()];
  resample();
  move(draw());
  ask("ends", drawEnds);
  $("main").inert = false;
  say("");
  await idle();
}

// The model

async function run(session, metadata, rows, shape) {
  const input = new Float32Array(rows.length * shape.reduce((a, b) => a * b, 1));
  rows.forEach((row, i) => input.set(row, (i * input.length) / rows.length));
  const feeds = { [metadata.inputs[0].name]: new runtime.Tensor("float32", input, [rows.length, ...shape]) };
  const output = (await session.run(feeds))[metadata.outputs[0].name];
  const each = output.data.length / rows.length;
  return rows.map((_, i) => output.data.slice(i * each, (i + 1) * each));
}

async function decode(vectors) {
  const images = [];
  while (images.length < vectors.length) {
    if (images.length) await letImagePass();
    const batch = vectors.slice(images.length, images.length + Math.min(BATCH, Math.max(1, Math.floor(100 / cost))));
    const begun = performance.now();
    const decoded = await run(decoder, model, batch, [size]);
    images.push(...decoded.map((image) => image.map((value) => (value - low) / (high - low))));
    cost = (performance.now() - begun) / batch.length;
  }
  return images;
}

async function encode(image) {
  const ranged = image.map((value) => low + (high - low) * value);
  return (await run(encoder, encoderModel, [ranged], [channels, height, width]))[0];
}

const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
const draw = () => (draws ? Float32Array.from(draws[Math.floor(Math.random() * draws.length)]) : Float32Array.from(z, normal));
const mixed = (a, b, t) => a.map((value, i) => (1 - t) * value + t * b[i]);

// Work: one task at a time, for each target only the latest task requested, the image first

const waiting = new Map();
const targets = ["image", "ends", "samples", "map"];
let working = null;
const pause = () => new Promise((resolve) => setTimeout(resolve));

function ask(target, task) {
  waiting.set(target, task);
  working ??= work().finally(() => (working = null));
}

async function work() {
  await pause();
  for (;;) {
    const target = targets.find((each) => waiting.has(each));
    if (!target) return;
    const task = waiting.get(target);
    waiting.delete(target);
    try {
      await task();
    } catch (error) {
      fail(error);
    }
    await pause();
  }
}

// An image that is being moved does not wait for all samples or the whole map.
async function letImagePass() {
  await pause();
  const task = waiting.get("image");
  waiting.delete("image");
  await task?.();
}

async function idle() {
  while (working) await working;
}

// Drawing

function paint(canvas, image) {
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  canvas.classList.toggle("pixelated", Math.max(width, height) <= 128);
  canvas.getContext("2d").putImageData(picture(image), 0, 0);
}

function picture(image) {
  const area = height * width;
  const data = new ImageData(width, height);
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) data.data[4 * i + c] = Math.round(255 * image[channels === 3 ? c * area + i : i]);
    data.data[4 * i + 3] = 255;
  }
  return data;
}

async function drawImage() {
  [pixels] = await decode([z]);
  paint($("picture"), pixels);
}

async function drawEnds() {
  const [a, b] = await decode(ends);
  paint($("a"), a);
  paint($("b"), b);
}

async function drawSamples() {
  const images = await decode(codes);
  images.forEach((image, i) => paint($("grid").children[i].firstChild, image));
}

let mapped = "";
async function drawMap() {
  const [across, up] = axes();
  const key = [across, up, ...z.map((value, i) => (i === across || i === up ? 0 : value))].join();
  if (key === mapped) return;
  const vectors = [];
  for (let row = 0; row < MAP; row++) {
    for (let column = 0; column < MAP; column++) {
      const point = z.slice();
      point[across] = at(across, (column + 0.5) / MAP);
      point[up] = at(up, 1 - (row + 0.5) / MAP);
      vectors.push(point);
    }
  }
  const images = await decode(vectors);
  const canvas = $("map");
  [canvas.width, canvas.height] = [MAP * width, MAP * height];
  const context = canvas.getContext("2d");
  images.forEach((image, i) => context.putImageData(picture(image), (i % MAP) * width, Math.floor(i / MAP) * height));
  mapped = key;
}

// The latent vector

let later = 0;
function move(vector) {
  z = Float32Array.from(vector);
  for (const i of order) show(i);
  showKnob();
  ask("image", drawImage);
  if ($("source").value === "around") follow();
  clearTimeout(later);
  later = setTimeout(() => cost < 25 && ask("map", drawMap), 60);
}

function set(i, value) {
  const vector = z.slice();
  vector[i] = value;
  move(vector);
}

function follow() {
  const reach = Number($("spread").value);
  codes = steps.map((step) => z.map((value, i) => value + reach * latents[i].std * step[i]));
  ask("samples", drawSamples);
}

function resample() {
  steps = Array.from({ length: GRID }, () => Float32Array.from(z, normal));
  if ($("source").value === "around") return follow();
  codes = Array.from({ length: GRID }, draw);
  ask("samples", drawSamples);
}

const at = (i, share) => latents[i].low + share * (latents[i].high - latents[i].low);
const share = (i) => Math.min(1, Math.max(0, (z[i] - latents[i].low) / (latents[i].high - latents[i].low)));
const axes = () => [Number($("across").value), Number($("up").value)];

function show(i) {
  const text = z[i].toFixed(2).replace(/^-(0\.00)$/, "$1");
  $(`z${i}`).value = z[i];
  $(`z${i}`).setAttribute("aria-valuetext", text);
  $(`out${i}`).textContent = text.replace("-", "−");
}

function showKnob() {
  const [across, up] = axes();
  $("knob").style.left = `${100 * share(across)}%`;
  $("knob").style.top = `${100 * (1 - share(up))}%`;
  $("pad").setAttribute("aria-valuemin", latents[across].low.toFixed(2));
  $("pad").setAttribute("aria-valuemax", latents[across].high.toFixed(2));
  $("pad").setAttribute("aria-valuenow", z[across].toFixed(2));
  $("pad").setAttribute("aria-valuetext", `z${across} ${z[across].toFixed(2)}, z${up} ${z[up].toFixed(2)}`);
}

// The parts of the page

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function build() {
  const known = latents.every(({ kl }) => kl !== null);
  const most = Math.max(...latents.map(({ kl }) => kl ?? 0), 1e-9);
  const total = latents.reduce((sum, { kl }) => sum + (kl ?? 0), 0);
  $("facts").textContent =
    `${width} × ${height} ${channels === 3 ? "RGB" : "grey"}, ${size} latents` + (known ? `, ${total.toFixed(1)} nats per image` : "");
  $("order").textContent = known
    ? "The most informative first; bars show the KL divergence of each."
    : "How much information each one carries is unknown.";
  order.forEach((i, rank) => {
    const { low, high, kl } = latents[i];
    const label = make("label", { className: "name", htmlFor: `z${i}`, textContent: `z${i}` });
    if (kl !== null) label.title = `KL ${kl.toFixed(3)} nats`;
    label.style.setProperty("--kl", (kl ?? 0) / most);
    const step = (high - low) / 200;
    const slider = make("input", { type: "range", id: `z${i}`, min: low, max: high, step });
    slider.addEventListener("input", () => set(i, Number(slider.value)));
    const output = make("output", { id: `out${i}` });
    output.setAttribute("for", `z${i}`);
    output.setAttribute("aria-live", "off");
    $("sliders").append(make("div", { className: "latent", hidden: rank >= SHOWN }, label, slider, output));
    for (const id of ["across", "up"]) $(id).append(make("option", { value: i, textContent: `z${i}` }));
  });
  [$("across").value, $("up").value] = [order[0], order[Math.min(1, size - 1)]];
  $("plane").hidden = size < 2;
  $("pad").style.aspectRatio = Math.min(2, Math.max(0.6, width / height));
  $("more").hidden = size <= SHOWN;
  $("more").textContent = `Show all ${size}`;
  $("more").addEventListener("click", () => {
    for (const row of $("sliders").children) row.hidden = false;
    $("more").hidden = true;
    $(`z${order[SHOWN]}`).focus();
  });
  for (let i = 0; i < GRID; i++) {
    const button = make("button", { type: "button", className: "thumb" }, make("canvas"));
    button.setAttribute("aria-label", `Sample ${i + 1}: show it`);
    button.addEventListener("click", () => move(codes[i]));
    $("grid").append(button);
  }
  const { licence, versions, spec } = model;
  $("about-model").textContent =
    `Trained on ${spec.data.dataset.kind}; exported with vaekit ${versions.exported_with.vaekit}.` +
    (licence ? ` Licence of the model: ${licence}.` : "") +
    ` Everything is computed in this page, by ONNX Runtime Web ${about.runtime}; no data are sent.`;
  $("metadata").textContent = JSON.stringify(model, null, 1);
  $("encode").hidden = !encoder;
  listen();
}

function listen() {
  $("random").addEventListener("click", () => move(draw()));
  $("reset").addEventListener("click", () => move(latents.map(({ mean }) => mean)));
  $("download").addEventListener("click", download);
  $("again").addEventListener("click", resample);
  $("spread").addEventListener("input", follow);
  $("source").addEventListener("change", () => {
    $("spread-label").hidden = $("source").value !== "around";
    resample();
  });
  for (const id of ["across", "up"]) $(id).addEventListener("change", () => move(z));
  listenToPad();
  listenToEnds();
  if (encoder) listenToFiles();
}

function listenToPad() {
  const pad = $("pad");
  const put = (x, y) => {
    const [across, up] = axes();
    const vector = z.slice();
    vector[across] = at(across, Math.min(1, Math.max(0, x)));
    vector[up] = at(up, Math.min(1, Math.max(0, y)));
    move(vector);
  };
  const point = (event) => {
    const box = pad.getBoundingClientRect();
    put((event.clientX - box.left) / box.width, 1 - (event.clientY - box.top) / box.height);
  };
  pad.addEventListener("pointerdown", (event) => {
    pad.setPointerCapture(event.pointerId);
    point(event);
  });
  pad.addEventListener("pointermove", (event) => pad.hasPointerCapture(event.pointerId) && point(event));
  pad.addEventListener("keydown", (event) => {
    const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] }[event.key];
    if (!direction) return;
    event.preventDefault();
    const [across, up] = axes();
    const step = event.shiftKey ? 0.1 : 0.02;
    put(share(across) + step * direction[0], share(up) + step * direction[1]);
  });
}

function listenToEnds() {
  const mix = $("mix");
  const take = () => move(mixed(...ends, Number(mix.value)));
  mix.addEventListener("input", take);
  ["a", "b"].forEach((name, i) => {
    $(`set-${name}`).addEventListener("click", () => {
      ends[i] = z.slice();
      mix.value = i;
      ask("ends", drawEnds);
    });
    $(`show-${name}`).addEventListener("click", () => {
      mix.value = i;
      take();
    });
  });
  let timer = 0;
  let way = 1;
  $("play").addEventListener("click", () => {
    const playing = !timer;
    $("play").setAttribute("aria-pressed", playing);
    $("play").textContent = playing ? "Stop" : "Play";
    clearInterval(timer);
    timer = 0;
    if (!playing) return;
    timer = setInterval(() => {
      if (waiting.has("image")) return; // a slow model shows fewer steps
      const t = Number(mix.value) + 0.02 * way;
      if (t <= 0 || t >= 1) way = t <= 0 ? 1 : -1;
      mix.value = Math.min(1, Math.max(0, t));
      take();
    }, 40);
  });
}

function listenToFiles() {
  $("file").addEventListener("change", () => read($("file").files[0]).catch(fail));
  $("invert").addEventListener("change", () => read(given).catch(fail));
  let depth = 0; // nesting depth of the elements under the dragged file
  const mark = (change) => document.body.classList.toggle("dropping", (depth = Math.max(0, depth + change)) > 0);
  addEventListener("dragenter", () => mark(1));
  addEventListener("dragleave", () => mark(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    mark(-depth);
    read(event.dataTransfer.files[0]).catch(fail);
  });
}

async function read(file) {
  if (!file) return;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    $("encoded").textContent = `${file.name} is not an image that this browser can read.`;
    return;
  }
  given = file;
  const image = fitted(bitmap, $("invert").checked);
  $("given").hidden = false;
  paint($("given"), image);
  move(await encode(image));
  await idle();
  const gap = pixels.reduce((sum, value, i) => sum + (value - image[i]) ** 2, 0) / pixels.length;
  $("encoded").textContent = `${file.name} is encoded. Root mean square error of its reconstruction: ${Math.sqrt(gap).toFixed(3)}.`;
}

// The centre of a bitmap at the model's size, in the format that the model takes.
function fitted(bitmap, inverted) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  const scale = Math.max(width / bitmap.width, height / bitmap.height);
  const [w, h] = [bitmap.width * scale, bitmap.height * scale];
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, (width - w) / 2, (height - h) / 2, w, h);
  const { data } = context.getImageData(0, 0, width, height);
  const area = height * width;
  const image = new Float32Array(channels * area);
  for (let i = 0; i < area; i++) {
    const rgb = [0, 1, 2].map((c) => (inverted ? 255 - data[4 * i + c] : data[4 * i + c]) / 255);
    if (channels === 3) rgb.forEach((value, c) => (image[c * area + i] = value));
    else image[i] = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2];
  }
  return image;
}

async function download() {
  await idle();
  const factor = Math.max(1, Math.floor(512 / Math.max(width, height)));
  const canvas = make("canvas", { width: factor * width, height: factor * height });
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage($("picture"), 0, 0, canvas.width, canvas.height);
  const link = make("a", { href: canvas.toDataURL("image/png"), download: `${model.spec.data.dataset.kind}.png` });
  link.click();
}

function say(text, failed = false) {
  $("status").textContent = text;
  $("status").classList.toggle("failed", failed);
}

function fail(error) {
  const old = typeof DecompressionStream === "undefined" ? "This browser is too old: it lacks DecompressionStream. " : "";
  say(`${old}The page failed: ${error?.message ?? error}`, true);
  console.error(error);
}

const ready = start();
ready.catch(fail);

// For programs that drive the page.
window.playground = {
  ready,
  latents: () => Array.from(z),
  setLatent: async (i, value) => (set(i, value), idle()),
  setLatents: async (values) => (move(values), idle()),
  pixels: () => Array.from(pixels),
  encode: async (image) => Array.from(await encode(image)),
};
