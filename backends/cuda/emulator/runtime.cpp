// Runs the threads of an emulated kernel as fibers on one thread of the operating system: each runs until it waits for
// others, in an order that `order` chooses. What the hardware would leave undefined, or hang on, ends the launch with
// a report. The state is global: the caller runs one launch at a time.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <signal.h>

#include "context.h"
#include "strand.h"
#include "tensor_cores.h"
#include "watchdog.h"

using namespace rnnc_emulator;

namespace {

constexpr unsigned WARP = 32, MOST_THREADS = 1024;
constexpr size_t MARGIN = 256;           // poison on both sides of a block's shared memory
constexpr unsigned IDLE_ROUNDS = 10000;  // in which a spinning thread may still see what a plain store changed

enum class State : uint8_t { ready, in_warp, in_block, spinning, done };

struct Fiber {
  State state = State::ready;
  unsigned index = 0;
  uint3 thread = {};
  int line = 0;  // where it waits
  Strand* strand = nullptr;
};

struct Block;
struct Warp;
using Complete = void (*)(const Block&, Warp&, uint32_t present);

struct Warp {
  uint32_t alive = 0, arrived = 0;
  uint32_t mask[WARP];
  Complete complete[WARP];  // what the last of them does for all lanes that are present
  uint64_t value[WARP];
  uint8_t from[WARP];
  Product product[WARP];
};

struct Block {
  uint3 index;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<unsigned> order;
  std::vector<char> memory;
  unsigned alive = 0, waiting = 0, spinning = 0, votes = 0;
  Meeting meeting = {};
};

struct Launch {
  Context* context;
  void (*kernel)(void* const*);
  void* const* arguments;
  size_t shared;
  char* message;
  size_t message_size;
  bool failed = false;
};

Launch launch;
Context* context;  // launch.context
Block* block;      // whose thread runs
Fiber* fiber;      // the thread that runs; null in the scheduler
std::vector<Block> blocks;
Strands strands;
uint64_t turns;  // of threads, for the watchdog
thread_local bool emulating = false;

// ---- reports

void report(const char* format, ...) {
  if (launch.failed) return;
  launch.failed = true;
  va_list list;
  va_start(list, format);
  vsnprintf(launch.message, launch.message_size, format, list);
  va_end(list);
}

std::string place(const Block& b, const Fiber& f) {
  char text[96];
  snprintf(text, sizeof text, "block (%u, %u, %u), thread %u", b.index.x, b.index.y, b.index.z, f.index);
  return text;
}

[[noreturn]] void leave() {  // the launch is over; this thread never runs again
  fiber->strand->yield();
  __builtin_unreachable();
}

// ---- fibers

void wait(State state, int line) {
  fiber->state = state;
  fiber->line = line;
  fiber->strand->yield();
}

void run_kernels() {
  for (;;) {
    launch.kernel(launch.arguments);
    wait(State::done, 0);
  }
}

void switch_to(Fiber& f) {
  fiber = &f;
  context->thread = f.thread;
  turns++;
  f.strand->enter(run_kernels);
  fiber = nullptr;
}

// ---- the block's barrier

void open_barrier(Block& b) {
  b.meeting = {b.waiting, b.votes};
  b.waiting = b.votes = 0;
  for (Fiber& f : b.fibers)
    if (f.state == State::in_block) f.state = State::ready;
  context->progress++;
}

Meeting meet(unsigned vote, int line) {
  Block& b = *block;
  if (b.waiting)
    for (const Fiber& f : b.fibers)
      if (f.state == State::in_block) {
        if (f.line == line) break;
        report("%s is at the barrier of line %d while %s waits at that of line %d", place(b, *fiber).c_str(), line,
               place(b, f).c_str(), f.line);
        leave();
      }
  b.votes += vote;
  if (++b.waiting == b.alive)
    open_barrier(b);
  else
    wait(State::in_block, line);
  return block->meeting;
}

void sleep(int line) {
  block->spinning++;
  if (fiber->line != line) context->progress++;  // it left another place since
  wait(State::spinning, line);
}

// ---- warps

Warp& warp() { return block->warps[fiber->index / WARP]; }

// All lanes that `mask` names and that have not returned are there: gives them their results, and wakes them.
void complete(Block& b, Warp& w, unsigned lane) {
  const uint32_t present = w.mask[lane] & w.alive;
  w.complete[lane](b, w, present);
  w.arrived &= ~present;
  Fiber* fibers = &b.fibers[(&w - b.warps.data()) * WARP];
  for (unsigned l = 0; l < WARP; l++)
    if (present >> l & 1 && fibers[l].state == State::in_warp) fibers[l].state = State::ready;
  context->progress++;
}

bool all_present(const Warp& w, unsigned lane) { return (w.mask[lane] & w.alive & ~w.arrived) == 0; }

void gather(uint32_t mask, int line, Complete action) {
  Warp& w = warp();
  const unsigned lane = fiber->index % WARP;
  const Fiber* fibers = fiber - lane;
  if (!(mask >> lane & 1)) {
    report("%s, line %d: the mask 0x%08x of a warp function lacks the calling lane %u", place(*block, *fiber).c_str(),
           line, mask, lane);
    leave();
  }
  if (w.arrived & mask) {
    const unsigned first = unsigned(__builtin_ctz(w.arrived & mask));  // the others were held against it
    if (fibers[first].line != line || w.mask[first] != mask) {
      report("%s is at the warp function of line %d with the mask 0x%08x while lane %u waits at line %d with 0x%08x",
             place(*block, *fiber).c_str(), line, mask, first, fibers[first].line, w.mask[first]);
      leave();
    }
  }
  w.arrived |= 1u << lane;
  w.mask[lane] = mask;
  w.complete[lane] = action;
  if (!all_present(w, lane)) return wait(State::in_warp, line);
  complete(*block, w, lane);
  if (launch.failed) leave();
}

// A thread that returns is not waited for.
void drop_lane(Block& b, Warp& w, unsigned lane) {
  w.alive &= ~(1u << lane);
  for (unsigned l = 0; l < WARP; l++)
    if (w.arrived >> l & 1 && all_present(w, l)) complete(b, w, l);
}

void give_values(const Block&, Warp& w, uint32_t present) {
  uint64_t received[WARP];
  for (unsigned l = 0; l < WARP; l++)
    if (present >> l & 1) received[l] = present >> w.from[l] & 1 ? w.value[w.from[l]] : ~0ull;  // undefined: NaN
  for (unsigned l = 0; l < WARP; l++)
    if (present >> l & 1) w.value[l] = received[l];
}

uint64_t exchange(unsigned mask, uint64_t value, unsigned from, int line) {
  Warp& w = warp();
  const unsigned lane = fiber->index % WARP;
  w.value[lane] = value;
  w.from[lane] = uint8_t(from % WARP);
  gather(mask, line, give_values);
  return w.value[lane];
}

void give_votes(const Block&, Warp& w, uint32_t present) {
  uint32_t votes = 0;
  for (unsigned l = 0; l < WARP; l++)
    if (present >> l & 1) votes |= uint32_t(w.value[l]) << l;
  for (unsigned l = 0; l < WARP; l++)
    if (present >> l & 1) w.value[l] = votes;
}

unsigned ballot(unsigned mask, bool vote, int line) {
  Warp& w = warp();
  const unsigned lane = fiber->index % WARP;
  w.value[lane] = vote;
  gather(mask, line, give_votes);
  return unsigned(w.value[lane]);
}

// ---- tensor cores

void give_products(const Block& b, Warp& w, uint32_t present) {
  if (present == ~0u) return multiply_tiles(Tile(w.value[0]), w.product);
  report("block (%u, %u, %u), warp %td: a product of tensor cores needs all 32 lanes, here are 0x%08x", b.index.x,
         b.index.y, b.index.z, &w - b.warps.data(), present);
}

void multiply(Tile tile, float* d, const unsigned* a, const unsigned* b, int line) {
  Warp& w = warp();
  const unsigned lane = fiber->index % WARP;
  w.product[lane] = {d, a, b};
  w.value[lane] = uint64_t(tile);
  gather(~0u, line, give_products);
}

// ---- order

uint64_t random_state;

uint64_t random_number() {  // splitmix64
  uint64_t z = random_state += 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

std::vector<unsigned> arranged(unsigned count, unsigned order) {
  std::vector<unsigned> numbers(count);
  for (unsigned i = 0; i < count; i++) numbers[i] = order == 1 ? count - 1 - i : i;
  if (order > 1)
    for (unsigned i = count; i > 1; i--) std::swap(numbers[i - 1], numbers[random_number() % i]);
  return numbers;
}

// ---- blocks

char* shared_of(Block& b) {
  const uintptr_t start = uintptr_t(b.memory.data()) + MARGIN;
  return (char*)((start + 127) & ~uintptr_t(127));
}

void prepare(Block& b, unsigned number, unsigned order, size_t first_strand) {
  const dim3 &grid = context->grid_size, &size = context->block_size;
  const unsigned threads = size.x * size.y * size.z;
  b.index = {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y};
  b.fibers.assign(threads, Fiber());
  b.warps.assign((threads + WARP - 1) / WARP, Warp());
  b.order = arranged(threads, order);
  b.memory.assign(launch.shared + 2 * MARGIN + 128, char(0xff));  // NaN, whatever the type
  b.alive = threads;
  b.waiting = b.spinning = b.votes = 0;
  for (unsigned i = 0; i < threads; i++) {
    Fiber& f = b.fibers[i];
    f.index = i;
    f.thread = {i % size.x, i / size.x % size.y, i / size.x / size.y};
    f.strand = strands.all[first_strand + i];
    b.warps[i / WARP].alive |= 1u << i % WARP;
  }
}

void check_margins(Block& b) {
  char* shared = shared_of(b);
  for (char* p = b.memory.data(); p != b.memory.data() + b.memory.size(); p++)
    if ((p < shared || p >= shared + launch.shared) && *p != char(0xff))
      return report("block (%u, %u, %u) wrote at byte %td of its %zu bytes of shared memory", b.index.x, b.index.y,
                    b.index.z, p - shared, launch.shared);
}

void finish(Block& b, const Fiber& f) {
  b.alive--;
  context->progress++;
  drop_lane(b, b.warps[f.index / WARP], f.index % WARP);
  if (!b.alive) check_margins(b);
  if (b.alive && b.waiting == b.alive) open_barrier(b);  // who has returned is not waited for, as on sm_70 and later
}

void run_until_all_wait(Block& b) {
  block = &b;
  context->block = b.index;
  context->shared = shared_of(b);
  for (bool moved = true; moved && !launch.failed;) {
    moved = false;
    for (unsigned i : b.order) {
      Fiber& f = b.fibers[i];
      if (f.state != State::ready) continue;
      switch_to(f);
      moved = true;
      if (launch.failed) return;
      if (f.state == State::done) finish(b, f);
    }
  }
}

void wake_spinning(Block& b) {
  if (!b.spinning) return;
  b.spinning = 0;
  for (Fiber& f : b.fibers)
    if (f.state == State::spinning) f.state = State::ready;
}

void report_deadlock() {
  std::string text = "deadlock: nothing moves";
  struct Group {
    State state;
    int line;
    unsigned count;
    std::string first;
  };
  std::vector<Group> groups;
  for (const Block& b : blocks)
    for (const Fiber& f : b.fibers) {
      if (f.state == State::done) continue;
      Group* found = nullptr;
      for (Group& g : groups)
        if (g.state == f.state && g.line == f.line) found = &g;
      if (found)
        found->count++;
      else
        groups.push_back({f.state, f.line, 1, place(b, f)});
    }
  for (const Group& g : groups) {
    const char* where = g.state == State::in_warp    ? "in a warp function"
                        : g.state == State::in_block ? "at a barrier"
                                                     : "in a spin loop";
    text += "; " + std::to_string(g.count) + " wait " + where + " of line " + std::to_string(g.line);
    text += " (first: " + g.first + ")";
  }
  report("%s", text.c_str());
}

// Until all threads of the blocks that are alive have returned.
void run_blocks(const std::vector<unsigned>& order) {
  for (unsigned idle = 0; !launch.failed;) {
    const uint64_t before = context->progress;
    unsigned alive = 0, spinning = 0;
    for (unsigned i : order) {
      Block& b = blocks[i];
      if (b.alive) run_until_all_wait(b);
      if (launch.failed) return;
      alive += b.alive;
      spinning += b.spinning;
      wake_spinning(b);
    }
    if (!alive) return;
    idle = context->progress == before ? idle + 1 : 0;
    if (idle && (!spinning || idle > IDLE_ROUNDS)) {
      for (Block& b : blocks)
        for (Fiber& f : b.fibers)
          if (f.state == State::ready) f.state = State::spinning;  // woken just now
      return report_deadlock();
    }
  }
}

void run_grid(bool cooperative, unsigned order) {
  const unsigned threads = context->block_size.x * context->block_size.y * context->block_size.z;
  const unsigned count = context->grid_size.x * context->grid_size.y * context->grid_size.z;
  const unsigned window = cooperative ? count : 1;  // blocks alive at a time
  if (threads > MOST_THREADS) return report("%u threads in a block; the most is %u", threads, MOST_THREADS);
  if (!strands.grow(size_t(window) * threads))
    return report("no memory for the stacks of %zu threads", size_t(window) * threads);
  const std::vector<unsigned> numbers = arranged(count, order);
  blocks.resize(window);
  if (cooperative) {
    for (unsigned i = 0; i < count; i++) prepare(blocks[i], i, order, size_t(i) * threads);
    return run_blocks(numbers);
  }
  for (unsigned number : numbers) {
    prepare(blocks[0], number, order, 0);
    run_blocks({0});
    if (launch.failed) return;
  }
}

// ---- faults of the kernel's own code

constexpr int WATCH = SIGVTALRM;
constexpr int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, WATCH};
constexpr int COUNT = sizeof SIGNALS / sizeof SIGNALS[0];
struct sigaction previous[COUNT];
stack_t previous_stack;
char fault_stack[64 << 10];  // a thread that has used up its own stack cannot handle that on it

const char* what_happened(int signal, const char* address) {
  if (signal == SIGFPE) return "an integer division by zero";
  if (signal == WATCH) return "no end: it neither waits nor returns; a spin loop must call __nanosleep";
  if (signal == SIGILL) return "an illegal instruction";
  const char* stack = fiber->strand->stack;
  if (stack <= address && address < stack + Strand::GUARD) return "too many local variables for its stack";
  return "an access to memory that is null, out of range or misaligned";
}

void release_faults() {
  for (int i = 0; i < COUNT; i++) sigaction(SIGNALS[i], &previous[i], nullptr);
  sigaltstack(&previous_stack, nullptr);
}

uint64_t turns_seen;

bool still_moving() {
  const bool moving = !emulating || !fiber || turns != turns_seen;
  turns_seen = turns;
  return moving;
}

void on_fault(int signal, siginfo_t* info, void*) {
  if (signal == WATCH && still_moving()) return;
  if (!emulating || !fiber) {  // not ours: the instruction runs again, under the handler that was there before
    for (int i = 0; i < COUNT; i++) sigaction(SIGNALS[i], &previous[i], nullptr);
    return;
  }
  report("%s: %s", place(*block, *fiber).c_str(), what_happened(signal, (const char*)info->si_addr));
  leave();
}

void catch_faults() {
  stack_t stack = {};
  stack.ss_sp = fault_stack;
  stack.ss_size = sizeof fault_stack;
  sigaltstack(&stack, &previous_stack);
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  for (int i = 0; i < COUNT; i++) sigaction(SIGNALS[i], &action, &previous[i]);
}

}  // namespace

// Runs a kernel; sizes: grid x, y, z, block x, y, z; patience: the seconds a thread may run on. Returns 0, or 1 with a
// report in `message`.
extern "C" __attribute__((visibility("default"))) int rnnc_emulator_launch(
    Context* unit, void (*kernel)(void* const*), void* const* arguments, const unsigned* sizes, size_t shared,
    int cooperative, unsigned order, double patience, char* message, size_t message_size) {
  launch = {unit, kernel, arguments, shared, message, message_size};
  context = unit;
  *context = {};
  context->grid_size = {sizes[0], sizes[1], sizes[2]};
  context->block_size = {sizes[3], sizes[4], sizes[5]};
  context->meet = meet;
  context->sleep = sleep;
  context->exchange = exchange;
  context->ballot = ballot;
  context->multiply = multiply;
  random_state = order;
  catch_faults();
  emulating = true;
  {
    Watchdog watchdog(WATCH, patience);
    run_grid(cooperative != 0, order);
  }
  emulating = false;
  release_faults();
  if (launch.failed) strands.abandon();
  blocks.clear();
  block = nullptr;
  return launch.failed;
}
