// What a sparse layer adds up: the sites that come out of it, and the pairs of input and output sites at each place of
// its kernel.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "voxel_sites.hpp"

namespace pd_edge {

constexpr int kKernelHeights = 3;

// Which neighbours a layer adds up: out of site o, those at o * stride - padding + k. Kernels are kKernelHeights high
// and at most 3 wide, strides are 1 or 2.
struct Kernel {
    Triple size, stride, padding;

    int places() const { return size[0] * size[1] * size[2]; }
    int output(int axis, int input) const { return (input + 2 * padding[axis] - size[axis]) / stride[axis] + 1; }
};

// The bits 0, 2, 4, ... of a mask.
PD_HOST_DEVICE std::uint64_t every_second(std::uint64_t mask) {
    mask &= 0x5555555555555555;
    mask = (mask | mask >> 1) & 0x3333333333333333;
    mask = (mask | mask >> 2) & 0x0f0f0f0f0f0f0f0f;
    mask = (mask | mask >> 4) & 0x00ff00ff00ff00ff;
    mask = (mask | mask >> 8) & 0x0000ffff0000ffff;
    return (mask | mask >> 16) & 0x00000000ffffffff;
}

// The heights of the output that a kernel reaches from those of a column of the input.
PD_HOST_DEVICE std::uint64_t reached_heights(std::uint64_t mask, const Kernel& kernel, int heights) {
    mask <<= kernel.padding[0];
    mask |= mask >> 1 | mask >> 2;
    return (kernel.stride[0] == 2 ? every_second(mask) : mask) & below(heights);
}

// The outputs along an axis that a kernel reaches from one input.
struct Range {
    std::int32_t begin, end;
};

PD_HOST_DEVICE Range reached_outputs(std::int32_t input, const Kernel& kernel, int axis, std::int32_t outputs) {
    const int halve = kernel.stride[axis] - 1;  // a shift by that divides by the stride, rounding down
    const std::int32_t last = input + kernel.padding[axis], first = last - kernel.size[axis] + 1;
    return {std::max((first + halve) >> halve, 0), std::min((last >> halve) + 1, outputs)};
}

// Calls `found` with every cell of the output that a kernel reaches from a cell of the input.
template <typename Found>
PD_HOST_DEVICE void for_outputs(std::int32_t cell, const Kernel& kernel, const Triple& in, const Triple& out,
                                Found found) {
    const std::int32_t iy = cell / in[2];
    const Range y = reached_outputs(iy, kernel, 1, out[1]), x = reached_outputs(cell - iy * in[2], kernel, 2, out[2]);
    for (std::int32_t oy = y.begin; oy < y.end; ++oy) {
        for (std::int32_t ox = x.begin; ox < x.end; ++ox) found(oy * out[2] + ox);
    }
}

PD_CLONES static void mark_reached(const Sites& in, const Kernel& kernel, const Triple& size, std::uint64_t* bits) {
    for (const Column& column : in.columns) {
        if (reached_heights(column.mask, kernel, size[0]) == 0) continue;
        for_outputs(column.cell, kernel, in.size, size, [bits](std::int32_t cell) { insert(bits, cell); });
    }
}

PD_CLONES static void mark_reached_heights(const Sites& in, const Kernel& kernel, Sites& out) {
    const std::uint64_t* bits = out.occupancy.bits.data();
    const std::int32_t* before = out.occupancy.before.data();
    Column* columns = out.columns.data();
    for (const Column& column : in.columns) {
        const std::uint64_t heights = reached_heights(column.mask, kernel, out.size[0]);
        if (heights == 0) continue;
        for_outputs(column.cell, kernel, in.size, out.size, [=](std::int32_t cell) {
            columns[number_of(bits, before, cell)].mask |= heights;
        });
    }
}

// Makes the sites of a strided layer, every place that a site of its input reaches; `out` has its size.
inline void stride_sites(const Sites& in, const Kernel& kernel, Sites& out) {
    out.occupancy.reset(std::int64_t{out.size[1]} * out.size[2]);
    mark_reached(in, kernel, out.size, out.occupancy.bits.data());
    out.list_columns();
    mark_reached_heights(in, kernel, out);
    out.number_rows();
}

// Row of an input site, row of the output site that it is added to.
struct Pair {
    std::int32_t in, out;
};

// Room for the pairs of a block at one place of a kernel. One cache line more than needed: lists that lay a multiple of
// 4 KiB apart would share a set of the cache.
constexpr std::int32_t kListRoom = kBlockSites + 64 / sizeof(Pair);

// The pairs of a layer: per block of output sites and place of the kernel, a list.
struct RuleBook {
    std::vector<Pair> pairs;
    std::vector<std::int32_t> counts;
    int places = 0;

    void reset(const Sites& out, int kernel_places) {
        places = kernel_places;
        const std::size_t lists = out.blocks.size() * static_cast<std::size_t>(places);
        counts.assign(lists, 0);
        if (pairs.size() < lists * kListRoom) pairs.resize(lists * kListRoom);
    }
    Pair* pairs_of(std::size_t block) { return pairs.data() + block * places * kListRoom; }
    std::int32_t* counts_of(std::size_t block) { return counts.data() + block * places; }
};

// A column of the input beside one of the output.
struct Neighbour {
    std::int32_t column;
    std::int32_t place;  // of the kernel's lowest layer
};

constexpr int kMostNeighbours = 9;

// Throws for a kernel that the functions here cannot take.
inline void check_kernel(const Kernel& kernel) {
    const auto& [size, stride, padding] = kernel;
    if (size[0] != kKernelHeights || size[1] * size[2] > kMostNeighbours ||
        std::any_of(stride.begin(), stride.end(), [](std::int32_t step) { return step < 1 || step > 2; })) {
        throw std::invalid_argument("a kernel is 3 high and has at most 9 columns; strides are 1 or 2");
    }
}

// The columns that a kernel reaches from a column of the output; returns how many. None of the tests that fail at
// random is a branch, here and below: each is written down, and stays if it is true.
PD_HOST_DEVICE int find_neighbours(const Sites& in, const Kernel& kernel, std::int32_t oy, std::int32_t ox,
                                   Neighbour* neighbours) {
    const std::int32_t x = ox * kernel.stride[2] - kernel.padding[2];
    const std::int32_t begin = std::max(-x, 0), end = std::min(kernel.size[2], in.size[2] - x);
    int count = 0;
    for (int ky = 0; ky < kernel.size[1]; ++ky) {
        const std::int32_t y = oy * kernel.stride[1] - kernel.padding[1] + ky;
        if (y < 0 || y >= in.size[1]) continue;
        const std::int32_t cell = y * in.size[2] + x + begin;
        std::uint64_t there = members_from(in.occupancy.bits.data(), cell);
        std::int32_t column = number_of(in.occupancy.bits.data(), in.occupancy.before.data(), cell);
        for (int kx = begin; kx < end; ++kx, there >>= 1) {
            neighbours[count] = {column, ky * kernel.size[2] + kx};
            count += there & 1;
            column += there & 1;
        }
    }
    return count;
}

// The pairs of two columns, whose rows begin at `from` and `to`.
PD_HOST_DEVICE void pair_columns(const Column& in, const Column& out, const Kernel& kernel, int place, Pair* pairs,
                                 std::int32_t* counts) {
    const int layer = kernel.size[1] * kernel.size[2];
    const std::uint64_t mask = in.mask << kernel.padding[0];  // bit o * stride + k is what height o finds at place k
    std::int32_t to = out.first;
    for (std::uint64_t rest = out.mask; rest != 0; rest &= rest - 1, ++to) {
        const int lowest = __builtin_ctzll(rest) * kernel.stride[0];
        std::int32_t from = in.first + __builtin_popcountll(mask & below(lowest));
        for (int kz = 0, k = place; kz < kKernelHeights; ++kz, k += layer) {
            const auto there = static_cast<std::int32_t>((mask >> lowest >> kz) & 1);
            pairs[k * kListRoom + counts[k]] = {from, to};
            counts[k] += there;
            from += there;
        }
    }
}

// The pairs of a block.
PD_CLONES static void find_pairs(const Sites& in, const Sites& out, const Kernel& kernel, const Block& block,
                                 Pair* pairs, std::int32_t* counts) {
    Neighbour neighbours[kMostNeighbours];
    for (std::int32_t c = block.begin; c < block.end; ++c) {
        const Column column = out.columns[c];
        const std::int32_t oy = column.cell / out.size[2], ox = column.cell - oy * out.size[2];
        const int count = find_neighbours(in, kernel, oy, ox, neighbours);
        for (int n = 0; n < count; ++n) {
            pair_columns(in.columns[neighbours[n].column], column, kernel, neighbours[n].place, pairs, counts);
        }
    }
}

}  // namespace pd_edge
