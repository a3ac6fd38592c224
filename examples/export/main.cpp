// When does somebody speak? Usage: main sound.wav. The stream is saved and restored after each second.
#include <cstdio>

#include "sound.h"
#include "vad.hpp"

int main(int count, char **arguments) {
    std::FILE *file = count == 2 ? sound_open(arguments[1]) : nullptr;
    if (file == nullptr) return 2;
    Vad vad;
    std::array<float, Vad::chunk> samples;
    for (int n = 0; sound_read(file, samples.data(), samples.size()); n++) {
        std::printf("%.3f %.3f\n", static_cast<double>(n) * Vad::chunk / 16000, static_cast<double>(vad(samples.data())));
        if (n % 31 == 30) {
            Vad other;
            other.restore(vad.save());
            vad = other;
        }
    }
    return std::fclose(file) != 0;
}
