// The arithmetic of pillars, one body per point or per pillar, for the CPU (pillars.cpp) and for CUDA kernels.
//
// Host code must be compiled with -ffp-contract=off (setup.py does) and device code uses the rounding intrinsics, so
// that numpy, C++ and CUDA agree to the last bit. See pd_edge/pillars.py for the numpy twin and the reasons.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define PD_HOST_DEVICE __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define PD_HOST_DEVICE inline __attribute__((always_inline))
#else
#define PD_HOST_DEVICE inline
#endif

namespace pd_edge {

constexpr int kPointFeatures = 10;
constexpr float kFixedPoint = 16777216.0f;  // 2^24 steps to the metre: coordinates of 0.5 m and more are exact

// A row of the point cloud, metres in the LiDAR frame.
struct Point {
    float x, y, z, intensity;
};

struct Vec3 {
    float x, y, z;
};

struct Grid {
    float scale, x_offset, y_offset;       // cells per metre; cells from the origin back to the grid's edges
    float z_min, z_max;                    // [m]
    float cell;                            // side of a pillar [m]
    float x_centre, y_centre, z_centre;    // centre of the first pillar [m]
    std::int32_t nx, ny;
};

// Fixed-point sums of the coordinates of a pillar's points: exact, hence the same for any order of the points.
struct PillarSum {
    std::int64_t x, y, z;
    std::int32_t count;
};

// One multiplication and one addition, each rounded: never a fused multiply-add.
PD_HOST_DEVICE float multiply_then_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
    return __fadd_rn(__fmul_rn(a, b), c);
#else
    return a * b + c;
#endif
}

// Flat cell iy * nx + ix of a point, -1 outside the grid. NaN fails every comparison; a point without a finite
// intensity has no place either, since it would poison its pillar. Truncation is floor here: the value is not negative.
PD_HOST_DEVICE std::int32_t cell_of(const Point& p, const Grid& grid) {
    const float u = multiply_then_add(p.x, grid.scale, grid.x_offset);
    const float v = multiply_then_add(p.y, grid.scale, grid.y_offset);
    const bool inside = (u >= 0.0f) & (u < static_cast<float>(grid.nx)) & (v >= 0.0f) &
                        (v < static_cast<float>(grid.ny)) & (p.z >= grid.z_min) & (p.z < grid.z_max) &
                        (p.intensity - p.intensity == 0.0f);
    return inside ? static_cast<std::int32_t>(v) * grid.nx + static_cast<std::int32_t>(u) : -1;
}

PD_HOST_DEVICE std::int64_t to_fixed_point(float v) {
#if defined(__CUDA_ARCH__)
    return __float2ll_rn(__fmul_rn(v, kFixedPoint));
#else
    return std::llrint(v * kFixedPoint);
#endif
}

PD_HOST_DEVICE float mean_coordinate(std::int64_t sum, std::int32_t count) {
    return static_cast<float>(static_cast<double>(sum) /
                              (static_cast<double>(count) * static_cast<double>(kFixedPoint)));
}

PD_HOST_DEVICE Vec3 pillar_mean(const PillarSum& sum) {
    return {mean_coordinate(sum.x, sum.count), mean_coordinate(sum.y, sum.count), mean_coordinate(sum.z, sum.count)};
}

PD_HOST_DEVICE Vec3 pillar_centre(std::int32_t cell, const Grid& grid) {
    const std::int32_t iy = cell / grid.nx;
    const std::int32_t ix = cell - iy * grid.nx;
    return {multiply_then_add(static_cast<float>(ix), grid.cell, grid.x_centre),
            multiply_then_add(static_cast<float>(iy), grid.cell, grid.y_centre), grid.z_centre};
}

// The ten features: x y z intensity, offset to the pillar's mean, offset to the pillar's centre.
PD_HOST_DEVICE void decorate(const Point& p, const Vec3& mean, const Vec3& centre, float* features) {
    features[0] = p.x;
    features[1] = p.y;
    features[2] = p.z;
    features[3] = p.intensity;
    features[4] = p.x - mean.x;
    features[5] = p.y - mean.y;
    features[6] = p.z - mean.z;
    features[7] = p.x - centre.x;
    features[8] = p.y - centre.y;
    features[9] = p.z - centre.z;
}

}  // namespace pd_edge
