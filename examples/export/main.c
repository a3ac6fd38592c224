/* When does somebody speak? Usage: main sound.wav. C99; all memory is static. */
#include <stdio.h>
#include <string.h>

#include "sound.h"
#include "vad.h"

enum { CONTEXT = 64, CHUNK = VAD_INPUT_WIDTH - CONTEXT };

static union {
    double aligned;
    unsigned char bytes[VAD_STATE_BYTES];
} state;

int main(int count, char **arguments) {
    float x[VAD_INPUT_WIDTH] = {0}, probability;
    FILE *file = count == 2 ? sound_open(arguments[1]) : NULL;
    if (file == NULL) return 2;
    if (vad_state_size() > sizeof state || vad_reset(&state) != VAD_OK) return 1;
    for (int n = 0; sound_read(file, x + CONTEXT, CHUNK); n++) {
        if (vad_step(&state, x, &probability) != VAD_OK) return 1;
        printf("%.3f %.3f\n", n * CHUNK / 16000.0, (double)probability);
        memcpy(x, x + CHUNK, CONTEXT * sizeof *x); /* the end of this chunk goes before the next one */
    }
    return fclose(file) != 0;
}
