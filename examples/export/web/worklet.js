// The detector on the audio thread: it collects blocks of 128 samples to chunks, and posts a probability per chunk.
import { Stream } from "./network.js";

const CONTEXT = 64;

class VoiceActivity extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    this.stream = new Stream(processorOptions.bytes, "vad");
    this.x = new Float32Array(this.stream.about.inputs[0].width);
    this.filled = CONTEXT;
  }

  process([[samples]], [[out]]) {
    if (samples === undefined) return true;
    if (out !== undefined) out.set(samples);
    this.x.set(samples, this.filled);
    this.filled += samples.length;
    if (this.filled === this.x.length) {
      const [[probability]] = this.stream.step(this.x);
      this.port.postMessage(probability);
      this.x.copyWithin(0, this.x.length - CONTEXT);
      this.filled = CONTEXT;
    }
    return true;
  }
}

registerProcessor("voice-activity", VoiceActivity);
