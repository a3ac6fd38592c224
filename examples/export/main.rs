//! When does somebody speak? Usage: main sound.wav
use std::ffi::c_void;
use std::process::exit;

extern "C" {
    fn vad_state_size() -> usize;
    fn vad_reset(state: *mut c_void) -> i32;
    fn vad_step(state: *mut c_void, input: *const f32, output: *mut f32) -> i32;
}

const CONTEXT: usize = 64;
const CHUNK: usize = 512;

/// A stream of the detector. It may move to another thread, and one thread at a time uses it.
struct Vad {
    state: Vec<u64>, // of words, for its alignment
    x: [f32; CONTEXT + CHUNK],
}

impl Vad {
    fn new() -> Vad {
        let mut state = vec![0; (unsafe { vad_state_size() } + 7) / 8];
        let result = unsafe { vad_reset(state.as_mut_ptr().cast()) };
        assert_eq!(result, 0, "vad_reset");
        Vad { state, x: [0.0; CONTEXT + CHUNK] }
    }

    /// The probability that somebody speaks in the next samples.
    fn step(&mut self, samples: &[f32; CHUNK]) -> f32 {
        self.x[CONTEXT..].copy_from_slice(samples);
        let mut probability = 0.0;
        let result = unsafe { vad_step(self.state.as_mut_ptr().cast(), self.x.as_ptr(), &mut probability) };
        assert_eq!(result, 0, "vad_step");
        self.x.copy_within(CHUNK.., 0);
        probability
    }
}

fn main() {
    let path = std::env::args().nth(1).unwrap_or_else(|| exit(2));
    let bytes = std::fs::read(&path).unwrap_or_else(|error| {
        eprintln!("{path}: {error}");
        exit(2)
    });
    let samples: Vec<f32> =
        bytes[44.min(bytes.len())..].chunks_exact(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32768.0).collect();
    let mut vad = Vad::new();
    for (n, chunk) in samples.chunks_exact(CHUNK).enumerate() {
        let probability = vad.step(chunk.try_into().unwrap());
        println!("{:.3} {:.3}", (n * CHUNK) as f64 / 16000.0, probability);
    }
}
