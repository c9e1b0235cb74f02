// Dynamic pillars on the CPU: the C++ twin of pd_edge/pillars.py, and the fused pillar feature net with its scatter.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "occupancy.hpp"
#include "pillar_math.hpp"

namespace py = pybind11;

namespace pd_edge {
namespace {

std::int64_t mark_cells(PointView points, const Grid& grid, std::int32_t* cells, std::uint64_t* bits) {
    std::int64_t kept = 0;
    for (std::int64_t i = 0; i < points.size; ++i) {
        const std::int32_t cell = cell_of(points.data[i], grid);
        cells[i] = cell;
        if (cell < 0) continue;
        insert(bits, cell);
        ++kept;
    }
    return kept;
}

// Replaces every point's cell by its pillar and sums the pillars up.
PD_CLONES void sum_points(const Point* points, std::int64_t size, const std::uint64_t* bits,
                          const std::int32_t* before, std::int32_t* cell_to_pillar, PillarSum* sums) {
    for (std::int64_t i = 0; i < size; ++i) {
        const std::int32_t cell = cell_to_pillar[i];
        if (cell < 0) continue;
        const std::int32_t pillar = number_of(bits, before, cell);
        cell_to_pillar[i] = pillar;
        PillarSum& sum = sums[pillar];
        sum.x += to_fixed_point(points[i].x);
        sum.y += to_fixed_point(points[i].y);
        sum.z += to_fixed_point(points[i].z);
        ++sum.count;
    }
}

// Working memory, kept from call to call by the encoder.
struct Assignment {
    Occupancy occupancy;
    std::vector<std::int32_t> pillar;  // per point of the cloud, -1 outside
    std::vector<std::int32_t> cells;   // per pillar, ascending
    std::vector<PillarSum> sums;       // per pillar
    std::int64_t kept = 0;

    void assign(PointView points, const Grid& grid) {
        occupancy.reset(std::int64_t{grid.nx} * grid.ny);
        pillar.resize(static_cast<std::size_t>(points.size));
        kept = mark_cells(points, grid, pillar.data(), occupancy.bits.data());
        cells.clear();
        occupancy.number([this](std::int32_t cell) { cells.push_back(cell); });
        sums.assign(cells.size(), PillarSum{});
        sum_points(points.data, points.size, occupancy.bits.data(), occupancy.before.data(), pillar.data(),
                   sums.data());
    }
};

py::array_t<std::int32_t> point_cells(const Floats& points, const Grid& grid) {
    const PointView view = view_points(points);
    py::array_t<std::int32_t> cells(view.size);
    std::int32_t* out = cells.mutable_data();
    py::gil_scoped_release release;
    for (std::int64_t i = 0; i < view.size; ++i) out[i] = cell_of(view.data[i], grid);
    return cells;
}

void decorate_points(PointView points, const Grid& grid, const Assignment& assignment, float* features,
                     std::int32_t* pillar) {
    std::vector<Vec3> means, centres;
    means.reserve(assignment.cells.size());
    centres.reserve(assignment.cells.size());
    for (std::size_t p = 0; p < assignment.cells.size(); ++p) {
        means.push_back(pillar_mean(assignment.sums[p]));
        centres.push_back(pillar_centre(assignment.cells[p], grid));
    }
    for (std::int64_t i = 0; i < points.size; ++i) {
        const std::int32_t p = assignment.pillar[i];
        if (p < 0) continue;
        decorate(points.data[i], means[p], centres[p], features);
        features += kPointFeatures;
        *pillar++ = p;
    }
}

py::tuple pillarize(const Floats& points, const Grid& grid) {
    const PointView view = view_points(points);
    Assignment assignment;
    {
        py::gil_scoped_release release;
        assignment.assign(view, grid);
    }
    const auto pillars = static_cast<py::ssize_t>(assignment.cells.size());
    Floats features({static_cast<py::ssize_t>(assignment.kept), static_cast<py::ssize_t>(kPointFeatures)});
    py::array_t<std::int32_t> pillar(assignment.kept), cells(pillars), counts(pillars);
    float* features_out = features.mutable_data();
    std::int32_t *pillar_out = pillar.mutable_data(), *cells_out = cells.mutable_data(),
                 *counts_out = counts.mutable_data();
    {
        py::gil_scoped_release release;
        decorate_points(view, grid, assignment, features_out, pillar_out);
        std::copy(assignment.cells.begin(), assignment.cells.end(), cells_out);
        std::transform(assignment.sums.begin(), assignment.sums.end(), counts_out,
                       [](const PillarSum& sum) { return sum.count; });
    }
    return py::make_tuple(features, pillar, cells, counts);
}

// The feature net, rearranged. With d = point - pillar centre,
//     W f + b = (W_abs + W_mean + W_centre) d + w_i i  +  W_abs centre + W_mean (centre - mean) + b,
// where only the first two terms depend on the point. Four products per point and channel instead of ten; d is what
// the features hold, small and rounded once, so nothing large cancels and float32 keeps its accuracy.
constexpr int kLanes = 16;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));  // GCC and Clang; split where narrower

// Aligned by hand: GCC aligns Lanes to what the base instruction set needs, the AVX-512 copy loads it aligned to 64.
struct alignas(sizeof(Lanes)) ChannelBlock {
    Lanes point[4];   // d (x, y, z) and intensity
    Lanes centre[3];  // W_abs
    Lanes mean[3];    // W_mean
    Lanes bias;
};

std::vector<ChannelBlock> arrange_weights(const float* weight, const float* bias, int channels) {
    std::vector<ChannelBlock> blocks(static_cast<std::size_t>((channels + kLanes - 1) / kLanes), ChannelBlock{});
    for (int c = 0; c < channels; ++c) {
        ChannelBlock& block = blocks[static_cast<std::size_t>(c / kLanes)];
        const int lane = c % kLanes;
        const auto w = [&](int feature) { return weight[feature * channels + c]; };
        for (int axis = 0; axis < 3; ++axis) {
            block.point[axis][lane] = w(axis) + w(4 + axis) + w(7 + axis);
            block.centre[axis][lane] = w(axis);
            block.mean[axis][lane] = w(4 + axis);
        }
        block.point[3][lane] = w(3);
        block.bias[lane] = bias[c];
    }
    return blocks;
}

// Where a value of the canvas lies: cell * per_cell + channel * per_channel.
struct Layout {
    std::int64_t per_cell, per_channel;
};

struct PillarRun {
    std::int32_t cell;
    std::int32_t begin, end;  // its points among the sorted ones
    Vec3 centre, to_centre;   // to_centre = centre - mean
};

PD_HOST_DEVICE void encode_block(const PillarRun& run, const Point* local, const ChannelBlock& w, Lanes& out) {
    Lanes best = Lanes{} - std::numeric_limits<float>::infinity();
    for (std::int32_t i = run.begin; i < run.end; ++i) {
        const Point p = local[i];
        const Lanes value = (w.point[0] * p.x + w.point[1] * p.y) + (w.point[2] * p.z + w.point[3] * p.intensity);
        best = value > best ? value : best;
    }
    const Lanes value = best + (w.centre[0] * run.centre.x + w.centre[1] * run.centre.y) +
                        (w.centre[2] * run.centre.z + w.bias) + (w.mean[0] * run.to_centre.x) +
                        (w.mean[1] * run.to_centre.y + w.mean[2] * run.to_centre.z);
    out = value > 0.0f ? value : Lanes{};
}

PD_CLONES void encode_pillars(const PillarRun* runs, std::size_t count, const Point* local,
                              const ChannelBlock* blocks, int channels, Layout layout, float* canvas) {
    for (std::size_t p = 0; p < count; ++p) {
        float* cell = canvas + runs[p].cell * layout.per_cell;
        for (int first = 0; first < channels; first += kLanes) {
            Lanes values;
            encode_block(runs[p], local, blocks[first / kLanes], values);
            const int lanes = std::min(kLanes, channels - first);
            float* out = cell + first * layout.per_channel;
            for (int c = 0; c < lanes; ++c) out[c * layout.per_channel] = values[c];
        }
    }
}

class PillarEncoder {
   public:
    PillarEncoder(const Grid& grid, const Floats& weight, const Floats& bias, bool channels_last)
        : grid_(grid), channels_(static_cast<int>(bias.size())) {
        if (weight.ndim() != 2 || weight.shape(0) != kPointFeatures || weight.shape(1) != channels_) {
            throw std::invalid_argument("weight must have shape (10, C) and bias (C,)");
        }
        blocks_ = arrange_weights(weight.data(), bias.data(), channels_);
        const std::int64_t plane = std::int64_t{grid.nx} * grid.ny;
        layout_ = channels_last ? Layout{channels_, 1} : Layout{1, plane};
        canvas_ = channels_last ? Floats({py::ssize_t{1}, py::ssize_t{grid.ny}, py::ssize_t{grid.nx},
                                          static_cast<py::ssize_t>(channels_)})
                                : Floats({py::ssize_t{1}, static_cast<py::ssize_t>(channels_), py::ssize_t{grid.ny},
                                          py::ssize_t{grid.nx}});
        std::memset(canvas_.mutable_data(), 0, static_cast<std::size_t>(canvas_.nbytes()));
        drawn_.reset(plane);
    }

    Floats encode(const Floats& points) {
        const PointView view = view_points(points);
        float* canvas = canvas_.mutable_data();
        {
            py::gil_scoped_release release;
            const std::lock_guard<std::mutex> one_at_a_time(mutex_);
            fill(view, canvas);
        }
        return canvas_;
    }

   private:
    void fill(PointView points, float* canvas) {
        assignment_.assign(points, grid_);
        gather_runs();
        sort_points(points);
        clear_left_cells(canvas);
        encode_pillars(runs_.data(), runs_.size(), local_.data(), blocks_.data(), channels_, layout_, canvas);
    }

    // Zeroes the cells that hold a pillar of an earlier cloud and none now; the others are overwritten.
    void clear_left_cells(float* canvas) {
        drawn_.turn_to(assignment_.occupancy, [&](std::int64_t cell) {
            float* out = canvas + cell * layout_.per_cell;
            for (int c = 0; c < channels_; ++c) out[c * layout_.per_channel] = 0.0f;
        });
    }

    void gather_runs() {
        runs_.resize(assignment_.cells.size());
        std::int32_t begin = 0;
        for (std::size_t p = 0; p < runs_.size(); ++p) {
            const PillarSum& sum = assignment_.sums[p];
            const Vec3 mean = pillar_mean(sum), centre = pillar_centre(assignment_.cells[p], grid_);
            const Vec3 to_centre = {centre.x - mean.x, centre.y - mean.y, centre.z - mean.z};
            runs_[p] = {assignment_.cells[p], begin, begin, centre, to_centre};
            begin += sum.count;
        }
    }

    // Places the points, relative to their pillar's centre, one pillar after the other; `end` of each run serves as
    // the place of its next point.
    void sort_points(PointView points) {
        local_.resize(static_cast<std::size_t>(assignment_.kept));
        for (std::int64_t i = 0; i < points.size; ++i) {
            if (assignment_.pillar[i] < 0) continue;
            PillarRun& run = runs_[assignment_.pillar[i]];
            const Point& p = points.data[i];
            local_[run.end++] = {p.x - run.centre.x, p.y - run.centre.y, p.z - run.centre.z, p.intensity};
        }
    }

    std::mutex mutex_;
    Grid grid_;
    int channels_;
    std::vector<ChannelBlock> blocks_;
    Layout layout_{};
    Floats canvas_;
    Assignment assignment_;
    DrawnCells drawn_;
    std::vector<PillarRun> runs_;
    std::vector<Point> local_;
};

}  // namespace
}  // namespace pd_edge

PYBIND11_MODULE(_pillars, m) {
    using pd_edge::Grid;
    py::class_<Grid>(m, "Grid")
        .def(py::init([](float scale, float x_offset, float y_offset, float z_min, float z_max, float cell,
                         float x_centre, float y_centre, float z_centre, std::int32_t nx, std::int32_t ny) {
                 return Grid{scale, x_offset, y_offset, z_min, z_max, cell, x_centre, y_centre, z_centre, nx, ny};
             }),
             py::arg("scale"), py::arg("x_offset"), py::arg("y_offset"), py::arg("z_min"), py::arg("z_max"),
             py::arg("cell"), py::arg("x_centre"), py::arg("y_centre"), py::arg("z_centre"), py::arg("nx"),
             py::arg("ny"));
    m.def("point_cells", &pd_edge::point_cells, py::arg("points").noconvert(), py::arg("grid"));
    m.def("pillarize", &pd_edge::pillarize, py::arg("points").noconvert(), py::arg("grid"));
    py::class_<pd_edge::PillarEncoder>(m, "PillarEncoder")
        .def(py::init<const Grid&, const pd_edge::Floats&, const pd_edge::Floats&, bool>(), py::arg("grid"),
             py::arg("weight").noconvert(), py::arg("bias").noconvert(), py::arg("channels_last"))
        .def("encode", &pd_edge::PillarEncoder::encode, py::arg("points").noconvert());
}
