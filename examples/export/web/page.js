// Draws a sound, and where somebody speaks in it.
const RATE = 16000;
const CHUNK = 512;
const sound = document.getElementById("sound");
const said = document.getElementById("said");
let shown = { samples: new Float32Array(0), probabilities: [] };

// A worklet node in a context, which reports a probability per chunk.
async function detector(context, report) {
  const bytes = await (await fetch("vad.wasm")).arrayBuffer();
  await context.audioWorklet.addModule("worklet.js");
  const node = new AudioWorkletNode(context, "voice-activity", { processorOptions: { bytes } });
  node.port.onmessage = ({ data }) => report(data);
  node.onprocessorerror = () => (said.textContent = "the detector failed; the console says why");
  return node;
}

// A file: all of it at once, faster than it plays, by the same worklet.
async function ofFile(content) {
  const own = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(content);
  const chunks = Math.floor(own.length / CHUNK);
  const context = new OfflineAudioContext(1, Math.max(chunks, 1) * CHUNK, RATE);
  shown = { samples: own.getChannelData(0), probabilities: [] };
  const node = await detector(context, (probability) => shown.probabilities.push(probability));
  const source = new AudioBufferSourceNode(context, { buffer: own });
  source.connect(node).connect(context.destination);
  source.start();
  const start = performance.now();
  await context.startRendering();
  const took = performance.now() - start;
  while (shown.probabilities.length < chunks) await new Promise((done) => setTimeout(done, 10)); // messages come later
  draw();
  const speech = shown.probabilities.filter((p) => p > 0.5).length;
  said.textContent =
    `${own.duration.toFixed(2)} s of sound, ${((speech * CHUNK) / RATE).toFixed(2)} s of it speech; ` +
    `computed in ${took.toFixed(0)} ms, ${((took * 1000) / chunks).toFixed(0)} µs per chunk of 32 ms`;
}

// The microphone: the last ten seconds.
async function ofMicrophone() {
  const context = new AudioContext({ sampleRate: RATE });
  const media = await navigator.mediaDevices.getUserMedia({ audio: true });
  const analyser = new AnalyserNode(context, { fftSize: CHUNK });
  const chunk = new Float32Array(CHUNK);
  shown = { samples: new Float32Array(0), probabilities: [] };
  const node = await detector(context, (probability) => {
    analyser.getFloatTimeDomainData(chunk);
    const kept = shown.samples.slice(-10 * RATE);
    const samples = new Float32Array(kept.length + CHUNK);
    samples.set(kept);
    samples.set(chunk, kept.length);
    shown = { samples, probabilities: [...shown.probabilities, probability].slice(-Math.floor(samples.length / CHUNK)) };
    said.textContent = probability > 0.5 ? "somebody speaks" : "nobody speaks";
    draw();
  });
  context.createMediaStreamSource(media).connect(analyser).connect(node);
}

function draw() {
  const [width, height] = [(sound.width = sound.clientWidth), (sound.height = sound.clientHeight)];
  const pen = sound.getContext("2d");
  const { samples, probabilities } = shown;
  const x = (n) => (n / Math.max(samples.length, 1)) * width;
  pen.fillStyle = "#cfe8cf";
  probabilities.forEach((p, n) => p > 0.5 && pen.fillRect(x(n * CHUNK), 0, x(CHUNK) + 1, height));
  pen.strokeStyle = "#456";
  pen.beginPath();
  for (let column = 0; column < width; column++) {
    const part = samples.subarray((column / width) * samples.length, ((column + 1) / width) * samples.length);
    const most = part.reduce((most, each) => Math.max(most, Math.abs(each)), 0);
    pen.moveTo(column, height * (0.5 - most / 2));
    pen.lineTo(column, height * (0.5 + most / 2));
  }
  pen.stroke();
  pen.strokeStyle = "#c33";
  pen.lineWidth = 2;
  pen.beginPath();
  probabilities.forEach((p, n) => pen.lineTo(x((n + 0.5) * CHUNK), height * (0.98 - 0.96 * p)));
  pen.stroke();
}

document.getElementById("file").onchange = async ({ target }) => ofFile(await target.files[0].arrayBuffer());
document.getElementById("microphone").onclick = ofMicrophone;

const given = new URLSearchParams(location.search).get("sound");
if (given !== null) {
  document.body.append(Object.assign(new Image(), { src: "drawn", hidden: true })); // it loads when the server is told
  ofFile(await (await fetch(given)).arrayBuffer())
    .catch((error) => (said.textContent = String(error)))
    .finally(() => fetch("done", { method: "POST", body: said.textContent }));
}
