// Threads of a block as fibers (makecontext(3)): they run in turns, each until its next barrier.
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "cuda_runtime_api.h"

namespace on_cpu {

dim3 block_index, thread_index;

namespace {

constexpr int kWarp = 32;
constexpr std::size_t kStackBytes = 64 * 1024;

struct Barrier {
  int alive = 0, arrived = 0, round = 0;

  void pass() {
    if (arrived == alive && alive > 0) arrived = 0, ++round;
  }
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  dim3 index;
  int number = 0;
  bool has_ended = false;
};

struct Warp {
  Barrier barrier;
  unsigned char values[kWarp][8];
  bool has_ended[kWarp];
};

std::vector<Fiber> fibers;
std::vector<Warp> warps;
Barrier block_barrier;
ucontext_t scheduler;
Fiber* current = nullptr;
const std::function<void()>* body = nullptr;

void give_way() { swapcontext(&current->context, &scheduler); }

void wait_at(Barrier& barrier) {
  const int round = barrier.round;
  ++barrier.arrived;
  barrier.pass();
  while (barrier.round == round) give_way();
}

void run_fiber() {
  (*body)();
  Warp& warp = warps[current->number / kWarp];
  warp.has_ended[current->number % kWarp] = current->has_ended = true;
  for (Barrier* barrier : {&warp.barrier, &block_barrier}) --barrier->alive, barrier->pass();
  give_way();
}

void start(Fiber& fiber, int number, dim3 block) {
  fiber.number = number, fiber.has_ended = false;
  fiber.index = dim3(number % block.x, number / block.x % block.y, number / (block.x * block.y));
  Warp& warp = warps[number / kWarp];
  warp.has_ended[number % kWarp] = false;
  ++warp.barrier.alive, ++block_barrier.alive;
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, run_fiber, 0);
}

void run_block(dim3 block) {
  const int threads = static_cast<int>(block.x * block.y * block.z);
  if (fibers.size() < static_cast<std::size_t>(threads)) fibers = std::vector<Fiber>(threads);
  warps.assign((threads + kWarp - 1) / kWarp, Warp{});
  for (Warp& warp : warps) std::fill(warp.has_ended, warp.has_ended + kWarp, true);
  block_barrier = Barrier{};
  for (int i = 0; i < threads; ++i) start(fibers[i], i, block);
  for (bool is_done = false; !is_done;) {
    is_done = true;
    for (int i = 0; i < threads; ++i) {
      if (fibers[i].has_ended) continue;
      is_done = false;
      current = &fibers[i], thread_index = fibers[i].index;
      swapcontext(&scheduler, &current->context);
    }
  }
}

}  // namespace

void run_grid(dim3 grid, dim3 block, const std::function<void()>& kernel) {
  body = &kernel;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) block_index = dim3(x, y, z), run_block(block);
    }
  }
}

void wait_for_block() { wait_at(block_barrier); }

void exchange(const void* mine, void* theirs, std::size_t bytes, int source) {
  const int lane = current->number % kWarp;
  if (source < 0) source = lane - source - 1 < kWarp ? lane - source - 1 : lane;
  Warp& warp = warps[current->number / kWarp];
  std::memcpy(warp.values[lane], mine, bytes);
  wait_at(warp.barrier);
  if (source >= kWarp || warp.has_ended[source]) {
    std::fprintf(stderr, "a shuffle reads lane %d, which is not there\n", source);
    std::abort();
  }
  std::memcpy(theirs, warp.values[source], bytes);
  wait_at(warp.barrier);  // nobody writes its next value before all have read this one
}

}  // namespace on_cpu
