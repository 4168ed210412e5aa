// What fused.cu asks of a GPU's warps, on a CPU: each thread of a block is a fiber, and they take turns. One goes on
// until it needs the others, in a barrier or a product. It gives its part to the others then, and the next takes over.

#include <ucontext.h>

#include <algorithm>
#include <vector>

using std::min;

namespace warps {

constexpr int STACK = 1 << 16;

struct Part {
    const T* row;
    unsigned word[6];
};

static ucontext_t scheduler, fibers[THREADS];
static bool done[THREADS];
static Part parts[2][THREADS];
static unsigned turns[THREADS];

// gives a part, and returns those of the whole warp
static const Part* exchange(const Part& part) {
    const int thread = threadIdx.x;
    // in turn in two places: the next exchange begins before the others have read this one
    Part* all = parts[turns[thread]++ % 2];
    all[thread] = part;
    swapcontext(&fibers[thread], &scheduler);
    return all + thread / 32 * 32;
}

static void start(void (*kernel)(const Args), const Args* args) {
    kernel(*args);
    done[threadIdx.x] = true;
}

static void run_block(void (*kernel)(const Args), const Args* args, std::vector<char>& stacks) {
    for (unsigned i = 0; i < THREADS; i++) {
        getcontext(&fibers[i]);
        fibers[i].uc_stack.ss_sp = &stacks[i * STACK];
        fibers[i].uc_stack.ss_size = STACK;
        fibers[i].uc_link = &scheduler;
        done[i] = false;
        turns[i] = 0;
        makecontext(&fibers[i], (void (*)())start, 2, kernel, args);
    }
    for (bool going = true; going;) {
        going = false;
        for (unsigned i = 0; i < THREADS; i++)
            if (!done[i]) {
                threadIdx.x = i;
                swapcontext(&scheduler, &fibers[i]);
                going = true;
            }
    }
}

}  // namespace warps

static void* shared_memory() {
    static std::vector<long double> memory(SHARED / sizeof(long double) + 1);
    return memory.data();
}

typedef const T* Shared;

DEVICE Shared shared(const T* of) { return of; }

DEVICE Shared further(Shared from, int elements) { return from + elements; }

DEVICE void copy8(Shared to, const T* from, bool wanted) {
    for (int i = 0; i < 8; i++) const_cast<T*>(to)[i] = wanted ? from[i] : 0;
}

DEVICE void await_copies() {}

DEVICE void sync_warp() { warps::exchange({}); }

// warps have different numbers of exchanges, so a barrier of all is reached when nobody waits in another way
static unsigned arrived, passed;

DEVICE void sync_block() {
    const unsigned wanted = passed + 1;
    if (++arrived == THREADS) {
        arrived = 0;
        passed++;
    }
    while (passed != wanted) swapcontext(&warps::fibers[threadIdx.x], &warps::scheduler);
}

template <int N>
DEVICE void load(unsigned (&to)[N], const T* row, bool transposed) {
    const warps::Part* all = warps::exchange({row, {}});
    const int lane = threadIdx.x % 32;
    for (int i = 0; i < N; i++) {
        T both[2];
        for (int j = 0; j < 2; j++)
            both[j] = transposed ? all[i * 8 + lane % 4 * 2 + j].row[lane / 4] : all[i * 8 + lane / 4].row[lane % 4 * 2 + j];
        to[i] = both[0] | both[1] << 16;
    }
}

DEVICE void load2(unsigned (&to)[2], const T* row) { load(to, row, false); }

DEVICE void load4(unsigned (&to)[4], const T* row) { load(to, row, false); }

DEVICE void load4_transposed(unsigned (&to)[4], const T* row) { load(to, row, true); }

DEVICE unsigned transpose(unsigned fragment) {
    const warps::Part* all = warps::exchange({nullptr, {fragment}});
    const int lane = threadIdx.x % 32;
    unsigned found = 0;
    for (int j = 0; j < 2; j++) {
        // row lane / 4 and column lane % 4 · 2 + j of the result
        const unsigned word = all[(lane % 4 * 2 + j) * 4 + lane / 8].word[0];
        found |= (lane / 4 % 2 ? word >> 16 : word & 0xffff) << 16 * j;
    }
    return found;
}

DEVICE void multiply(float (&total)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    const warps::Part* all = warps::exchange({nullptr, {a[0], a[1], a[2], a[3], b0, b1}});
    const int lane = threadIdx.x % 32;
    for (int i = 0; i < 4; i++) {
        const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (int k = 0; k < 16; k++) {
            const unsigned left = all[row % 8 * 4 + k % 8 / 2].word[row / 8 + k / 8 * 2];
            const unsigned right = all[column * 4 + k % 8 / 2].word[4 + k / 8];
            total[i] += widen(left, k % 2) * widen(right, k % 2);
        }
    }
}

KERNEL run(void (*kernel)(const Args), const Args* args, unsigned blocks) {
    std::vector<char> stacks(THREADS * warps::STACK);
    for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) warps::run_block(kernel, args, stacks);
}
