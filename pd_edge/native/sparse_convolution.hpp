// A sparse convolution with its bias and ReLU on the CPU: for each place of the kernel, gather, multiply and add, with
// some of the place's weights in registers at a time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "sparse_rules.hpp"

namespace pd_edge {

constexpr int kRowFloats = 16;

// Rows of features are padded to whole cache lines, so that vectors of any width are aligned.
struct alignas(kRowFloats * sizeof(float)) Line {
    float values[kRowFloats];
};

inline std::int64_t padded(std::int64_t channels) { return (channels + kRowFloats - 1) / kRowFloats * kRowFloats; }

struct Rows {
    const float* data;
    std::int64_t stride;
};

struct Convolution {
    int places, inputs;
    std::int64_t stride;  // outputs, padded
    std::vector<Line> constants;  // the bias, then per place and input its weights

    Convolution(const float* weight, const float* offsets, int places_, int inputs_, int outputs)
        : places(places_), inputs(inputs_), stride(padded(outputs)) {
        const std::int64_t rows = std::int64_t{places} * inputs;
        constants.assign(static_cast<std::size_t>((rows + 1) * stride / kRowFloats), Line{});
        float* to = constants.front().values;
        for (int c = 0; c < outputs; ++c) to[c] = offsets[c];
        for (std::int64_t row = 0; row < rows; ++row) {
            for (int c = 0; c < outputs; ++c) to[(row + 1) * stride + c] = weight[row * outputs + c];
        }
    }
    const float* bias() const { return constants.front().values; }
    const float* weights(int place) const { return bias() + (std::int64_t{place} * inputs + 1) * stride; }
};

#define PD_MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))

#if defined(__x86_64__)
#define PD_ISA avx512
#define PD_TARGET __attribute__((target("avx512f")))
#define PD_LANES 16
#define PD_WEIGHTS 256
#define PD_OUTPUTS 32
#define PD_FMA _mm512_fmadd_ps
#include "sparse_tiles.hpp"

#define PD_ISA avx2
#define PD_TARGET __attribute__((target("avx2,fma")))
#define PD_LANES 8
#define PD_WEIGHTS 64
#define PD_OUTPUTS 16
#define PD_FMA _mm256_fmadd_ps
#include "sparse_tiles.hpp"
#endif

#define PD_ISA base
#define PD_TARGET
#define PD_LANES 4
#define PD_OUTPUTS 16
#if defined(__aarch64__)
#define PD_WEIGHTS 64
#define PD_FMA(a, b, c) vfmaq_f32(c, a, b)
#else
#define PD_WEIGHTS 32
#define PD_FMA PD_MULTIPLY_ADD
#endif
#include "sparse_tiles.hpp"

using Convolve = void (*)(const Convolution&, const Pair*, const std::int32_t*, const Rows&, const Block&, float*);

struct InstructionSet {
    std::string name;
    Convolve convolve;
};

// Those of this machine, the best first.
inline std::vector<InstructionSet> instruction_sets() {
    std::vector<InstructionSet> sets;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) sets.push_back({"avx512", avx512::convolve});
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) sets.push_back({"avx2", avx2::convolve});
#endif
    sets.push_back({"base", base::convolve});
    return sets;
}

}  // namespace pd_edge
