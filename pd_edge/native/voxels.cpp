// Voxels on the CPU: the C++ twin of pd_edge/voxels.py, and SECOND's sparse encoder from a cloud to its canvas.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "occupancy.hpp"
#include "sparse_convolution.hpp"
#include "sparse_rules.hpp"
#include "team.hpp"
#include "voxel_sites.hpp"

namespace py = pybind11;

namespace pd_edge {
namespace {

constexpr int kVoxelFeatures = 4;

py::tuple voxelize(const Floats& points, const VoxelGrid& grid) {
    const PointView view = view_points(points);
    Voxelizer voxelizer;
    Sites sites;
    {
        py::gil_scoped_release release;
        voxelizer.run(view, grid, sites);
    }
    const auto count = static_cast<py::ssize_t>(sites.count);
    Floats features({count, py::ssize_t{kVoxelFeatures}});
    py::array_t<std::int64_t> keys(count);
    py::array_t<std::int32_t> counts(count);
    voxelizer.means(features.mutable_data());
    list_keys(sites, keys.mutable_data());
    std::transform(voxelizer.sums.begin(), voxelizer.sums.end(), counts.mutable_data(),
                   [](const VoxelSum& sum) { return sum.count; });
    return py::make_tuple(features, keys, counts);
}

// Seconds that the steps of a call took.
struct Seconds {
    double voxelize = 0, rules = 0, convolve = 0, fold = 0;
};

class Watch {
   public:
    // Adds what has passed since the last lap.
    void lap(double& seconds) {
        const auto now = std::chrono::steady_clock::now();
        seconds += std::chrono::duration<double>(now - last_).count();
        last_ = now;
    }

   private:
    std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

struct Layer {
    bool submanifold;
    Kernel kernel;
    Convolution convolution;
};

using LayerTuple = std::tuple<bool, Triple, Triple, Triple, Floats, Floats>;

Layer make_layer(const LayerTuple& from) {
    const auto& [submanifold, size, stride, padding, weight, bias] = from;
    const Kernel kernel{size, stride, padding};
    check_kernel(kernel);
    if (weight.ndim() != 3 || weight.shape(0) != kernel.places() || weight.shape(2) != bias.size()) {
        throw std::invalid_argument("weights must have shape (K, inputs, outputs) and biases (outputs,)");
    }
    const auto inputs = static_cast<int>(weight.shape(1)), outputs = static_cast<int>(weight.shape(2));
    return {submanifold, kernel, Convolution(weight.data(), bias.data(), kernel.places(), inputs, outputs)};
}

Convolve find_convolve(const std::string& instructions) {
    for (const InstructionSet& set : instruction_sets()) {
        if (set.name == instructions) return set.convolve;
    }
    throw std::invalid_argument("this machine has no instruction set " + instructions);
}

std::vector<std::string> instruction_set_names() {
    std::vector<std::string> names;
    for (const InstructionSet& set : instruction_sets()) names.push_back(set.name);
    return names;
}

// Room for rows of features; never shrinks.
float* make_room(std::vector<Line>& lines, std::int64_t floats) {
    const auto needed = static_cast<std::size_t>(floats / kRowFloats + 1);
    if (lines.size() < needed) lines.resize(needed);
    return lines.data()->values;
}

// Where a value of the canvas lies: cell * per_cell + channel * per_channel.
struct Layout {
    std::int64_t per_cell, per_channel;
};

// Writes the columns of a block: channel = feature * heights + height, 0 where there is no site.
void fold_block(const Sites& sites, const Block& block, const Rows& features, int channels, Layout layout,
                float* canvas) {
    std::int32_t rows[kBlockSites];
    const Column* columns = sites.columns.data() + block.begin;
    const int count = block.end - block.begin, heights = sites.size[0];
    for (int height = 0; height < heights; ++height) {
        for (int i = 0; i < count; ++i) {
            rows[i] = (columns[i].mask >> height) & 1 ? row_of(columns[i], height) : -1;
        }
        for (int c = 0; c < channels; ++c) {
            float* plane = canvas + (std::int64_t{c} * heights + height) * layout.per_channel;
            for (int i = 0; i < count; ++i) {
                const float value = rows[i] < 0 ? 0.0f : features.data[rows[i] * features.stride + c];
                plane[columns[i].cell * layout.per_cell] = value;
            }
        }
    }
}

class VoxelEncoder {
   public:
    VoxelEncoder(const VoxelGrid& grid, const std::vector<LayerTuple>& layers, bool channels_last, int threads,
                 const std::string& instructions)
        : grid_(grid), threads_(threads), convolve_(find_convolve(instructions)), sites_(1) {
        sites_[0].size = {grid.nz + 1, grid.ground.ny, grid.ground.nx};
        for (const LayerTuple& layer : layers) add_layer(make_layer(layer));
        if (layers_.empty() || threads < 1) throw std::invalid_argument("an encoder has a layer and a thread");
        channels_ = static_cast<int>(std::get<5>(layers.back()).size());
        const auto [heights, ny, nx] = sites_.back().size;
        const py::ssize_t channels = py::ssize_t{channels_} * heights, rows = ny, columns = nx;
        layout_ = channels_last ? Layout{channels, 1} : Layout{1, rows * columns};
        canvas_ = channels_last ? Floats({py::ssize_t{1}, rows, columns, channels})
                                : Floats({py::ssize_t{1}, channels, rows, columns});
        std::memset(canvas_.mutable_data(), 0, static_cast<std::size_t>(canvas_.nbytes()));
        drawn_.reset(rows * columns);
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

    py::dict seconds() {
        using py::operator""_a;
        const std::lock_guard<std::mutex> one_at_a_time(mutex_);
        return py::dict("voxelize"_a = seconds_.voxelize, "rules"_a = seconds_.rules,
                        "convolve"_a = seconds_.convolve, "fold"_a = seconds_.fold);
    }

   private:
    void add_layer(Layer layer) {
        const Triple in = sites_.back().size;
        if (!layer.submanifold) {
            sites_.emplace_back();
            for (int axis = 0; axis < 3; ++axis) {
                sites_.back().size[axis] = layer.kernel.output(axis, in[axis]);
            }
        }
        layers_.push_back(std::move(layer));
    }

    void fill(PointView points, float* canvas) {
        Team team(threads_);
        Watch watch;
        seconds_ = {};
        voxelizer_.run(points, grid_, sites_[0]);
        voxelizer_.means(make_room(features_, std::int64_t{sites_[0].count} * kVoxelFeatures));
        watch.lap(seconds_.voxelize);
        const Rows encoded = run_layers(team, watch);
        clear_left_cells(canvas);
        team.share(sites_.back().blocks.size(), [&](std::size_t block) {
            fold_block(sites_.back(), sites_.back().blocks[block], encoded, channels_, layout_, canvas);
        });
        watch.lap(seconds_.fold);
    }

    Rows run_layers(Team& team, Watch& watch) {
        Rows rows{features_.data()->values, kVoxelFeatures};
        std::size_t level = 0;
        bool rules_hold = false;
        for (const Layer& layer : layers_) {
            const Sites& in = sites_[level];
            if (!layer.submanifold) stride_sites(in, layer.kernel, sites_[++level]);
            const Sites& out = sites_[level];
            if (!layer.submanifold || !rules_hold) find_rules(team, in, out, layer.kernel);
            rules_hold = layer.submanifold;  // the submanifold layers of a stage have the same
            watch.lap(seconds_.rules);
            rows = convolve(team, layer.convolution, rows, out);
            watch.lap(seconds_.convolve);
        }
        return rows;
    }

    void find_rules(Team& team, const Sites& in, const Sites& out, const Kernel& kernel) {
        rules_.reset(out, kernel.places());
        team.share(out.blocks.size(), [&](std::size_t block) {
            find_pairs(in, out, kernel, out.blocks[block], rules_.pairs_of(block), rules_.counts_of(block));
        });
    }

    Rows convolve(Team& team, const Convolution& layer, const Rows& in, const Sites& out) {
        float* to = make_room(next_, out.count * layer.stride);
        team.share(out.blocks.size(), [&](std::size_t block) {
            convolve_(layer, rules_.pairs_of(block), rules_.counts_of(block), in, out.blocks[block], to);
        });
        std::swap(features_, next_);
        return {to, layer.stride};
    }

    // Zeroes the cells that hold a site of an earlier cloud and none now; the others are overwritten.
    void clear_left_cells(float* canvas) {
        const std::int64_t channels = std::int64_t{channels_} * sites_.back().size[0];
        drawn_.turn_to(sites_.back().occupancy, [&](std::int64_t cell) {
            float* out = canvas + cell * layout_.per_cell;
            for (std::int64_t c = 0; c < channels; ++c) out[c * layout_.per_channel] = 0.0f;
        });
    }

    std::mutex mutex_;
    VoxelGrid grid_;
    int threads_;
    Convolve convolve_;
    std::vector<Layer> layers_;
    int channels_ = 0;
    Layout layout_{};
    Floats canvas_;
    std::vector<Sites> sites_;  // of the input, then of every strided layer
    Voxelizer voxelizer_;
    RuleBook rules_;
    std::vector<Line> features_, next_;
    DrawnCells drawn_;
    Seconds seconds_;
};

}  // namespace
}  // namespace pd_edge

PYBIND11_MODULE(_voxels, m) {
    using pd_edge::Grid;
    using pd_edge::VoxelGrid;
    py::class_<VoxelGrid>(m, "Grid")
        .def(py::init([](float scale, float x_offset, float y_offset, float z_min, float z_max, float z_scale,
                         float z_offset, std::int32_t nx, std::int32_t ny, std::int32_t nz) {
                 const Grid ground{scale, x_offset, y_offset, z_min, z_max, 0, 0, 0, 0, nx, ny};
                 return VoxelGrid{ground, z_scale, z_offset, nz};
             }),
             py::arg("scale"), py::arg("x_offset"), py::arg("y_offset"), py::arg("z_min"), py::arg("z_max"),
             py::arg("z_scale"), py::arg("z_offset"), py::arg("nx"), py::arg("ny"), py::arg("nz"));
    m.def("voxelize", &pd_edge::voxelize, py::arg("points").noconvert(), py::arg("grid"));
    m.def("instruction_sets", &pd_edge::instruction_set_names);
    py::class_<pd_edge::VoxelEncoder>(m, "VoxelEncoder")
        .def(py::init<const VoxelGrid&, const std::vector<pd_edge::LayerTuple>&, bool, int, const std::string&>(),
             py::arg("grid"), py::arg("layers"), py::arg("channels_last"), py::arg("threads"), py::arg("instructions"))
        .def("encode", &pd_edge::VoxelEncoder::encode, py::arg("points").noconvert())
        .def("seconds", &pd_edge::VoxelEncoder::seconds);
}
