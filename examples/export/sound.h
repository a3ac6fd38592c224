/* Sound for the examples: the samples of a WAV file of 16 kHz, one channel, 16 bits, as floats. C99 and C++. */
#ifndef SOUND_H
#define SOUND_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define SOUND_HEADER 44

/* Opens a file and checks its header. Returns NULL after saying what is wrong. */
static FILE *sound_open(const char *path) {
    unsigned char head[SOUND_HEADER];
    const unsigned char expected[16] = {1, 0, 1, 0, 0x80, 0x3E, 0, 0, 0, 0x7D, 0, 0, 2, 0, 16, 0};
    FILE *file = fopen(path, "rb");
    if (file == NULL || fread(head, 1, SOUND_HEADER, file) != SOUND_HEADER || memcmp(head + 20, expected, 16) != 0) {
        fprintf(stderr, "%s: expected a WAV file of 16 kHz, one channel, 16 bits\n", path);
        if (file != NULL) fclose(file);
        return NULL;
    }
    return file;
}

/* Reads so many samples. Returns 0 at the end of the file. */
static int sound_read(FILE *file, float *samples, size_t count) {
    for (size_t n = 0; n < count; n++) {
        unsigned char bytes[2];
        if (fread(bytes, 1, 2, file) != 2) return 0;
        samples[n] = (float)(int16_t)(bytes[0] | bytes[1] << 8) / 32768.0f;
    }
    return 1;
}

#endif
