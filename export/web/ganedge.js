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

const SCHEMA = 2, MAX_SIDE = 65536, MAX_ITEMS = 2 ** 20, MAX_SEED = 2 ** 32 - 1, MIN_TRUNCATION = 0.01;
const BATCH_ELEMENTS = 2 ** 22, MAX_BATCH = 64; // In one run of the engine.
const FEATHER = 16; // Pixels in which two tiles fade into each other.
const NOT_FINITE = "the generator gave NaN or infinite values: try the other engine, or a higher precision";
const KINDS = ["latent-to-image", "image-to-image", "latent-to-points"];
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

/** An artifact in an engine, with its `manifest`, its `engine` (wasm or webgpu) and a `note` of what is not as usual. */
export class Generator {
  #worker; #progress; #calls = new Map(); #next = 0; #end = null;

  constructor(worker, progress) {
    this.#worker = worker;
    this.#progress = progress;
    worker.onmessage = ({ data }) => this.#answer(data);
    worker.onerror = ({ message }) => this.#finish(fail("browser", `the worker did not start: ${message || "this browser may lack module workers"}`));
  }

  /**
   * Draw n items: ImageData[], or points as a Float32Array of x, y, x, y, … Options: seed; label (a class; without one all
   * in turn); truncation (keep latents within ± this); inputs (arrays for further inputs, by name).
   */
  sample(n = 1, options = {}) { return this.call("sample", { n, ...options }); }

  /** Go from one seed's first item to another's; options as in `sample`. */
  interpolate(seedA, seedB, steps, options = {}) { return this.call("interpolate", { seedA, seedB, steps, ...options }); }

  /** The latents that `sample` draws, Float32Array [n, ...]. */
  latents(n, options = {}) { return this.call("latents", { n, ...options }); }

  /** The bare output { data, dims } of one batch, from { data, dims } by input name, as the manifest has them. */
  run(arrays) { return this.call("run", { arrays }); }

  /**
   * Turn a picture (ImageData, Blob, canvas, image, video) into another: ImageData at its own size times the scale.
   * Options: resize (to the one size that a generator takes, and back); tiles, for more than maxPixels: "auto" refuses them
   * where the generator normalises over the whole picture, "always", "never"; overlap (of tiles, pixels); label; inputs.
   */
  async translate(picture, { resize = false, ...options } = {}) {
    const port = this.manifest.interface.inputs.find(({ role }) => role === "image");
    check(port, "usage", "this generator takes no picture: call sample");
    const image = await pixelsOf(picture), [height, width] = sides(port).map((side, axis) => side ?? [image.height, image.width][axis]);
    if (width === image.width && height === image.height) return this.call("translate", { image, ...options });
    check(resize, "usage", `this generator takes ${width} × ${height} pixels: ask for resize`);
    const result = await this.call("translate", { image: scaled(image, width, height), ...options }), scale = result.width / width;
    return scaled(result, Math.round(scale * image.width), Math.round(scale * image.height));
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
  const from = contextOf(image.width, image.height), context = contextOf(width, height);
  from.putImageData(image, 0, 0);
  context.imageSmoothingQuality = "high";
  context.drawImage(from.canvas, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

/** Height and width of a picture port; undefined where any will do. */
function sides({ layout, shape }) {
  return (layout === "NCHW" ? shape.slice(2) : shape.slice(1, 3)).map(fixedOf);
}

function fixedOf(size) { return typeof size === "number" ? size : undefined; }

function channelsOf({ layout, shape }) { return shape[layout === "NCHW" ? 1 : 3]; }

function shownChannels(port) {
  const channels = channelsOf(port);
  check([1, 3, 4].includes(channels), "usage", `${port.name} has ${channels} channels, which no picture has: call run`);
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

/** Latents as ganedge.runtime.latents draws them. */
class LatentStream {
  constructor(noise, size, seed, truncation) {
    const most = noise === "uniform" ? 1 : Infinity;
    check(truncation === undefined || (truncation >= MIN_TRUNCATION && truncation <= most), "usage", `truncation ${truncation}: give ${MIN_TRUNCATION} to ${most}`);
    const chosen = seed ?? Math.floor(Math.random() * 2 ** 32);
    check(Number.isInteger(chosen) && chosen >= 0 && chosen <= MAX_SEED, "usage", `seed ${seed} is out of range: give 0 to ${MAX_SEED}`);
    Object.assign(this, { noise, size, truncation, random: new RandomState(chosen) });
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

/** Check all that is used here; nothing in a manifest is trusted for being there. */
function checkManifest(manifest) {
  const must = (holds, what) => check(holds, "artifact", `the manifest cannot be right: ${what}`);
  const text = (value) => typeof value === "string" && value.length <= 4096;
  const whole = (value) => Number.isInteger(value) && value >= 1 && value <= MAX_SIDE;
  must(Number.isInteger(manifest?.schema), "schema");
  check(manifest.schema <= SCHEMA, "artifact", "the artifact is from a newer ganedge: export the folder with that one");
  const { interface: about, source = {} } = manifest;
  must(KINDS.includes(about?.kind) && [about.inputs, about.outputs].every((ports) => Array.isArray(ports) && ports.length), "interface");
  for (const { name, role, dtype, shape, layout, range, multiple = 1 } of [...about.inputs, ...about.outputs]) {
    must(text(name) && text(role) && TYPES[dtype] && whole(multiple) && Array.isArray(shape) && shape.every((side) => text(side) || whole(side)), `port ${name}`);
    if (role !== "image") continue;
    must(["NCHW", "NHWC"].includes(layout) && shape.length === 4 && whole(channelsOf({ layout, shape })), `layout of ${name}`);
    must(range?.length === 2 && range.every(Number.isFinite) && range[1] > range[0], `range of ${name}`);
  }
  must(["normal", "uniform"].includes(about.noise) === about.kind.startsWith("latent"), "noise");
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

/** Mirror an index into an axis of `size`, without repeating the edge. */
function reflected(index, size) {
  if (size === 1) return 0;
  const period = 2 * (size - 1), inside = index % period;
  return Math.min(inside, period - inside);
}

/** Where the tiles of one axis begin, and how much each counts at each of its pixels; together they make one. */
function tilesOf(total, side, overlap, multiple) {
  if (side >= total) return { starts: [0], weights: [new Float32Array(total).fill(1)] };
  const step = Math.floor((side - 2 * overlap - FEATHER) / multiple) * multiple;
  check(step >= 1, "usage", `tiles of ${side} pixels are too small for an overlap of ${overlap}`);
  const starts = [];
  for (let start = 0; start < total - side; start += step) starts.push(start);
  starts.push(total - side);
  const sum = new Float64Array(total);
  const raw = starts.map((start) => Float64Array.from({ length: side }, (_, i) => {
    const near = start > 0 ? i + 0.5 - overlap : Infinity, far = start < total - side ? side - i - 0.5 - overlap : Infinity;
    const weight = Math.min(1, Math.max(0, Math.min(near, far) / FEATHER));
    sum[start + i] += weight;
    return weight;
  }));
  return { starts, weights: raw.map((weights, tile) => Float32Array.from(weights, (weight, i) => weight / sum[starts[tile] + i])) };
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

/** Why WebGPU cannot be used here, empty where it can. */
async function withoutWebGPU() {
  if (!globalThis.isSecureContext) return "WebGPU needs HTTPS or localhost";
  if (!navigator.gpu) return "this browser has no WebGPU";
  return (await navigator.gpu.requestAdapter().catch(() => null)) ? "" : "this browser finds no GPU for WebGPU";
}

/** What the worker holds. Its public methods are those that `Generator.call` names. */
class Model {
  async open({ url, engine, digest, threads }, progress) {
    const artifact = download(url, null, progress);
    artifact.catch(() => {}); // It is awaited below, and may fail before that.
    const hindrance = engine === "wasm" ? "" : await withoutWebGPU();
    check(engine !== "webgpu" || !hindrance, "browser", `${hindrance}: take ?engine=wasm`);
    const first = engine === "wasm" || hindrance ? "wasm" : "webgpu";
    const runtime = importRuntime(first, threads, progress);
    runtime.catch(() => {});
    const bytes = await artifact;
    this.manifest = await readArtifact(bytes, digest);
    this.about = this.manifest.interface;
    check(this.manifest.precision !== "bf16", "engine", "no browser computes bf16: export it in fp32 or fp16");
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

  /** Start a session, and run it once where that compiles: what an engine cannot do, it says here. */
  async #start(ort, engine, bytes, progress) {
    this.ort = ort;
    this.session = await ort.InferenceSession.create(bytes, { executionProviders: [engine], logSeverityLevel: 3 });
    if (engine === "wasm") return;
    progress({ phase: "first" });
    await this.run({ arrays: Object.fromEntries(this.about.inputs.map(({ name, dtype, shape, multiple = 1 }) => {
      const dims = shape.map((size, axis) => fixedOf(size) ?? (axis ? 16 * multiple : 1));
      return [name, { dims, data: new TYPES[dtype](dims.reduce((a, b) => a * b, 1)) }];
    })) });
  }

  async run({ arrays }) {
    const feeds = {};
    for (const { name, dtype } of this.about.inputs) {
      check(arrays[name], "usage", `the input ${name} is missing`);
      feeds[name] = new this.ort.Tensor(dtype, arrays[name].data, arrays[name].dims);
    }
    const { name } = this.about.outputs[0], results = await this.session.run(feeds, [name]);
    const { data, dims } = results[name];
    return { data: data.slice(), dims: [...dims] };
  }

  /** The arrays of one batch, from each input's role or by its name; the last item fills the rest of a fixed batch. */
  #arrays(begin, count, size, { latents, labels, image, given = {} }) {
    return Object.fromEntries(this.about.inputs.map(({ name, role, dtype, shape }) => {
      let part, dims = shape.slice(1);
      if (given[name]) part = Array(count).fill([...given[name]]).flat();
      else if (role === "latent" && latents) part = latents.subarray((begin * latents.length) / labels.length, ((begin + count) * latents.length) / labels.length);
      else if (role === "image" && image) ({ data: part, dims } = image);
      else {
        check(role === "label", "usage", `this generator also takes ${name} (${role}): give inputs: { ${name}: … }`);
        part = labels.slice(begin, begin + count).map(dtype === "int64" ? BigInt : Number);
      }
      const each = part.length / count, data = new TYPES[dtype](each * size);
      data.set(part);
      for (let extra = count; extra < size; extra++) data.copyWithin(extra * each, (count - 1) * each, count * each);
      return [name, { data, dims: [size, ...dims] }];
    }));
  }

  /** Items from latents and labels, in batches that the artifact takes. */
  async #items(drawn) {
    const fixed = fixedOf(this.about.inputs[0].shape[0]), [output] = this.about.outputs, n = drawn.labels.length, results = [];
    const elements = output.shape.slice(1).reduce((product, side) => product * (fixedOf(side) ?? 1), 1);
    const most = fixed ?? Math.max(1, Math.min(MAX_BATCH, Math.floor(BATCH_ELEMENTS / elements)));
    for (let begin = 0; begin < n; begin += most) {
      const count = Math.min(most, n - begin), size = fixed ?? count;
      const { data, dims } = await this.run({ arrays: this.#arrays(begin, count, size, drawn) });
      check(dims[0] === size, "engine", `the engine gave ${dims[0]} items for ${size}`);
      const kept = data.subarray(0, (data.length / size) * count);
      if (output.role === "image") results.push(...toImages(kept, [count, ...dims.slice(1)], output));
      else results.push(...kept);
    }
    if (output.role === "image") return results;
    check(results.every(Number.isFinite), "output", NOT_FINITE);
    return Float32Array.from(results);
  }

  #stream({ seed, truncation }) {
    const port = this.about.inputs.find(({ role }) => role === "latent");
    check(port, "usage", "this generator has no latents to sample: call translate");
    return new LatentStream(this.about.noise, port.shape.slice(1).reduce((a, b) => a * b, 1), seed, truncation);
  }

  /** A class for each item: the one that was asked for, or all in turn, or the first. */
  #labels(n, label, first = false) {
    const classes = this.about.classes?.length ?? 0;
    check(classes || label === undefined, "usage", `label ${label}: this generator has no classes`);
    check(label === undefined || (Number.isInteger(label) && label >= 0 && label < classes), "usage", `label ${label} is out of range: give 0 to ${classes - 1}`);
    return Array.from({ length: n }, (_, i) => label ?? (classes && !first ? i % classes : 0));
  }

  latents({ n, ...options }) {
    check(Number.isInteger(n) && n >= 1 && n <= MAX_ITEMS, "usage", `n is ${n}: give 1 to ${MAX_ITEMS}`);
    return this.#stream(options).take(n);
  }

  sample({ n, label, inputs, ...options }) {
    return this.#items({ latents: this.latents({ n, ...options }), labels: this.#labels(n, label), given: inputs });
  }

  interpolate({ seedA, seedB, steps, label, inputs, truncation }) {
    check(Number.isInteger(steps) && steps >= 2 && steps <= MAX_ITEMS, "usage", `steps is ${steps}: give 2 to ${MAX_ITEMS}`);
    const [start, end] = [seedA, seedB].map((seed) => this.#stream({ seed, truncation }).take(1));
    return this.#items({ latents: between(this.about.noise, start, end, steps), labels: this.#labels(steps, label, true), given: inputs });
  }

  /** One picture, whole or in tiles, which are summed up with their weights. */
  async translate({ image, tiles = "auto", maxPixels = 768 * 768, overlap = 64, label, inputs }, progress) {
    const port = this.about.inputs.find(({ role }) => role === "image"), output = this.about.outputs[0];
    check(output.role === "image", "usage", "this generator returns no picture");
    const multiple = port.multiple ?? 1, up = (size) => Math.ceil(size / multiple) * multiple;
    const [rows, columns] = [up(image.height), up(image.width)], fixed = sides(port).every(Boolean);
    const large = !fixed && tiles !== "never" && rows * columns > maxPixels;
    check(!large || tiles === "always" || !["instance", "batch"].includes(this.manifest.norm_mode), "tiles",
      `${image.width} × ${image.height} pixels are too many at once, and tiles would look different, since this generator normalises over the whole picture: scale it down, or accept tiles (always)`);
    const side = large ? Math.floor(Math.sqrt(maxPixels) / multiple) * multiple : Math.max(rows, columns);
    const [tall, wide] = [Math.min(side, rows), Math.min(side, columns)];
    const down = tilesOf(rows, tall, overlap, multiple), across = tilesOf(columns, wide, overlap, multiple);
    const { colours, alpha } = toChannels(image, shownChannels(port)), labels = this.#labels(1, label, true);
    const channels = channelsOf(output), planar = output.layout === "NCHW";
    let sum = null, scale = 1;
    for (const [row, top] of down.starts.entries()) {
      for (const [column, left] of across.starts.entries()) {
        const window = windowOf(colours, image, port, top, left, tall, wide);
        const { data, dims } = await this.run({ arrays: this.#arrays(0, 1, fixedOf(port.shape[0]) ?? 1, { image: window, labels, given: inputs }) });
        const [height, width] = planar ? dims.slice(2) : dims.slice(1, 3);
        scale = Math.floor(height / tall);
        check(scale >= 1 && height === scale * tall && width === scale * wide, "engine", `${wide} × ${tall} pixels became ${width} × ${height}, which is no whole multiple`);
        sum ??= new Float32Array(scale * rows * scale * columns * channels);
        for (let y = 0; y < height; y++) {
          const weight = down.weights[row][Math.floor(y / scale)];
          for (let x = 0; x < width; x++) {
            const share = Math.fround(weight * across.weights[column][Math.floor(x / scale)]);
            const to = ((scale * top + y) * scale * columns + scale * left + x) * channels;
            for (let c = 0; c < channels; c++) sum[to + c] += Math.fround(data[planar ? (c * height + y) * width + x : (y * width + x) * channels + c] * share);
          }
        }
        progress({ phase: "tile", done: row * across.starts.length + column + 1, total: down.starts.length * across.starts.length });
      }
    }
    const shape = [1, scale * rows, scale * columns, channels];
    const [padded] = toImages(sum, shape, { ...output, layout: "NHWC", shape }), result = new ImageData(scale * image.width, scale * image.height);
    for (let y = 0; y < result.height; y++) result.data.set(padded.data.subarray(4 * y * padded.width, 4 * (y * padded.width + result.width)), 4 * y * result.width);
    for (let i = 3, pixel = 0; alpha && channels < 4 && i < result.data.length; i += 4, pixel++) { // It travels beside the colours.
      result.data[i] = alpha[Math.floor(Math.floor(pixel / result.width) / scale) * image.width + Math.floor((pixel % result.width) / scale)];
    }
    return result;
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
