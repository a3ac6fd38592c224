/* Calls an exported network as given.h says, which holds its arguments; programs.py writes it. */
#include <stddef.h>
#include <stdint.h>

#include "net.h"

static _Alignas(64) unsigned char scratch[SCRATCH_BYTES];

#include "given.h"

/* Poisons the outputs and runs all frames: first by steps, then at once. Returns 0, or what a call returned. */
int by_steps(int times) {
    int bad = 0;
    POISON;
#ifdef STEP
    bad |= net_reset(state);
    for (int n = 0; n < times; n++)
        for (size_t frame = 0; frame < FRAMES; frame++) bad |= STEP(frame);
#else
    (void)times;
#endif
    return bad;
}

int at_once(int times) {
    int bad = SCRATCH > sizeof scratch ? 100 : 0;
    POISON;
#ifdef RUN
    for (int n = 0; n < times && !bad; n++) {
#ifdef STEP
        bad |= net_reset(state);
#endif
        bad |= RUN;
    }
#else
    (void)times, (void)scratch;
#endif
    return bad;
}

/* The address of all outputs: one struct. */
void *results(void) {
    return &y;
}

#ifdef HOSTED
#include <stdio.h>

static void show(void) {
    const unsigned char *bytes = results();
    for (size_t n = 0; n < sizeof y; n++) printf("%02x", bytes[n]);
    printf("\n");
}

/* Prints both results as hexadecimal digits, then works on for whoever counts instructions. */
int main(void) {
    int bad = by_steps(1);
    show();
    bad |= at_once(1);
    show();
    return bad | by_steps(STEPS_MORE) | at_once(RUNS_MORE);
}
#endif
