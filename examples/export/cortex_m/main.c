/* The detector on a microcontroller: silence, then a hum with a tone over it. Prints a probability per chunk. */
#include <stdio.h>
#include <string.h>

#include "vad.h"

enum { CONTEXT = 64, CHUNK = VAD_INPUT_WIDTH - CONTEXT, CHUNKS = 12 };

static union {
    double aligned;
    unsigned char bytes[VAD_STATE_BYTES];
} state;
static float x[VAD_INPUT_WIDTH];

/* A sound that needs no library: a triangle of 125 Hz, as a voice has, whose strength rises and falls. */
static float sample(int n) {
    int phase = n % 128;
    float triangle = (phase < 64 ? phase : 128 - phase) / 32.0f - 1.0f, swell = (n / 16 % 64) / 64.0f;
    return n < 4 * CHUNK ? 0.0f : 0.3f * swell * triangle;
}

int main(void) {
    float probability;
    if (vad_reset(&state) != VAD_OK) return 1;
    for (int n = 0; n < CHUNKS; n++) {
        for (int k = 0; k < CHUNK; k++) x[CONTEXT + k] = sample(n * CHUNK + k);
        if (vad_step(&state, x, &probability) != VAD_OK) return 1;
        printf("%d %.3f\n", n, (double)probability);
        memcpy(x, x + CHUNK, CONTEXT * sizeof *x);
    }
    return 0;
}
