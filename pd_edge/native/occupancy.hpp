// What the modules that divide a cloud share: its points, and the cells on the ground that hold any of them.
#pragma once

#include <pybind11/numpy.h>

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "pillar_math.hpp"

// One copy of a hot loop per instruction set, chosen when the module is loaded. Needs ifunc, hence glibc; elsewhere
// (aarch64 has its vectors in the base instruction set) the plain copy is all there is.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__has_attribute)
#if __has_attribute(target_clones)
#define PD_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#endif
#ifndef PD_CLONES
#define PD_CLONES
#endif

namespace pd_edge {

using Floats = pybind11::array_t<float, pybind11::array::c_style>;

struct PointView {
    const Point* data;
    std::int64_t size;
};

inline PointView view_points(const Floats& points) {
    if (points.ndim() != 2 || points.shape(1) != 4) throw std::invalid_argument("points must have shape (N, 4)");
    static_assert(sizeof(Point) == 4 * sizeof(float), "a row of the cloud is a Point");
    return {reinterpret_cast<const Point*>(points.data()), points.shape(0)};
}

// A set of cells: a bitmap small enough for a near cache, and the number of members before each word of it, so that
// they come out numbered by ascending cell without sorting.
struct Occupancy {
    std::vector<std::uint64_t> bits;
    std::vector<std::int32_t> before;

    void reset(std::int64_t cells) {
        bits.assign(static_cast<std::size_t>(cells + 63) / 64 + 1, 0);  // one word more, for members_from
        before.resize(bits.size());
    }

    // Numbers the members, and calls `found` with each.
    template <typename Found>
    void number(Found found) {
        std::int32_t members = 0;
        for (std::size_t word = 0; word < bits.size(); ++word) {
            before[word] = members;
            for (std::uint64_t rest = bits[word]; rest != 0; rest &= rest - 1, ++members) {
                found(static_cast<std::int32_t>(word * 64 + __builtin_ctzll(rest)));
            }
        }
    }
};

// The cells of a canvas that something was drawn into.
class DrawnCells {
   public:
    void reset(std::int64_t cells) { drawn_.reset(cells); }

    // Calls `left` with each drawn cell that `now` has no member in; from here on `now` is what is drawn. Allocates
    // nothing, so that a cloud whose encoding failed before this call takes no drawn cell out of sight.
    template <typename Left>
    void turn_to(const Occupancy& now, Left left) {
        for (std::size_t word = 0; word < now.bits.size(); ++word) {
            for (std::uint64_t rest = drawn_.bits[word] & ~now.bits[word]; rest != 0; rest &= rest - 1) {
                left(static_cast<std::int64_t>(word * 64 + __builtin_ctzll(rest)));
            }
            drawn_.bits[word] = now.bits[word];
        }
    }

   private:
    Occupancy drawn_;
};

// The functions below take bare pointers: copies per instruction set have to inline them.

PD_HOST_DEVICE std::uint64_t below(int bit) { return (std::uint64_t{1} << bit) - 1; }

PD_HOST_DEVICE void insert(std::uint64_t* bits, std::int32_t cell) {
    bits[cell >> 6] |= std::uint64_t{1} << (cell & 63);
}

// Bit i: whether cell + i is a member.
PD_HOST_DEVICE std::uint64_t members_from(const std::uint64_t* bits, std::int32_t cell) {
    const int shift = cell & 63;
    return bits[cell >> 6] >> shift | bits[(cell >> 6) + 1] << 1 << (63 - shift);
}

// The number of a member; of another cell, that of the next member.
PD_HOST_DEVICE std::int32_t number_of(const std::uint64_t* bits, const std::int32_t* before, std::int32_t cell) {
    return before[cell >> 6] + __builtin_popcountll(bits[cell >> 6] & below(cell & 63));
}

}  // namespace pd_edge
