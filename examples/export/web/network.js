// A stream of a network that rnnc exported for WebAssembly. It works in pages, workers and audio worklets.
//
//     const stream = new Stream(bytes, "vad");       // the bytes of vad.wasm
//     const [output] = stream.step(input);           // a Float32Array per input and output, one frame each
//
// An output is a view of the library's memory: the next step overwrites it.

const TYPES = { float32: Float32Array, float64: Float64Array, int64: BigInt64Array };
const PAGE = 65536;

export class Stream {
  constructor(bytes, name) {
    this.exports = new WebAssembly.Instance(new WebAssembly.Module(bytes), {}).exports;
    this.name = name;
    this.about = JSON.parse(this.text(this.call("about")));
    this.end = this.exports.__heap_base.value;
    this.state = this.room(this.call("state_size"));
    const width = (port) => port.width * TYPES[port.dtype].BYTES_PER_ELEMENT;
    this.places = [...this.about.inputs, ...this.about.outputs].map((port) => this.room(width(port)));
    const arrays = [...this.about.inputs, ...this.about.outputs].map(
      (port, n) => new TYPES[port.dtype](this.exports.memory.buffer, this.places[n], port.width),
    );
    this.inputs = arrays.slice(0, this.about.inputs.length);
    this.outputs = arrays.slice(this.about.inputs.length);
    this.reset();
  }

  // The stream starts again.
  reset() {
    this.check(this.call("reset", this.state));
  }

  // The next frame. It allocates nothing.
  step(...inputs) {
    for (let n = 0; n < this.inputs.length; n++) this.inputs[n].set(inputs[n]);
    this.check(this.call("step", this.state, ...this.places));
    return this.outputs;
  }

  call(name, ...values) {
    return this.exports[`${this.name}_${name}`](...values);
  }

  check(result) {
    if (result !== 0) throw new Error(`${this.name}: result ${result}`);
  }

  // Memory of so many bytes, behind what is taken.
  room(size) {
    const start = Math.ceil(this.end / 64) * 64;
    this.end = start + size;
    const missing = this.end - this.exports.memory.buffer.byteLength;
    if (missing > 0) this.exports.memory.grow(Math.ceil(missing / PAGE));
    return start;
  }

  // The text at an address, up to its zero byte. (Worklets have no TextDecoder.)
  text(place) {
    const bytes = new Uint8Array(this.exports.memory.buffer);
    let found = "";
    for (let n = place; bytes[n] !== 0; n++) found += String.fromCharCode(bytes[n]);
    return found;
  }
}
