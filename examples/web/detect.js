// Detect in an image that the user chooses, with a model of `ssd-jax export --out=detector.onnx`.

import { readMetadata } from "./metadata.js";

const [file, score, least, status, canvas, list] = ["file", "score", "least", "status", "canvas", "list"].map((id) =>
  document.getElementById(id),
);
let model, image, found;

async function load() {
  const answer = await fetch("detector.onnx");
  if (!answer.ok) throw new Error(`detector.onnx: ${answer.status} ${answer.statusText}`);
  const bytes = new Uint8Array(await answer.arrayBuffer());
  const { class_names: names, image_size: size } = readMetadata(bytes);
  ort.env.wasm.wasmPaths = new URL("node_modules/onnxruntime-web/dist/", location).href;
  const [height, width] = Array.isArray(size) ? size : [size, size]; // of a square one number
  model = { names, height, width, session: await ort.InferenceSession.create(bytes) };
}

/** Resize an image to the model's input: RGB uint8 [1, height, width, 3]. */
function toInput(image, { height, width }) {
  const small = new OffscreenCanvas(width, height).getContext("2d");
  small.drawImage(image, 0, 0, width, height);
  const pixels = small.getImageData(0, 0, width, height).data; // RGBA
  const rgb = new Uint8Array(height * width * 3);
  for (let k = 0; k < height * width; k++) for (let c = 0; c < 3; c++) rgb[3 * k + c] = pixels[4 * k + c];
  return new ort.Tensor("uint8", rgb, [1, height, width, 3]);
}

async function detect() {
  const start = performance.now();
  const { boxes, scores, labels } = await model.session.run({ images: toInput(image, model) });
  found = Array.from(scores.data, (score, k) => ({
    score,
    name: model.names[labels.data[k] - 1],
    box: boxes.data.slice(4 * k, 4 * k + 4), // fractions of the sides
  }));
  status.textContent = `${Math.round(performance.now() - start)} ms`;
  draw();
}

function draw() {
  [canvas.width, canvas.height] = [image.width, image.height];
  least.value = Number(score.value).toFixed(2);
  list.replaceChildren();
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  context.lineWidth = Math.max(2, image.width / 300);
  context.font = `${Math.max(12, image.width / 40)}px sans-serif`;
  for (const { score: value, name, box } of found.filter(({ score: value }) => value > score.value)) {
    const [x0, y0, x1, y1] = box.map((side, k) => side * (k % 2 ? image.height : image.width));
    context.strokeStyle = context.fillStyle = `hsl(${(model.names.indexOf(name) * 137) % 360} 80% 40%)`;
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    context.fillText(`${name} ${value.toFixed(2)}`, x0, Math.max(y0 - 4, 16));
    const item = document.createElement("li");
    item.textContent = `${name} ${value.toFixed(3)} ${[x0, y0, x1, y1].map((v) => v.toFixed(1)).join(" ")}`;
    list.append(item);
  }
}

async function show(blob) {
  status.textContent = "Detecting.";
  try {
    image = await createImageBitmap(blob);
    await detect();
  } catch (error) {
    status.textContent = `The image must be one that the browser can decode; got: ${error.message}`;
  }
}

file.addEventListener("change", () => file.files[0] && show(file.files[0]));
score.addEventListener("input", () => found && draw());
try {
  await load();
  status.textContent = "Choose an image.";
  const address = new URLSearchParams(location.search).get("image"); // ?image=photo.jpg
  if (address) await show(await (await fetch(address)).blob());
} catch (error) {
  status.textContent = `The model could not be loaded: ${error.message}`;
}
