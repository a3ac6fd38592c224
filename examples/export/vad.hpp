// A stream of the detector as a class. C++17.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

#include "vad.h"

class Vad {
public:
    static constexpr std::size_t context = 64;
    static constexpr std::size_t chunk = VAD_INPUT_WIDTH - context;

    Vad() : state_((vad_state_size() + sizeof(double) - 1) / sizeof(double)) { reset(); }

    /// The stream starts again.
    void reset() {
        x_.fill(0);
        check(vad_reset(state_.data()));
    }

    /// The probability that somebody speaks in the next `chunk` samples. Allocates nothing, and takes no lock.
    float operator()(const float *samples) {
        float probability = 0;
        std::copy_n(samples, chunk, x_.begin() + context);
        check(vad_step(state_.data(), x_.data(), &probability));
        std::copy_n(x_.end() - context, context, x_.begin());
        return probability;
    }

    /// All that the stream needs to go on: in another object, in another process, or on another machine.
    std::vector<unsigned char> save() const {
        auto bytes = reinterpret_cast<const unsigned char *>(state_.data());
        std::vector<unsigned char> saved(bytes, bytes + VAD_STATE_SAVED_BYTES);
        auto recent = reinterpret_cast<const unsigned char *>(x_.data());
        saved.insert(saved.end(), recent, recent + context * sizeof(float));
        return saved;
    }

    void restore(const std::vector<unsigned char> &saved) {
        if (saved.size() != VAD_STATE_SAVED_BYTES + context * sizeof(float)) throw std::invalid_argument("saved: wrong size");
        std::copy_n(saved.begin(), VAD_STATE_SAVED_BYTES, reinterpret_cast<unsigned char *>(state_.data()));
        std::copy(saved.begin() + VAD_STATE_SAVED_BYTES, saved.end(), reinterpret_cast<unsigned char *>(x_.data()));
    }

private:
    static void check(int result) {
        if (result != VAD_OK) throw std::runtime_error("vad: result " + std::to_string(result));
    }

    std::vector<double> state_;  // of doubles, for its alignment
    std::array<float, VAD_INPUT_WIDTH> x_{};
};
