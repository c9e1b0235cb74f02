// What every thread of the pillar kernels does: one body, compiled for the GPU by nvcc or NVRTC and for the CPU by any
// C++17 compiler, so that the tests of the CPU build run the lines that TensorRT launches.
//
// Any order of the threads gives the same bits: sums are of integers, maxima are of integers, and all else is written
// by one thread only. Threads of one launch may run in any order; the launches of an operation follow one another.
#pragma once

#include "pillar_math.hpp"

#include <cstring>

namespace pd_edge {

// Points (N, 4) to features (N, 10) and cells (N,): three launches of N threads, locate, sum and decorate.
struct Voxelization {
    const Point* points;
    std::int64_t count;
    Grid grid;
    PillarSum* sums;  // one per cell of the grid; holds anything before
    float* features;
    std::int32_t* cells;  // -1 outside the grid
};

// Floats are compared and written as their bits: of values that are not negative the larger one has the larger bits.
// A NaN without a sign is larger than any number and so shows in the canvas; what has a sign counts as zero.
template <typename Bits>
struct Canvas {
    Bits* data;                          // zero before the launch
    std::int64_t size;                   // values to clear, padding included
    std::int64_t cells;                  // nx * ny
    std::int64_t per_cell, per_channel;  // steps in `data`: 1 and nx * ny for a canvas (1, C, ny, nx)
};

// Values (N, C) to the maximum over each cell's points: one launch of N * C threads.
template <typename Bits>
struct Scatter {
    const Bits* values;
    const std::int32_t* cells;
    std::int64_t count;
    std::int32_t channels;
    Canvas<Bits> canvas;
};

// The pillar feature net (linear and ReLU) and the scatter of what it gives: one launch of N * C threads.
struct Encoding {
    const float* features;  // (N, 10)
    const std::int32_t* cells;
    std::int64_t count;
    std::int32_t channels;
    const float* weight;  // (10, C)
    const float* bias;    // (C,)
    Canvas<std::int32_t> canvas;
};

static_assert(sizeof(PillarSum) == 32, "a sum is one 32-byte sector of device memory");

template <typename T>
PD_HOST_DEVICE void atomic_add(T* at, T value) {
#if defined(__CUDA_ARCH__)
    using Word = unsigned long long;  // two's complement: the same sum, and the only 64-bit integer that CUDA adds
    if constexpr (sizeof(T) == sizeof(Word)) {
        atomicAdd(reinterpret_cast<Word*>(at), static_cast<Word>(value));
    } else {
        atomicAdd(at, value);
    }
#else
    __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
#endif
}

PD_HOST_DEVICE void atomic_max(std::int32_t* at, std::int32_t value) {
#if defined(__CUDA_ARCH__)
    atomicMax(at, value);
#else
    std::int32_t seen = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (seen < value &&
           !__atomic_compare_exchange_n(at, &seen, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
#endif
}

// CUDA has no maximum of 16 bits, but from sm_70 on a compare-and-swap of 16 bits: unlike one of the 32-bit word around
// it, it needs neither an even number of values nor the neighbour's.
PD_HOST_DEVICE void atomic_max(std::int16_t* at, std::int16_t value) {
#if defined(__CUDA_ARCH__)
    auto* half = reinterpret_cast<unsigned short*>(at);
    unsigned short seen = *reinterpret_cast<volatile unsigned short*>(half);
    while (static_cast<std::int16_t>(seen) < value) {
        const unsigned short before = atomicCAS(half, seen, static_cast<unsigned short>(value));
        if (before == seen) break;
        seen = before;
    }
#else
    std::int16_t seen = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (seen < value &&
           !__atomic_compare_exchange_n(at, &seen, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
#endif
}

PD_HOST_DEVICE std::int32_t bits_of(float value) {
#if defined(__CUDA_ARCH__)
    return __float_as_int(value);
#else
    std::int32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
#endif
}

// Clears the sums of the cells that hold points, and no others: a cloud touches few of a grid's cells. Threads of one
// cell write the same zeros.
PD_HOST_DEVICE void locate(const Voxelization& v, std::int64_t i) {
    const std::int32_t cell = cell_of(v.points[i], v.grid);
    v.cells[i] = cell;
    if (cell >= 0) v.sums[cell] = PillarSum{};
}

PD_HOST_DEVICE void sum(const Voxelization& v, std::int64_t i) {
    if (v.cells[i] < 0) return;
    const Point p = v.points[i];
    PillarSum& pillar = v.sums[v.cells[i]];
    atomic_add(&pillar.x, to_fixed_point(p.x));
    atomic_add(&pillar.y, to_fixed_point(p.y));
    atomic_add(&pillar.z, to_fixed_point(p.z));
    atomic_add(&pillar.count, std::int32_t{1});
}

PD_HOST_DEVICE void decorate(const Voxelization& v, std::int64_t i) {
    float* row = v.features + i * kPointFeatures;
    const std::int32_t cell = v.cells[i];
    if (cell >= 0) {
        decorate(v.points[i], pillar_mean(v.sums[cell]), pillar_centre(cell, v.grid), row);
    } else {
        for (int f = 0; f < kPointFeatures; ++f) row[f] = 0.0f;
    }
}

template <typename Bits>
PD_HOST_DEVICE void raise(const Canvas<Bits>& canvas, std::int32_t cell, std::int32_t channel, Bits value) {
    if (cell < 0 || cell >= canvas.cells || value <= 0) return;
    atomic_max(canvas.data + cell * canvas.per_cell + channel * canvas.per_channel, value);
}

template <typename Bits>
PD_HOST_DEVICE void scatter(const Scatter<Bits>& s, std::int64_t i) {
    const std::int64_t point = i / s.channels;
    raise(s.canvas, s.cells[point], static_cast<std::int32_t>(i - point * s.channels), s.values[i]);
}

// Ten products added to the bias in the order of the features, each rounded. A sum that is not positive leaves the zero
// of the canvas, which is the ReLU.
PD_HOST_DEVICE void encode(const Encoding& e, std::int64_t i) {
    const std::int64_t point = i / e.channels;
    const auto channel = static_cast<std::int32_t>(i - point * e.channels);
    if (e.cells[point] < 0) return;
    const float* features = e.features + point * kPointFeatures;
    float value = e.bias[channel];
    for (int f = 0; f < kPointFeatures; ++f) {
        value = multiply_then_add(features[f], e.weight[f * e.channels + channel], value);
    }
    raise(e.canvas, e.cells[point], channel, bits_of(value));
}

}  // namespace pd_edge
