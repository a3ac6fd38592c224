// RTNeural's static models: an LSTM and a dense layer, of several sizes, on the same samples.
#include <RTNeural/RTNeural.h>

#include <fstream>

static const float *given;
static int frames;

extern "C" void rtneural_given(const float *x, int count) {
    given = x;
    frames = count;
}

#define NET(SIZE)                                                                                                    \
    static RTNeural::ModelT<float, 1, 1, RTNeural::LSTMLayerT<float, 1, SIZE>, RTNeural::DenseT<float, SIZE, 1>>     \
        model_##SIZE;                                                                                                \
    static std::vector<float> found_##SIZE;                                                                          \
    extern "C" void load_##SIZE(const char *path) {                                                                  \
        std::ifstream stream(path);                                                                                  \
        model_##SIZE.parseJson(stream);                                                                              \
        found_##SIZE.resize(size_t(frames));                                                                         \
    }                                                                                                                \
    extern "C" int by_steps_##SIZE(int times) {                                                                      \
        for (int n = 0; n < times; n++) {                                                                            \
            model_##SIZE.reset();                                                                                    \
            for (int frame = 0; frame < frames; frame++)                                                             \
                found_##SIZE[size_t(frame)] = model_##SIZE.forward(given + frame);                                   \
        }                                                                                                            \
        return 0;                                                                                                    \
    }                                                                                                                \
    extern "C" const float *results_##SIZE() { return found_##SIZE.data(); }

NET(8)
NET(16)
NET(24)
NET(32)
