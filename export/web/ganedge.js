// ganedge.js: run an artifact that gan-export wrote, in a browser. One module, no build step.
//
//     const generator = await load("generator.onnx");
//     const pictures = await generator.sample(4, { seed: 0 });   // ImageData, of the same latents as in Python
//     const image = await generator.translate(canvas);           // ImageData at the canvas's own size
//
// `load` starts this file again as a worker, which downloads, checks and runs the artifact.

/** onnxruntime-web: where it comes from, and the hash of each file. `gan-export --vendor` writes another `base`. */
const RUNTIME = {
  "version": "1.30.0",
  "base": "https://cdn.jsdelivr.net/npm/onnxruntime-web@1.30.0/dist/",
  "wasm": {
    "ort.wasm.bundle.min.mjs": "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
    "ort-wasm-simd-threaded.wasm": "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM"
  },
  "webgpu": {
    "ort.webgpu.bundle.min.mjs": "sha384-1ntMeyj+z5diX6vBR5h+zlJBPc4iNvhCxE6nlammh8daBYcLBZkzrwDkuJjhwI+f",
    "ort-wasm-simd-threaded.asyncify.wasm": "sha384-EPVDLTxuO663dkZO/pcKJF6vOyyfq/5z9FY1oksN0UWFX2ABH4wDDZQHeNoUleWR"
  }
};

const SCHEMA = 3, MAX_INNER_TRUNCATION = 2, MAX_SIDE = 65536, MAX_ITEMS = 2 ** 20, MAX_SEED = 2 ** 32 - 1, MIN_TRUNCATION = 0.01;
const BATCH_ELEMENTS = 2 ** 22, MAX_BATCH = 64; // In one run of the engine.
const FEATHER = 16, CONTEXT = 64; // Pixels in which two tiles fade into each other, and that a tile sees beyond its own.
const SCALES = [1, 2, 4, 3, 8, 0.5, 1.5, 0.25]; // That are looked for where a border is missing.
const TRIED = 64; // Side of the pictures of a first run, pixels.
const NOT_FINITE = "the generator gave NaN or infinite values: try the other engine, or a higher precision";
const KINDS = ["latent-to-image", "image-to-image", "latent-to-points"];
const ROLES = ["latent", "label", "image", "points", "mask", "vector", "noise", "values"], NOISES = ["normal", "uniform"];
const TYPES = { float32: Float32Array, uint8: Uint8Array, int32: Int32Array, int64: globalThis.BigInt64Array };

/** An error that a person can fix; its `code`: browser, download, artifact, digest, engine, usage, tiles or output. */
function fail(code, message) { return Object.assign(new Error(message), { name: "GanEdgeError", code }); }

function check(holds, code, message) {
  if (!holds) throw fail(code, message);
}

// The page's side.

/**
 * Open an artifact, given by its URL relative to the page.
 *
 * Options: engine ("auto" takes WebGPU where there is one, else "wasm"); digest (refuse an artifact with another); threads
 * (of WASM; more than one needs a cross-origin isolated page); progress, called with { phase, file, loaded, total } or
 * { phase, done, total }, where phase is download, start (preparing the graph), first (compiling in a first run) or tile.
 */
export async function load(url = "generator.onnx", { engine = "auto", digest, threads, progress = () => {} } = {}) {
  check(["auto", "wasm", "webgpu"].includes(engine), "usage", `engine ${engine}: choose auto, wasm or webgpu`);
  for (const name of ["WebAssembly", "Worker", "BigInt64Array"]) check(globalThis[name], "browser", `this browser has no ${name}: use a current one`);
  const generator = new Generator(new Worker(import.meta.url, { type: "module", name: "ganedge" }), progress);
  try {
    const base = globalThis.document?.baseURI ?? globalThis.location.href;
    Object.assign(generator, await generator.call("open", { url: new URL(url, base).href, engine, digest, threads }));
  } catch (error) {
    generator.close();
    throw error;
  }
  return generator;
}

/** An artifact in an engine, with its `manifest`, its `engine` (wasm or webgpu) and a `note` on why another engine was taken, if so. */
export class Generator {
  #worker; #progress; #calls = new Map(); #next = 0; #end = null;

  constructor(worker, progress) {
    this.#worker = worker;
    this.#progress = progress;
    worker.onmessage = ({ data }) => this.#answer(data);
    worker.onerror = ({ message }) => this.#finish(fail("browser", `the worker did not start: ${message || "this browser may lack module workers"}`));
  }

  /**
   * Draw n items: ImageData[], or points as a Float32Array of x, y, x, y, … Options: seed; label (number or name of a class;
   * without it all in turn); truncation (keep latents within ± this, or what goes into an input of that name, 0 to 2);
   * inputs (numbers for vectors, by the input's name; without them they are drawn from the seed); outputs (true for all
   * outputs by their names: ImageData[] of pictures and masks, { data, dims } of other values).
   */
  sample(n = 1, options = {}) { return this.call("sample", { n, ...options }); }

  /** Go from one seed's first item to another's; options as in `sample`. */
  interpolate(seedA, seedB, steps, options = {}) { return this.call("interpolate", { seedA, seedB, steps, ...options }); }

  /** The latents that `sample` draws, Float32Array [n, ...]. */
  latents(n, options = {}) { return this.call("latents", { n, ...options }); }

  /** The bare output { data, dims } of one batch, from { data, dims } by input name, as the manifest has them. */
  run(arrays) { return this.call("run", { arrays }); }

  /** As `run`, for every output by its name. */
  runAll(arrays) { return this.call("runAll", { arrays }); }

  /**
   * Turn a picture (ImageData, Blob, canvas, image, video) into another: ImageData at its own size times the scale.
   * Options: resize (to the one size that a generator takes, and back); tiles, for more than maxPixels: "auto" refuses them
   * where the generator normalises over the whole picture, "always", "never"; overlap (of tiles, pixels); label; inputs
   * (masks and further pictures, or numbers for vectors, by the input's name); seed (of vectors and noise left out);
   * outputs (true for all outputs by their names: ImageData of pictures and masks, { data, dims } of other values; then
   * the picture is computed whole).
   */
  async translate(picture, { resize = false, inputs = {}, ...options } = {}) {
    const { inputs: [port, ...further] } = this.manifest.interface;
    check(port.role === "image", "usage", "this generator takes no picture: call sample");
    const image = await pixelsOf(picture), [height, width] = fitted(port, image), beside = {};
    check(resize || (width === image.width && height === image.height), "usage", `this generator takes ${width} × ${height} pixels: ask for resize`);
    for (const other of further.filter(isPicture)) {
      check(inputs[other.name], "usage", `this generator also takes a ${other.role}: give inputs: { ${other.name}: … }`);
      const pixels = await pixelsOf(inputs[other.name]), aligned = isAligned(other, port);
      check(!aligned || resize || (pixels.width === width && pixels.height === height), "usage",
        `${other.name} has ${pixels.width} × ${pixels.height} pixels and the picture ${width} × ${height}: ask for resize`);
      const [tall, wide] = aligned ? [height, width] : fitted(other, pixels);
      beside[other.name] = scaled(pixels, wide, tall);
    }
    const result = await this.call("translate", { image: scaled(image, width, height), ...options, inputs: { ...inputs, ...beside } });
    const [x, y] = [image.width / width, image.height / height];
    const back = (made) => (made.width ? scaled(made, Math.max(1, Math.round(x * made.width)), Math.max(1, Math.round(y * made.height))) : made);
    return options.outputs ? Object.fromEntries(Object.entries(result).map(([name, made]) => [name, back(made)])) : back(result);
  }

  close() { this.#finish(fail("usage", "this generator is closed: load it again")); }

  /** Ask the worker for a method of `Model`. */
  call(method, argument) {
    if (this.#end) return Promise.reject(this.#end);
    return new Promise((resolve, reject) => {
      this.#calls.set(++this.#next, { resolve, reject });
      this.#worker.postMessage({ id: this.#next, method, argument });
    });
  }

  #answer({ id, result, error, progress }) {
    if (progress) return this.#progress(progress);
    const { resolve, reject } = this.#calls.get(id);
    this.#calls.delete(id);
    return error ? reject(fail(error.code, error.message)) : resolve(result);
  }

  #finish(error) {
    this.#end ??= error;
    this.#worker.terminate();
    for (const { reject } of this.#calls.values()) reject(this.#end);
    this.#calls.clear();
  }
}

function contextOf(width, height) {
  const canvas = globalThis.document ? Object.assign(document.createElement("canvas"), { width, height }) : new OffscreenCanvas(width, height);
  return canvas.getContext("2d", { willReadFrequently: true });
}

async function pixelsOf(picture) {
  if (picture instanceof ImageData) return picture;
  const source = picture instanceof Blob ? await createImageBitmap(picture).catch(() => ({})) : picture;
  const width = source.naturalWidth ?? source.videoWidth ?? source.width, height = source.naturalHeight ?? source.videoHeight ?? source.height;
  check(width > 0 && height > 0, "usage", "this is no picture that the browser can read, or it is not loaded yet");
  const context = contextOf(width, height);
  context.drawImage(source, 0, 0);
  return context.getImageData(0, 0, width, height);
}

/** ImageData at another size. */
export function scaled(image, width, height) {
  if (width === image.width && height === image.height) return image;
  const from = contextOf(image.width, image.height), context = contextOf(width, height);
  from.putImageData(image, 0, 0);
  context.imageSmoothingQuality = "high";
  context.drawImage(from.canvas, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

/** Height and width of a picture, mask or noise map; a string where they are open. */
function sides({ layout, shape }) { return layout === "NCHW" ? shape.slice(2) : shape.slice(1, 3); }

/** Height and width that a port takes of a picture. */
function fitted(port, { width, height }) { return sides(port).map((side, axis) => fixedOf(side) ?? [height, width][axis]); }

function isPicture({ role }) { return role === "image" || role === "mask"; }

/** Whether an input says how far latents stay from their mean inside of the generator, as ganedge.runtime.conditions has it. */
function isTruncation({ name, role, shape }, { noise }) { return Boolean(noise) && role === "vector" && name === "truncation" && String(shape.slice(1)) === "1"; }

/** Whether a further input lies over the first, pixel for pixel. */
function isAligned(port, first) { return port.shape.length === 4 && isPicture(first) && String(sides(port)) === String(sides(first)); }

function fixedOf(size) { return typeof size === "number" ? size : undefined; }

function channelsOf({ layout, shape }) { return shape[layout === "NCHW" ? 1 : 3]; }

function shownChannels(port) {
  const channels = channelsOf(port);
  check([1, 3, 4].includes(channels), "usage", `${port.name} has ${channels} channels, which no picture of a browser has: call run`);
  return channels;
}

// Latents, as NumPy draws them.

/** NumPy's RandomState: MT19937 and the polar method. */
class RandomState {
  #key = new Uint32Array(624); #position = 624; #spare = null;

  constructor(seed) {
    for (let i = 0, value = seed >>> 0; i < 624; i++) {
      this.#key[i] = value;
      value = (Math.imul(1812433253, value ^ (value >>> 30)) + i + 1) >>> 0;
    }
  }

  #word() {
    const key = this.#key;
    if (this.#position === 624) {
      for (let i = 0; i < 624; i++) {
        const y = (key[i] & 0x80000000) | (key[(i + 1) % 624] & 0x7fffffff);
        key[i] = key[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      this.#position = 0;
    }
    let y = key[this.#position++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  /** Uniform over 0 to 1, 53 bits. */
  double() { return ((this.#word() >>> 5) * 67108864 + (this.#word() >>> 6)) / 9007199254740992; }

  normal() {
    if (this.#spare !== null) {
      const spare = this.#spare;
      this.#spare = null;
      return spare;
    }
    let a, b, square;
    do {
      a = 2 * this.double() - 1;
      b = 2 * this.double() - 1;
      square = a * a + b * b;
    } while (square >= 1 || square === 0);
    const factor = Math.sqrt((-2 * log(square)) / square);
    this.#spare = factor * a;
    return factor * b;
  }
}

/** The logarithm of 0 < x < 1, rounded as libm does but for few values; Math.log differs more, and by browser. */
function log(x) {
  let m = x, k = 0;
  while (m < Math.SQRT1_2) { m *= 2; k--; }
  // log m = 2 artanh s with s = (m - 1) / (m + 1), whose leading term is kept in two numbers.
  const n = m - 1, d = m + 1, s = n / d, rest = (residue(n, s, d) - s * (m - (d - 1))) / d;
  const z = s * s;
  let series = 0;
  for (let i = 27; i >= 3; i -= 2) series = z * (series + 1 / i);
  const low = k * 1.90821492927058770002e-10 + 2 * (rest + s * series);
  const high = k * 6.93147180369123816490e-01, sum = high + 2 * s; // The product is exact: the constant ends in zeros.
  return sum + (high + (2 * s - sum) + low);
}

/** n - s * d without rounding the product (Dekker 1971). */
function residue(n, s, d) {
  const halves = (v) => { const c = 134217729 * v, h = c - (c - v); return [h, v - h]; };
  const [sh, sl] = halves(s), [dh, dl] = halves(d), product = s * d;
  return n - product - (((sh * dh - product) + sh * dl + sl * dh) + sl * dl);
}

function anySeed() { return Math.floor(Math.random() * 2 ** 32); }

/** The seed of a generator's input, counted from 0, as ganedge.runtime.latents has it. */
function seedOf(index, seed) { return (seed + 0x9e3779b1 * index) % 2 ** 32; }

/** Latents as ganedge.runtime.latents draws them. */
class LatentStream {
  constructor(noise, size, seed, truncation) {
    const most = noise === "uniform" ? 1 : Infinity;
    check(truncation === undefined || (truncation >= MIN_TRUNCATION && truncation <= most), "usage", `truncation ${truncation}: give ${MIN_TRUNCATION} to ${most}`);
    check(Number.isInteger(seed) && seed >= 0 && seed <= MAX_SEED, "usage", `seed ${seed} is out of range: give 0 to ${MAX_SEED}`);
    Object.assign(this, { noise, size, truncation, random: new RandomState(seed) });
  }

  take(count) {
    const { noise, random, size, truncation } = this;
    const values = new Float32Array(count * size);
    if (noise === "uniform") {
      const factor = Math.fround(truncation ?? 1);
      for (let i = 0; i < values.length; i++) values[i] = Math.fround(-1 + 2 * random.double()) * factor;
      return values;
    }
    for (let begin = 0; begin < values.length; begin += size) {
      const item = Float64Array.from({ length: size }, () => random.normal());
      // Values outside are drawn again, all of them in turn, until none is.
      for (let outside = [0]; truncation !== undefined && outside.length;) {
        outside = [...item.keys()].filter((i) => Math.abs(item[i]) > truncation);
        for (const i of outside) item[i] = random.normal();
      }
      values.set(item, begin);
    }
    return values;
  }
}

/** From one latent to another: along the arc between normal ones, straight between uniform ones. */
function between(noise, start, end, steps) {
  const a = Float64Array.from(start), b = Float64Array.from(end);
  const dot = (u, v) => u.reduce((sum, value, i) => sum + value * v[i], 0);
  const lengths = Math.sqrt(dot(a, a)) * Math.sqrt(dot(b, b));
  const angle = lengths ? Math.acos(Math.min(1, Math.max(-1, dot(a, b) / lengths))) : 0;
  const arc = noise !== "uniform" && Math.sin(angle) >= 1e-6;
  const path = new Float32Array(steps * a.length);
  for (let step = 0; step < steps; step++) {
    const t = step === steps - 1 ? 1 : step * (1 / (steps - 1));
    const [u, v] = arc ? [Math.sin((1 - t) * angle) / Math.sin(angle), Math.sin(t * angle) / Math.sin(angle)] : [1 - t, t];
    for (let i = 0; i < a.length; i++) path[step * a.length + i] = u * a[i] + v * b[i];
  }
  return path;
}

// The manifest.

/** The fields of one protocol-buffers message: number, start, value (bytes) and end of each. */
function* fieldsOf(bytes) {
  let position = 0;
  const varint = () => {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = bytes[position++];
      value += (byte & 127) * 2 ** shift;
      if (byte < 128) return value;
    }
    return NaN;
  };
  while (position < bytes.length) {
    const start = position, key = varint(), wire = key % 8;
    let value = null;
    if (wire === 0) varint();
    else if (wire === 2) {
      const length = varint();
      value = bytes.subarray(position, position + length);
      position += length;
    } else position += { 1: 8, 5: 4 }[wire] ?? NaN;
    check(position <= bytes.length && key >= 8, "artifact", "this is no ONNX model, or it is cut off");
    yield { number: Math.floor(key / 8), start, value, end: position };
  }
}

/** Read an artifact's manifest and check its digest, which covers graph, weights and manifest. */
async function readArtifact(bytes, expected) {
  const body = [], decoder = new TextDecoder();
  let text = null;
  for (const { number, start, value, end } of fieldsOf(bytes)) {
    if (number !== 14 || value === null) {
      body.push(bytes.subarray(start, end));
      continue;
    }
    const entry = Object.fromEntries([...fieldsOf(value)].map((field) => [field.number, decoder.decode(field.value ?? new Uint8Array())]));
    if (entry[1] === "ganedge") text = entry[2];
  }
  check(text !== null, "artifact", "this ONNX model has no ganedge manifest: export it with gan-export");
  let manifest = null;
  try { manifest = JSON.parse(text); } catch { /* It is none, which is found out below. */ }
  checkManifest(manifest);
  const digest = await sha256([text.replace(`"digest":"${manifest.digest}"`, '"digest":""'), ...body]);
  check(!digest || `sha256:${digest}` === manifest.digest, "digest", "the digest does not match: the file is damaged or was edited; export it again");
  check(!expected || expected === manifest.digest, "digest", "the digest does not match: this is another artifact than the one that was exported here; export the folder again");
  manifest.checked = Boolean(digest);
  return manifest;
}

/** Check every field that is used here: a manifest is input from elsewhere. */
function checkManifest(manifest) {
  const must = (holds, what) => check(holds, "artifact", `the manifest cannot be right: ${what}`);
  const text = (value) => typeof value === "string" && value.length <= 4096;
  const whole = (value) => Number.isInteger(value) && value >= 1 && value <= MAX_SIDE;
  must(Number.isInteger(manifest?.schema), "schema");
  check(manifest.schema <= SCHEMA, "artifact", "the artifact is from a newer ganedge: export the folder with that one");
  const { interface: about, source = {} } = manifest;
  must(KINDS.includes(about?.kind) && [about.inputs, about.outputs].every((ports) => Array.isArray(ports) && ports.length), "interface");
  must(about.inputs[0].role === about.kind.split("-")[0] && (about.reach == null || about.reach === 0 || whole(about.reach)), "interface");
  for (const { name, role, dtype, shape, layout, range, multiple = 1, distribution = "normal" } of [...about.inputs, ...about.outputs]) {
    must(text(name) && ROLES.includes(role) && TYPES[dtype] && whole(multiple) && NOISES.includes(distribution), `port ${name}`);
    must(Array.isArray(shape) && shape.length && shape.every((side) => text(side) || whole(side)), `shape of ${name}`);
    if (shape.length === 4) must(["NCHW", "NHWC"].includes(layout), `layout of ${name}`);
    if (!isPicture({ role })) continue;
    must(shape.length === 4 && whole(channelsOf({ layout, shape })), `shape of ${name}`);
    must(range?.length === 2 && range.every(Number.isFinite) && range[1] > range[0], `range of ${name}`);
  }
  must(about.outputs.slice(1).every(({ role }) => ["image", "mask", "values"].includes(role)), "outputs");
  must(NOISES.includes(about.noise) === about.kind.startsWith("latent"), "noise");
  must(Array.isArray(about.classes ?? []) && (about.classes ?? []).every(text), "classes");
  must([manifest.precision, manifest.norm_mode, manifest.digest, source.variant ?? "", source.data ?? ""].every(text), "source");
}

/** SHA-256 in hexadecimal; empty where the browser has none, which is on plain HTTP. */
async function sha256(parts) {
  if (!globalThis.crypto?.subtle) return "";
  const hash = await crypto.subtle.digest("SHA-256", await new Blob(parts).arrayBuffer());
  return Array.from(new Uint8Array(hash), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Pictures and tiles.

/** A tensor as pictures: scaled from the port's range, rounded to the nearest level, clipped. */
function toImages(data, dims, port) {
  const planar = port.layout === "NCHW", [height, width] = planar ? dims.slice(2) : dims.slice(1, 3);
  const channels = shownChannels(port), area = height * width, [low, high] = port.dtype === "uint8" ? [0, 255] : port.range;
  const factor = Math.fround(255 / (high - low)), offset = Math.fround(0.5 - low * (255 / (high - low)));
  return Array.from({ length: dims[0] }, (_, item) => {
    const image = new ImageData(width, height), begin = item * channels * area;
    for (let pixel = 0; pixel < area; pixel++) {
      for (let channel = 0; channel < 4; channel++) {
        const from = channels === 1 ? 0 : channel;
        if (channel === 3 && channels < 4) {
          image.data[4 * pixel + 3] = 255;
          continue;
        }
        const value = data[begin + (planar ? from * area + pixel : channels * pixel + from)];
        check(Number.isFinite(value), "output", NOT_FINITE);
        image.data[4 * pixel + channel] = Math.floor(Math.min(255, Math.max(0, Math.fround(Math.fround(value * factor) + offset))));
      }
    }
    return image;
  });
}

/** A picture with as many channels as the port takes, and its alpha where that is taken off. */
function toChannels({ data, width, height }, channels) {
  if (channels === 4) return { colours: Uint8Array.from(data), alpha: null };
  const colours = new Uint8Array(width * height * channels), alpha = new Uint8Array(width * height);
  let opaque = true;
  for (let pixel = 0, at = 0; pixel < alpha.length; pixel++, at += 4) {
    const a = alpha[pixel] = data[at + 3];
    if (a < 255) opaque = false;
    const [r, g, b] = [0, 1, 2].map((i) => (a === 255 ? data[at + i] : Math.floor((data[at + i] * a + (255 - a) * 255 + 127) / 255)));
    if (channels === 1) colours[pixel] = (r * 19595 + g * 38470 + b * 7471 + 32768) >>> 16;
    else colours.set([r, g, b], 3 * pixel);
  }
  return { colours, alpha: opaque ? null : alpha };
}

/** The scale and border of a dimension such as `height`, `0.5*height` or `2*width-8`, as ganedge.runtime.manifest reads it. */
function relationOf(size) {
  const match = /^(?:(\d+(?:\.\d+)?)\*)?[A-Za-z_]\w*(?:-(\d+))?$/.exec(size);
  if (!match) return null;
  const factor = Number(match[1] ?? 1), parts = Array.from({ length: 64 }, (_, i) => i + 1).find((n) => Math.abs(factor * n - Math.round(factor * n)) < 1e-4);
  return parts ? [Math.round(factor * parts) / parts, Number(match[2] ?? 0)] : null;
}

/** Output pixels for one input pixel, and how many the output is short of that: a border that convolutions cut off. */
function geometry(rows, columns, height, width, stated) {
  const fits = (size, side) => Math.abs(stated[0] * size - stated[1] - side) < 1e-6;
  if (stated && fits(height, rows) && fits(width, columns)) return stated;
  if (rows * width === columns * height && [1, 2, 3, 4].some((part) => (part * rows) % height === 0)) return [rows / height, 0];
  for (const scale of SCALES) {
    const border = scale * height - rows;
    if (border === scale * width - columns && Number.isInteger(border) && border > 0 && 2 * border < scale * Math.min(height, width)) return [scale, border];
  }
  throw fail("engine", `${width} × ${height} pixels became ${columns} × ${rows}, neither in proportion nor less a border: call run`);
}

/** The same of a tensor that a port describes. */
function geometryOf({ dims }, port, tall, wide) {
  return geometry(...(port.layout === "NCHW" ? dims.slice(2) : dims.slice(1, 3)), tall, wide, relationOf(sides(port)[0]));
}

/** A result without what was padded: the picture's size times the scale, less the border. */
function cropped(padded, { width, height }, scale, border) {
  const image = new ImageData(...[width, height].map((length) => Math.max(1, Math.round(scale * length) - border)));
  for (let y = 0; y < image.height; y++) image.data.set(padded.data.subarray(4 * y * padded.width, 4 * (y * padded.width + image.width)), 4 * y * image.width);
  return image;
}

/** An output beside the result: a picture cropped as the result is, or the bare values. */
function placed(tensor, port, image, tall, wide) {
  if (!shows(port)) return itemsOf([tensor], port, true);
  const [padded] = toImages(tensor.data, [1, ...tensor.dims.slice(1)], port);
  return sides(port).every(fixedOf) ? padded : cropped(padded, image, ...geometryOf(tensor, port, tall, wide));
}

/** Whether an output is a picture that a browser can show; feature maps of two channels are not. */
function shows(port) { return isPicture(port) && [1, 3, 4].includes(channelsOf(port)); }

/** Batches of one output: ImageData[] of pictures, one array of points, and with `bare` { data, dims } of other values. */
function itemsOf(parts, port, bare) {
  if (bare ? shows(port) : port.role === "image") return parts.flatMap(({ data, dims }) => toImages(data, dims, port));
  const data = new parts[0].data.constructor(parts.reduce((sum, part) => sum + part.data.length, 0));
  parts.reduce((at, part) => { data.set(part.data, at); return at + part.data.length; }, 0);
  check(data.every(Number.isFinite), "output", NOT_FINITE);
  return bare && port.role !== "points" ? { data, dims: [parts.reduce((sum, { dims }) => sum + dims[0], 0), ...parts[0].dims.slice(1)] } : data;
}

/** Mirror an index into an axis of `size`, without repeating the edge. */
function reflected(index, size) {
  if (size === 1) return 0;
  const period = 2 * (size - 1), inside = index % period;
  return Math.min(inside, period - inside);
}

/**
 * Where the tiles of one axis begin, where their results do, and how much each counts at each pixel of its result; together
 * they make one. A result is the scale times its tile, less the border, half of which is missing on each side.
 */
function tilesOf(total, side, overlap, multiple, scale, border) {
  const along = (size) => Math.floor(scale * size + 1e-6), length = along(Math.min(side, total)) - border, whole = along(total) - border;
  if (side >= total) return { starts: [0], ends: [0], whole, weights: [new Float32Array(length).fill(1)] };
  const parts = [1, 2, 3, 4].find((n) => Number.isInteger(n * scale));
  check(parts, "usage", `this generator returns ${scale} × its input, which tiles cannot be put together for: scale the picture down`);
  let unit = multiple;
  while (unit % parts) unit += multiple; // The results of tiles begin at whole pixels.
  const step = Math.floor((side - 2 * overlap - FEATHER) / unit) * unit;
  check(step >= 1, "usage", `tiles of ${side} pixels are too small for an overlap of ${overlap}`);
  const starts = [];
  for (let start = 0; start < total - side; start += step) starts.push(start);
  starts.push(total - side);
  const sum = new Float64Array(whole), ends = starts.map(along);
  const raw = starts.map((start, tile) => Float64Array.from({ length }, (_, i) => {
    const position = Math.floor((i + border / 2) / scale) + 0.5;
    const near = start > 0 ? position - overlap : Infinity, far = start < total - side ? side - position - overlap : Infinity;
    const weight = Math.min(1, Math.max(0, Math.min(near, far) / FEATHER));
    sum[ends[tile] + i] += weight;
    return weight;
  }));
  check(sum.every((weight) => weight > 0), "usage", `tiles of ${side} pixels are too small for an overlap of ${overlap}`);
  return { starts, ends, whole, weights: raw.map((weights, tile) => Float32Array.from(weights, (weight, i) => weight / sum[ends[tile] + i])) };
}

/** A picture in tiles, summed up with their weights, `[height, width, channels]`; the first tile is computed already. */
async function blend(compute, first, output, down, across, progress) {
  const planar = output.layout === "NCHW", channels = channelsOf(output), total = down.starts.length * across.starts.length;
  const sum = new Float32Array(down.whole * across.whole * channels);
  let done = 0;
  for (const [row, top] of down.starts.entries()) {
    for (const [column, left] of across.starts.entries()) {
      const tile = top || left ? await compute(top, left) : first, [height, width] = planar ? tile.dims.slice(2) : tile.dims.slice(1, 3);
      check(height === down.weights[row].length && width === across.weights[column].length, "engine", `a tile became ${width} × ${height} pixels`);
      for (let y = 0; y < height; y++) {
        const weight = down.weights[row][y];
        for (let x = 0; x < width; x++) {
          const share = Math.fround(weight * across.weights[column][x]);
          const to = ((down.ends[row] + y) * across.whole + across.ends[column] + x) * channels;
          for (let c = 0; c < channels; c++) sum[to + c] += Math.fround(tile.data[planar ? (c * height + y) * width + x : (y * width + x) * channels + c] * share);
        }
      }
      progress({ phase: "tile", done: ++done, total });
    }
  }
  return sum;
}

/** A window of a picture that goes on as its own mirror image, as the port takes it. */
function windowOf(colours, { width, height }, port, top, left, tall, wide) {
  const channels = channelsOf(port), planar = port.layout === "NCHW", floats = port.dtype === "float32";
  const [low, high] = port.range, factor = Math.fround((high - low) / 255), offset = Math.fround(low);
  const data = new TYPES[port.dtype](tall * wide * channels);
  const columns = Int32Array.from({ length: wide }, (_, x) => reflected(left + x, width));
  for (let y = 0; y < tall; y++) {
    const row = reflected(top + y, height) * width;
    for (let x = 0; x < wide; x++) {
      for (let c = 0; c < channels; c++) {
        const level = colours[(row + columns[x]) * channels + c];
        data[planar ? (c * tall + y) * wide + x : (y * wide + x) * channels + c] = floats ? Math.fround(level * factor) + offset : level;
      }
    }
  }
  return { data, dims: planar ? [channels, tall, wide] : [tall, wide, channels] };
}

// The worker's side.

async function download(url, integrity, progress) {
  const file = url.split("/").pop();
  const failed = (reason) => { throw fail("download", `cannot download ${file}: ${reason}`); };
  const gone = () => failed(`the server does not answer${integrity ? ", or the file has another hash" : ""}`);
  const response = await fetch(url, integrity ? { integrity } : {}).catch(gone);
  if (!response.ok) failed(`the server answered ${response.status}`);
  const total = response.headers.get("Content-Encoding") ? 0 : Number(response.headers.get("Content-Length")) || 0;
  const parts = [], reader = response.body.getReader();
  let loaded = 0;
  for (;;) {
    const { done, value } = await reader.read().catch(gone);
    if (done) break;
    parts.push(value);
    loaded += value.length;
    progress({ phase: "download", file, loaded, total });
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** Import onnxruntime-web for one engine. A module from elsewhere goes through its hash and a blob. */
async function importRuntime(engine, threads, progress) {
  const base = new URL(RUNTIME.base, import.meta.url), [[module, hash], [binary, binaryHash]] = Object.entries(RUNTIME[engine]);
  const elsewhere = base.origin !== new URL(import.meta.url).origin;
  const script = async () => {
    if (!elsewhere) return import(new URL(module, base).href);
    const code = await download(new URL(module, base).href, hash, progress);
    return import(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  };
  const [ort, wasm] = await Promise.all([script(), download(new URL(binary, base).href, binaryHash, progress)]);
  ort.env.wasm.wasmBinary = wasm.buffer;
  ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? threads ?? Math.min(4, navigator.hardwareConcurrency) : 1;
  ort.env.logLevel = "error";
  return ort;
}

/** Why WebGPU cannot be used here, empty where it can, and whether it has 16-bit floats. */
async function webGPU() {
  if (!globalThis.isSecureContext) return ["WebGPU needs HTTPS or localhost"];
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  if (adapter) return ["", adapter.features.has("shader-f16")];
  return [navigator.gpu ? "this browser finds no GPU for WebGPU" : "this browser has no WebGPU"];
}

/** What the worker holds. Its public methods are those that `Generator.call` names. */
class Model {
  async open({ url, engine, digest, threads }, progress) {
    const artifact = this.#read(url, digest, progress);
    artifact.catch(() => {}); // It is awaited below, and may fail before that.
    let [hindrance, halves] = engine === "wasm" ? [""] : await webGPU();
    // The artifact decides only where the GPU lacks 16-bit floats; elsewhere the engine is downloaded at the same time.
    if (halves === false && (await artifact, [this.manifest.precision, this.manifest.remainder].includes("fp16"))) hindrance = "this browser's GPU has no 16-bit floats (shader-f16)";
    check(engine !== "webgpu" || !hindrance, "browser", hindrance);
    const first = engine === "wasm" || hindrance ? "wasm" : "webgpu";
    const runtime = importRuntime(first, threads, progress);
    runtime.catch(() => {});
    const bytes = await artifact;
    progress({ phase: "start" });
    let note = hindrance && engine === "auto" ? `${hindrance}, so WASM runs it` : "", used = first;
    try {
      await this.#start(await runtime, first, bytes, progress);
    } catch (error) {
      if (error.code || first === "wasm" || engine !== "auto") throw error.code ? error : fail("engine", `${first} cannot run this artifact: ${error.message}`);
      note = `WebGPU cannot run this artifact (${error.message}), so WASM runs it`;
      used = "wasm";
      await this.#start(await importRuntime("wasm", threads, progress), "wasm", bytes, progress);
    }
    return { manifest: this.manifest, engine: used, note };
  }

  async #read(url, digest, progress) {
    const bytes = await download(url, null, progress);
    this.manifest = await readArtifact(bytes, digest);
    this.about = this.manifest.interface;
    check(this.manifest.precision !== "bf16", "engine", "no browser computes bf16: export it in fp32 or fp16");
    return bytes;
  }

  /** Start a session, and run it once where that compiles, so that an engine refuses here what it cannot run. */
  async #start(ort, engine, bytes, progress) {
    this.ort = ort;
    this.session = await ort.InferenceSession.create(bytes, { executionProviders: [engine], logSeverityLevel: 3 });
    if (engine === "wasm") return;
    progress({ phase: "first" });
    await this.run({ arrays: Object.fromEntries(this.about.inputs.map(({ name, dtype, shape, multiple = 1 }) => {
      const dims = shape.map((size, axis) => fixedOf(size) ?? (axis ? Math.ceil(TRIED / multiple) * multiple : 1));
      return [name, { dims, data: new TYPES[dtype](dims.reduce((a, b) => a * b, 1)) }];
    })) });
  }

  async run({ arrays }) { return (await this.#compute(arrays, this.about.outputs.slice(0, 1)))[this.about.outputs[0].name]; }

  runAll({ arrays }) { return this.#compute(arrays, this.about.outputs); }

  /** Some outputs of one batch by their names, which keep their order. */
  async #compute(arrays, outputs) {
    const feeds = {}, names = outputs.map(({ name }) => name);
    for (const { name, dtype } of this.about.inputs) {
      check(arrays[name], "usage", `the input ${name} is missing`);
      feeds[name] = new this.ort.Tensor(dtype, arrays[name].data, arrays[name].dims);
    }
    const results = await this.session.run(feeds, names);
    return Object.fromEntries(names.map((name) => [name, { data: results[name].data.slice(), dims: [...results[name].dims] }]));
  }

  /** Items `begin` to `begin + count` of n values for each input; the last fills the rest of a fixed batch. */
  #batch(values, n = 1, begin = 0, count = 1) {
    const size = fixedOf(this.about.inputs[0].shape[0]) ?? count;
    return Object.fromEntries(Object.entries(values).map(([name, { data, dims }]) => {
      const each = data.length / n, part = new data.constructor(each * size);
      part.set(data.subarray(begin * each, (begin + count) * each));
      for (let extra = count; extra < size; extra++) part.copyWithin(extra * each, (count - 1) * each, count * each);
      return [name, { data: part, dims: [size, ...dims] }];
    }));
  }

  /** What goes into one input for n items: { data, dims } of one item after the other. */
  #value(port, index, n, { seed, label, truncation, inputs = {} }, dims = port.shape.slice(1)) {
    const { name, role, dtype, distribution } = port;
    if (isTruncation(port, this.about)) {
      const factor = inputs[name]?.[0] ?? truncation ?? 1;
      check(factor >= 0 && factor <= MAX_INNER_TRUNCATION, "usage", `truncation ${factor}: give 0 to ${MAX_INNER_TRUNCATION}`);
      return { data: new Float32Array(n).fill(factor), dims };
    }
    const size = dims.reduce((product, side) => product * side, 1), numbers = inputs[name];
    if (role === "label") return { data: TYPES[dtype].from(this.#labels(n, label), dtype === "int64" ? BigInt : Number), dims };
    if (role === "latent") {
      const clipped = this.about.inputs.some((other) => isTruncation(other, this.about)) ? undefined : truncation;
      return { data: new LatentStream(this.about.noise, size, seed, clipped).take(n), dims };
    }
    if (role === "vector" && numbers) {
      check(numbers.length === size && [...numbers].every(Number.isFinite), "usage", `${name} takes ${size} numbers`);
      return { data: Float32Array.from({ length: n * size }, (_, i) => numbers[i % size]), dims };
    }
    const how = isPicture({ role }) ? "give it to run" : "give numbers in inputs";
    check(distribution, "usage", `this generator also takes ${name} (${role}), ${dims.join(" × ")}: ${how}`);
    return { data: new LatentStream(distribution, size, seedOf(index, seed)).take(n), dims };
  }

  /** All inputs for n items from latents. */
  #values(n, { seed = anySeed(), ...options }) {
    check(this.about.inputs[0].role === "latent", "usage", "this generator has no latents to sample: call translate");
    return Object.fromEntries(this.about.inputs.map((port, index) => [port.name, this.#value(port, index, n, { seed, ...options })]));
  }

  /** Items from values for each input, in batches that the artifact takes. */
  async #items(values, n, all = false) {
    const fixed = fixedOf(this.about.inputs[0].shape[0]), [result] = this.about.outputs, outputs = all ? this.about.outputs : [result];
    const parts = Object.fromEntries(outputs.map(({ name }) => [name, []]));
    const elements = result.shape.slice(1).reduce((product, side) => product * (fixedOf(side) ?? 1), 1);
    const most = fixed ?? Math.max(1, Math.min(MAX_BATCH, Math.floor(BATCH_ELEMENTS / elements)));
    for (let begin = 0; begin < n; begin += most) {
      const count = Math.min(most, n - begin), size = fixed ?? count;
      for (const [name, { data, dims }] of Object.entries(await this.#compute(this.#batch(values, n, begin, count), outputs))) {
        check(dims[0] === size, "engine", `the engine gave ${dims[0]} items for ${size}`);
        parts[name].push({ data: data.subarray(0, (data.length / size) * count), dims: [count, ...dims.slice(1)] });
      }
    }
    const made = Object.fromEntries(outputs.map((port) => [port.name, itemsOf(parts[port.name], port, all)]));
    return all ? made : made[result.name];
  }

  /** A class for each item: the requested one, or all in turn. */
  #labels(n, label) {
    const names = this.about.classes ?? [], number = typeof label === "string" ? names.indexOf(label) : label;
    const has = names.length ? "classes 0 to " + (names.length - 1) : "no classes";
    check(label === undefined || (Number.isInteger(number) && number >= 0 && number < names.length), "usage", `label ${label}: this generator has ${has}`);
    return Array.from({ length: n }, (_, i) => number ?? i % names.length);
  }

  #check(n, what, least, label) {
    check(Number.isInteger(n) && n >= least && n <= MAX_ITEMS, "usage", `${what} is ${n}: give ${least} to ${MAX_ITEMS}`);
    this.#labels(0, label);
  }

  latents({ n, label, ...options }) {
    this.#check(n, "n", 1, label);
    return this.#values(n, options)[this.about.inputs[0].name].data;
  }

  sample({ n, outputs = false, ...options }) {
    this.#check(n, "n", 1, options.label);
    return this.#items(this.#values(n, options), n, outputs);
  }

  interpolate({ seedA, seedB, steps, label, ...options }) {
    this.#check(steps, "steps", 2, label);
    const [first, last] = [seedA, seedB].map((seed) => this.#values(1, { ...options, label: label ?? (this.about.classes?.length ? 0 : undefined), seed }));
    const { name } = this.about.inputs[0], dims = first[name].dims, path = between(this.about.noise, first[name].data, last[name].data, steps);
    for (const value of Object.values(first)) value.data = value.data.constructor.from({ length: steps * value.data.length }, (_, i) => value.data[i % value.data.length]);
    return this.#items({ ...first, [name]: { data: path, dims } }, steps);
  }

  /** One picture, whole or in tiles, which are summed up with their weights. */
  async translate({ image, tiles = "auto", maxPixels = 768 * 768, overlap = this.about.reach ?? CONTEXT, seed = 0, label, inputs, outputs = false }, progress) {
    const { inputs: [port], outputs: [output] } = this.about;
    check(!this.about.classes?.length || label !== undefined, "usage", `this generator needs a class: give label, 0 to ${this.about.classes?.length - 1}`);
    this.#labels(0, label);
    check(Number.isInteger(overlap) && overlap >= 0, "usage", `overlap is ${overlap}: give pixels, 0 or more`);
    const multiple = port.multiple ?? 1, up = (size) => Math.ceil(size / multiple) * multiple;
    const [rows, columns] = [up(image.height), up(image.width)];
    const large = !sides(port).every(fixedOf) && tiles !== "never" && rows * columns > maxPixels, size = `${image.width} × ${image.height} pixels are too many at once`;
    check(!large || tiles === "always" || !["instance", "batch"].includes(this.manifest.norm_mode), "tiles",
      `${size}, and tiles would look different, since this generator normalises over the whole picture: scale it down, or accept tiles (always)`);
    const side = large ? Math.floor(Math.sqrt(maxPixels) / multiple) * multiple : Math.max(rows, columns);
    const [tall, wide] = [Math.min(side, rows), Math.min(side, columns)];

    // Compute the whole, or tiles that are blended.
    check(!large || !outputs, "usage", `${size}, and the outputs beside the result are made of whole pictures: scale it down`);
    const compute = this.#windows(image, { seed, label, inputs }, tall, wide, large ? `${size}, and tiles would repeat the noise` : "", outputs);
    const first = await compute(0, 0), tile = outputs ? first[output.name] : first;
    const [scale, border] = geometryOf(tile, output, tall, wide);
    let padded;
    if (large) {
      const [down, across] = [[rows, tall], [columns, wide]].map(([total, part]) => tilesOf(total, part, overlap, multiple, scale, border));
      const shape = [1, down.whole, across.whole, channelsOf(output)];
      [padded] = toImages(await blend(compute, tile, output, down, across, progress), shape, { ...output, layout: "NHWC", shape });
    } else [padded] = toImages(tile.data, [1, ...tile.dims.slice(1)], output);

    // Cut off what was padded, and scale alpha, which travels beside the colours.
    const result = cropped(padded, image, scale, border), { width, height } = result;
    const { alpha } = toChannels(image, shownChannels(port));
    for (let pixel = 0; alpha && channelsOf(output) < 4 && pixel < width * height; pixel++) {
      result.data[4 * pixel + 3] = alpha[Math.floor((Math.floor(pixel / width) * image.height) / height) * image.width + Math.floor(((pixel % width) * image.width) / width)];
    }
    if (!outputs) return result;
    const extras = this.about.outputs.slice(1).map((other) => [other.name, placed(first[other.name], other, image, tall, wide)]);
    return { [output.name]: result, ...Object.fromEntries(extras) };
  }

  /** A function that computes a window of a picture: what lies over it is cut with it, and the rest is the same everywhere. */
  #windows(image, { seed, label, inputs }, tall, wide, noMaps, all) {
    const [port, ...further] = this.about.inputs, pixelsFor = (other, picture) => toChannels(picture, shownChannels(other)).colours;
    const layers = [[port, pixelsFor(port, image)]], fixed = {};
    for (const [index, other] of further.entries()) {
      const { name, role, multiple = 1 } = other, picture = inputs[name], aligned = isAligned(other, port);
      const map = role === "noise" && aligned && sides(other).some((side) => !fixedOf(side));
      check(!map || !noMaps, "usage", `${noMaps} ${name}: scale it down`);
      if (!isPicture(other)) fixed[name] = this.#value(other, index + 1, 1, { seed, label, inputs }, map ? [other.shape[1], tall, wide] : undefined);
      else if (aligned) layers.push([other, pixelsFor(other, picture)]);
      else fixed[name] = windowOf(pixelsFor(other, picture), picture, other, 0, 0, ...fitted(other, picture).map((side) => Math.ceil(side / multiple) * multiple));
    }
    return (top, left) => {
      const cut = layers.map(([layer, pixels]) => [layer.name, windowOf(pixels, image, layer, top, left, tall, wide)]);
      return this[all ? "runAll" : "run"]({ arrays: this.#batch({ ...Object.fromEntries(cut), ...fixed }) });
    };
  }
}

if (globalThis.WorkerGlobalScope && globalThis.name === "ganedge") {
  const model = new Model();
  let last = Promise.resolve(); // One call after the other: a session takes no two at once.
  globalThis.onmessage = ({ data: { id, method, argument } }) => {
    last = last.then(async () => {
      try {
        postMessage({ id, result: await model[method](argument, (progress) => postMessage({ progress })) });
      } catch (error) {
        postMessage({ id, error: { code: error.code ?? "engine", message: String(error?.message ?? error) } });
      }
    });
  };
}
