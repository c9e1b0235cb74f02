// The sites of SECOND's sparse layers, and the division of a cloud into the first of them, voxels.
//
// A column of the grid keeps its sites as a mask of heights, at most 63 of them (pd_edge/config.py sees to that). Sites
// then come out by ascending key without sorting, and neighbours are found by looking up columns and shifting masks.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "occupancy.hpp"
#include "pillar_math.hpp"

namespace pd_edge {

struct VoxelGrid {
    Grid ground;
    float z_scale, z_offset;  // voxels per metre of height; voxels from z = 0 down to the lowest height
    std::int32_t nz;
};

// Height index of a point, -1 outside; found as pillar_math.hpp finds cells.
PD_HOST_DEVICE std::int32_t height_of(const Point& p, const VoxelGrid& grid) {
    const float w = multiply_then_add(p.z, grid.z_scale, grid.z_offset);
    return (w >= 0.0f) & (w < static_cast<float>(grid.nz)) ? static_cast<std::int32_t>(w) : -1;
}

// The sites of a column are rows first, first + 1, ... of its layer, from the lowest height up.
struct Column {
    std::uint64_t mask;  // bit iz: there is a site at that height
    std::int32_t first;
    std::int32_t cell;  // iy * nx + ix
};

PD_HOST_DEVICE std::int32_t row_of(const Column& column, int height) {
    return column.first + __builtin_popcountll(column.mask & below(height));
}

using Triple = std::array<std::int32_t, 3>;  // z, y, x

// Consecutive columns of at most kBlockSites sites: what one thread works on at a time.
struct Block {
    std::int32_t begin, end;    // columns
    std::int32_t first, sites;  // rows
};

constexpr std::int32_t kBlockSites = 256;

struct Sites {
    Triple size{};  // heights, ny, nx
    Occupancy occupancy;
    std::vector<Column> columns;
    std::vector<Block> blocks;
    std::int32_t count = 0;

    // From the bitmap: the columns, without heights yet.
    void list_columns() {
        columns.clear();
        occupancy.number([this](std::int32_t cell) { columns.push_back({0, 0, cell}); });
    }

    void number_rows();
};

// From the heights of the columns: their rows; returns how many.
PD_CLONES static std::int32_t number_columns(Column* columns, std::size_t size) {
    std::int32_t rows = 0;
    for (std::size_t c = 0; c < size; ++c) {
        columns[c].first = rows;
        rows += __builtin_popcountll(columns[c].mask);
    }
    return rows;
}

// From the heights of the columns: the rows and blocks.
inline void Sites::number_rows() {
    count = number_columns(columns.data(), columns.size());
    blocks.clear();
    Block block{};
    for (std::size_t c = 0; c < columns.size(); ++c) {
        const std::int32_t end = c + 1 < columns.size() ? columns[c + 1].first : count;
        if (end - block.first > kBlockSites) {
            blocks.push_back(block);
            block = {block.end, block.end, columns[c].first, 0};
        }
        block.sites = end - block.first;
        block.end = static_cast<std::int32_t>(c) + 1;
    }
    if (block.sites > 0) blocks.push_back(block);
}

// Writes the keys (iy * nx + ix) * heights + iz of the sites, each `first` higher; returns where the next go.
inline std::int64_t* list_keys(const Sites& sites, std::int64_t* key, std::int64_t first = 0) {
    for (const Column& column : sites.columns) {
        for (std::uint64_t rest = column.mask; rest != 0; rest &= rest - 1) {
            *key++ = first + std::int64_t{column.cell} * sites.size[0] + __builtin_ctzll(rest);
        }
    }
    return key;
}

// Fixed-point sums of a voxel's points, as PillarSum.
struct VoxelSum {
    std::int64_t x, y, z, intensity;
    std::int32_t count;
};

struct Place {
    std::int32_t column;  // its cell at first, -1 outside
    std::int32_t height;
};

inline void place_points(PointView points, const VoxelGrid& grid, Place* places, std::uint64_t* bits) {
    for (std::int64_t i = 0; i < points.size; ++i) {
        const std::int32_t cell = cell_of(points.data[i], grid.ground), height = height_of(points.data[i], grid);
        const bool inside = (cell >= 0) & (height >= 0);
        places[i] = {inside ? cell : -1, height};
        if (inside) insert(bits, cell);
    }
}

PD_CLONES static void mark_heights(const std::uint64_t* bits, const std::int32_t* before, std::int64_t size, Place* places,
                            Column* columns) {
    for (std::int64_t i = 0; i < size; ++i) {
        if (places[i].column < 0) continue;
        places[i].column = number_of(bits, before, places[i].column);
        columns[places[i].column].mask |= std::uint64_t{1} << places[i].height;
    }
}

PD_CLONES static void sum_points(PointView points, const Place* places, const Column* columns, VoxelSum* sums) {
    for (std::int64_t i = 0; i < points.size; ++i) {
        if (places[i].column < 0) continue;
        VoxelSum& sum = sums[row_of(columns[places[i].column], places[i].height)];
        sum.x += to_fixed_point(points.data[i].x);
        sum.y += to_fixed_point(points.data[i].y);
        sum.z += to_fixed_point(points.data[i].z);
        sum.intensity += to_fixed_point(points.data[i].intensity);
        ++sum.count;
    }
}

// Divides clouds into voxels; working memory is kept from call to call.
struct Voxelizer {
    std::vector<VoxelSum> sums;  // per site
    std::vector<Place> places;   // per point

    void run(PointView points, const VoxelGrid& grid, Sites& sites) {
        sites.size = {grid.nz + 1, grid.ground.ny, grid.ground.nx};
        sites.occupancy.reset(std::int64_t{grid.ground.nx} * grid.ground.ny);
        places.resize(static_cast<std::size_t>(points.size));
        place_points(points, grid, places.data(), sites.occupancy.bits.data());
        sites.list_columns();
        mark_heights(sites.occupancy.bits.data(), sites.occupancy.before.data(), points.size, places.data(),
                     sites.columns.data());
        sites.number_rows();
        sums.assign(static_cast<std::size_t>(sites.count), VoxelSum{});
        sum_points(points, places.data(), sites.columns.data(), sums.data());
    }

    // The mean of each voxel's points: x y z [m], intensity.
    void means(float* features) const {
        for (const VoxelSum& sum : sums) {
            for (const std::int64_t total : {sum.x, sum.y, sum.z, sum.intensity}) {
                *features++ = mean_coordinate(total, sum.count);
            }
        }
    }
};

}  // namespace pd_edge
