// The page of a generator in the browser: sample, interpolate, translate, camera, save. All work is done by ganedge.js.

import { load, scaled } from "./ganedge.js";

const get = (id) => document.getElementById(id);
const STEPS = 25, CAMERA_SIDE = 320, MAX_PIXELS = 768 * 768;
const KINDS = { "latent-to-image": "New pictures", "image-to-image": "Pictures to pictures", "latent-to-points": "New points" };
const ENGINES = { wasm: "WASM", webgpu: "WebGPU" };
let generator = null, items = null, newest = 0, timer = 0, moving = false, last = null, stream = null;
const beside = {}; // Masks and further pictures, by the name of their input.

function say(text, state = "busy") {
  get("status").textContent = text;
  get("status").dataset.state = state;
  get("status").classList.toggle("wrong", state === "wrong");
}

function showProgress({ phase, file, loaded, total, done }) {
  const bar = get("progress"), part = phase === "tile" ? done : loaded;
  bar.hidden = false;
  if (total && part <= total) Object.assign(bar, { max: total, value: part });
  else bar.removeAttribute("value");
  if (phase === "download") say(`Downloading ${file}: ${(loaded / 1e6).toFixed(1)} MB${total ? ` of ${(total / 1e6).toFixed(1)}` : ""} …`);
  if (phase === "start") say("Preparing the generator …");
  if (phase === "first") say("Compiling for the GPU …");
  if (phase === "tile" && total > 1) say(`Tile ${done} of ${total} …`);
}

/** Run one piece of work; of several at once the newest is shown. */
async function work(text, task) {
  const mine = ++newest;
  say(text);
  const begin = performance.now();
  try {
    const result = await task();
    if (mine !== newest) return null;
    say(`Done in ${((performance.now() - begin) / 1000).toFixed(2)} s with ${ENGINES[generator.engine]}.`, "done");
    return result;
  } catch (error) {
    if (mine === newest) {
      say(error.message, "wrong");
      for (const id of ["shrink", "tile"]) get(id).hidden = error.code !== "tiles";
    }
    return null;
  } finally {
    if (mine === newest) get("progress").hidden = true;
  }
}

/** Let the browser save what a canvas shows. */
function save(canvas, name) {
  canvas.toBlob((blob) => {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });
}

// Latents.

function seed(id) {
  const value = Number(get(id).value);
  if (get(id).value === "" || !Number.isInteger(value) || value < 0 || value > 4294967295) throw new Error("A seed is a whole number from 0 to 4294967295.");
  return value;
}

function number(id) { return Number(get(id).value); }

const points = () => generator.manifest.interface.kind === "latent-to-points";
const several = () => number("count") > 1 || points();
/** Whether what lies between the two seeds is looked at; until then one picture is drawn, the first. */
const between = () => !several() && number("position") > 0;

async function draw() {
  const options = {};
  if (generator.manifest.interface.classes.length && get("class").value !== "") options.label = number("class");
  if (number("truncation") < Number(get("truncation").max)) options.truncation = number("truncation");
  const made = await work("Drawing …", () => {
    if (between()) return generator.interpolate(seed("seed-a"), seed("seed-b"), STEPS, { ...options, label: options.label ?? firstClass() });
    return generator.sample(points() ? 16 * number("count") : number("count"), { seed: seed("seed-a"), ...options });
  });
  if (made) items = made;
  show();
}

function firstClass() { return generator.manifest.interface.classes.length ? 0 : undefined; }

function show() {
  get("position-text").textContent = `${Math.round((100 * number("position")) / (STEPS - 1))} %`;
  get("count-text").textContent = points() ? 16 * number("count") : number("count");
  get("truncation-text").textContent = number("truncation") < Number(get("truncation").max) ? number("truncation").toFixed(2) : "as trained";
  get("between").hidden = get("to").hidden = several();
  if (!items) return;
  if (points()) showPoints(get("picture"), items);
  else showGrid(get("picture"), several() ? items : [items[Math.min(number("position"), items.length - 1)]]);
  get("save").disabled = false;
}

function showGrid(canvas, pictures) {
  const { width, height } = pictures[0], columns = Math.ceil(Math.sqrt(pictures.length)), gap = width <= 32 ? 1 : 2;
  canvas.width = columns * (width + gap) - gap;
  canvas.height = Math.ceil(pictures.length / columns) * (height + gap) - gap;
  canvas.classList.toggle("small", width <= 128);
  pictures.forEach((picture, i) => canvas.getContext("2d").putImageData(picture, (i % columns) * (width + gap), Math.floor(i / columns) * (height + gap)));
}

function showPoints(canvas, values) {
  const side = canvas.width = canvas.height = 512, context = canvas.getContext("2d");
  const reach = 1.1 * values.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-9);
  context.fillStyle = getComputedStyle(canvas).color;
  for (let i = 0; i < values.length; i += 2) {
    context.beginPath();
    context.arc((side / 2) * (1 + values[i] / reach), (side / 2) * (1 - values[i + 1] / reach), 3, 0, 2 * Math.PI);
    context.fill();
  }
}

function later() {
  show();
  clearTimeout(timer);
  timer = setTimeout(draw, 150);
}

/** Show another place between the seeds, and draw all of them when the first is looked at. */
async function move() {
  show();
  if (moving || !between() || items?.length === STEPS) return;
  moving = true;
  await draw();
  moving = false;
}

function prepareLatent({ classes, noise }) {
  get("latent").hidden = false;
  get("classes").hidden = !classes.length;
  get("class").add(new Option("all in turn", ""));
  classes.forEach((name, index) => get("class").add(new Option(name, index)));
  if (classes.length) get("count").value = Math.min(classes.length, 64);
  if (points()) Object.assign(get("count"), { value: 32 });
  if (noise === "uniform") Object.assign(get("truncation"), { max: 1, value: 1, step: 0.05 });
  if (needed(truncates).length) Object.assign(get("truncation"), { min: 0, max: 1, value: 1, step: 0.05 });
  for (const id of ["seed-a", "seed-b", "class", "truncation", "count"]) get(id).addEventListener("input", later);
  get("position").addEventListener("input", move);
  get("new").addEventListener("click", () => {
    for (const id of ["seed-a", "seed-b"]) get(id).value = Math.floor(Math.random() * 1e6);
    draw();
  });
  get("save").addEventListener("click", () => save(get("picture"), "generated.png"));
  return draw();
}

// Pictures.

function showPicture(id, image) {
  Object.assign(get(id), { width: image.width, height: image.height }).getContext("2d").putImageData(image, 0, 0);
}

async function translate(source, options = {}) {
  for (const id of ["shrink", "tile"]) get(id).hidden = true;
  const result = await work("Translating …", async () => {
    const image = source instanceof ImageData ? source : await read(source);
    last = image;
    get("pair").hidden = false;
    showPicture("before", image);
    const missing = needed(isPicture).find(({ name }) => !beside[name]);
    if (missing) throw new Error(`This generator also takes a ${missing.role === "mask" ? "mask" : "second picture"}: choose one for ${missing.name}.`);
    const label = needed(isLabel).length ? number("style") : undefined;
    const { multiple = 1 } = generator.manifest.interface.inputs[0], up = (side) => Math.ceil(side / multiple) * multiple;
    const outputs = extraPictures().length > 0 && up(image.width) * up(image.height) <= MAX_PIXELS; // Tiles make the result alone.
    return generator.translate(image, { outputs, resize: true, maxPixels: MAX_PIXELS, label, seed: seed("style-seed"), inputs: beside, ...options });
  });
  get("translated").hidden = !result;
  if (!result) return false;
  const outputs = generator.manifest.interface.outputs;
  const [made, ...extras] = result instanceof ImageData ? [result] : outputs.map(({ name }) => result[name]);
  showPicture("after", made);
  for (const { index } of extraPictures()) {
    get(`extra-${index}`).parentElement.hidden = !extras.length;
    if (extras.length) showPicture(`extra-${index}`, extras[index]);
  }
  get("keep").disabled = false;
  return true;
}

async function read(file) {
  const bitmap = await createImageBitmap(file).catch(() => { throw new Error(`${file.name} is no picture that this browser can read.`); });
  return frame(bitmap, bitmap.width, bitmap.height);
}

function frame(source, width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(source, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

function shrink() {
  const factor = Math.sqrt(MAX_PIXELS / (last.width * last.height)) * 0.98;
  return translate(scaled(last, Math.max(1, Math.floor(factor * last.width)), Math.max(1, Math.floor(factor * last.height))));
}

async function toggleCamera() {
  if (stream) return stopCamera();
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: CAMERA_SIDE }, facingMode: "environment" } });
  } catch (error) {
    return say(`The camera cannot be used: ${error.message}`, "wrong");
  }
  const video = get("video");
  video.srcObject = stream;
  await video.play();
  get("camera").textContent = "Stop the camera";
  while (stream) { // One frame after the other: the next is taken when the last was shown.
    const factor = Math.min(1, CAMERA_SIDE / Math.max(video.videoWidth, video.videoHeight));
    if (!await translate(frame(video, Math.round(factor * video.videoWidth), Math.round(factor * video.videoHeight)))) stopCamera();
  }
}

function stopCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  get("camera").textContent = "Use the camera";
}

function isPicture({ role }) { return role === "image" || role === "mask"; }
function isLabel({ role }) { return role === "label"; }
function isDrawn({ distribution }) { return Boolean(distribution); }

/** Inputs beside the first. */
function needed(kind) { return generator.manifest.interface.inputs.slice(1).filter(kind); }

function prepareBeside(classes) {
  const again = () => last && translate(last);
  get("styles").hidden = !needed(isLabel).length;
  get("style-label").hidden = !needed(isDrawn).length;
  get("beside").hidden = get("styles").hidden && get("style-label").hidden && !needed(isPicture).length;
  classes.forEach((name, index) => get("style").add(new Option(name, index)));
  for (const id of ["style", "style-seed"]) get(id).addEventListener("input", again);
  for (const { name, role } of needed(isPicture)) {
    const label = document.createElement("label"), input = Object.assign(document.createElement("input"), { type: "file", accept: "image/*" });
    label.append(role === "mask" ? `Mask ${name} (white is 1) ` : `Picture ${name} `, input);
    get("beside").append(label);
    input.addEventListener("change", async () => {
      beside[name] = input.files.length ? await read(input.files[0]).catch((error) => { say(error.message, "wrong"); }) : undefined;
      if (beside[name]) again();
    });
  }
}

/** The outputs beside the result that can be shown, each with its index among them. */
function extraPictures() {
  const extras = generator.manifest.interface.outputs.slice(1).map((port, index) => ({ ...port, index }));
  return extras.filter((port) => isPicture(port) && [1, 3, 4].includes(port.shape[port.layout === "NCHW" ? 1 : 3]));
}

function prepareExtras() {
  for (const { name, index } of extraPictures()) {
    const figure = Object.assign(document.createElement("figure"), { className: "card" });
    const caption = document.createElement("figcaption"), canvas = Object.assign(document.createElement("canvas"), { id: `extra-${index}`, className: "show" });
    caption.textContent = name;
    figure.append(caption, canvas);
    get("pair").append(figure);
  }
}

/** Whether an input truncates latents inside of the generator, as in StyleGAN's W: from 0, the mean, to 1, as trained. */
function truncates({ name, role, shape }) { return name === "truncation" && role === "vector" && String(shape.slice(1)) === "1"; }

function preparePictures({ classes }) {
  get("pictures").hidden = false;
  prepareExtras();
  prepareBeside(classes);
  get("file").addEventListener("change", () => { if (get("file").files.length) translate(get("file").files[0]); });
  for (const name of ["dragover", "drop", "dragleave"]) {
    window.addEventListener(name, (event) => {
      event.preventDefault();
      get("drop").classList.toggle("over", name === "dragover");
      if (name === "drop" && event.dataTransfer.files.length) translate(event.dataTransfer.files[0]);
    });
  }
  get("keep").addEventListener("click", () => save(get("after"), "translated.png"));
  get("shrink").addEventListener("click", shrink);
  get("tile").addEventListener("click", () => translate(last, { tiles: "always" }));
  get("camera").addEventListener("click", toggleCamera);
  if (!navigator.mediaDevices) {
    get("camera").disabled = true;
    get("camera-note").hidden = false;
    get("camera-note").textContent = window.isSecureContext ? "This browser has no camera access." : "The camera needs HTTPS or localhost.";
  }
  say(`Ready, with ${ENGINES[generator.engine]}.`, "done");
}

// Start.

async function description() {
  const answer = await fetch("ganedge.json").catch(() => null);
  if (!answer?.ok) throw new Error("ganedge.json is missing: this folder was not copied whole, or its export did not end.");
  return answer.json();
}

async function start() {
  const asked = new URLSearchParams(location.search).get("engine");
  const about = await description();
  const refused = asked === null && Array.isArray(about.refused) && about.refused.includes("webgpu");
  const opening = load("generator.onnx", { engine: asked ?? (refused ? "wasm" : "auto"), digest: String(about.digest), progress: showProgress });
  generator = await opening.catch((error) => {
    if (error.code === "browser" && asked === "webgpu") error.message += ": take ?engine=wasm";
    throw error;
  });
  get("progress").hidden = true;
  const { interface: { kind, inputs, classes = [], noise }, source = {}, precision } = generator.manifest;
  document.title = get("title").textContent = KINDS[kind];
  const notes = [
    source.variant, source.data, precision, ENGINES[generator.engine], generator.note,
    refused ? "WebGPU did not pass at the export" : "",
    generator.engine === "webgpu" && about.untested?.webgpu ? "WebGPU was not proven at the export, where no GPU could compute it" : "",
    generator.manifest.checked ? "" : "its digest is not checked, which needs HTTPS or localhost",
  ];
  get("about").textContent = notes.filter(Boolean).join(" · ");
  const translates = kind === "image-to-image", given = (port) => isLabel(port) || isDrawn(port) || (noise && truncates(port)) || (translates && isPicture(port));
  const missing = inputs.slice(1).filter((port) => !given(port)).map(({ name, role }) => `${name} (${role})`);
  if (missing.length) throw new Error(`This generator also takes ${missing.join(", ")}, which this page cannot give: use ganedge.js.`);
  await (translates ? preparePictures : prepareLatent)({ classes, noise });
}

start().catch((error) => {
  get("progress").hidden = true;
  say(error.message, "wrong");
});
