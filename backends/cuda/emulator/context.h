// What the runtime and an emulated translation unit share: where a thread finds itself, and whom it asks to wait.
// The translation unit owns one Context; the runtime fills it in at a launch and keeps `thread`, `block` and `shared`
// those of the CUDA thread that runs.
#pragma once
#include <stddef.h>
#include <stdint.h>

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

namespace rnnc_emulator {

// Results of a block's barrier: how many threads met there, and how many of them brought a true predicate.
struct Meeting {
  unsigned threads, votes;
};

enum class Tile : int { half, bfloat16, tf32 };

// Every function that may wait takes the source line of its call: it names the place in reports, and tells a barrier
// from another one.
struct Context {
  uint3 thread, block;
  dim3 block_size, grid_size;
  void* shared;
  uint64_t progress;  // grows whenever something happened that a waiting thread may be waiting for
  Meeting (*meet)(unsigned vote, int line);
  void (*sleep)(int line);
  uint64_t (*exchange)(unsigned mask, uint64_t value, unsigned lane, int line);
  unsigned (*ballot)(unsigned mask, bool vote, int line);
  void (*multiply)(Tile tile, float* d, const unsigned* a, const unsigned* b, int line);
};

}  // namespace rnnc_emulator
