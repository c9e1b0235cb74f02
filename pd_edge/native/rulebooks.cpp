// Rulebooks as training reads them, over all frames of a batch: tables from output to input sites, and back. The C++ twin
// of what builds them in pd_edge/training/sparse_conv.py.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "sparse_rules.hpp"

namespace py = pybind11;

namespace pd_edge {
namespace {

// The sites of ascending keys within the grid, (iy * nx + ix) * heights + iz; `sites` has its size.
void find_sites(const std::int64_t* keys, std::int64_t count, Sites& sites) {
    const std::int64_t heights = sites.size[0];
    sites.occupancy.reset(std::int64_t{sites.size[1]} * sites.size[2]);
    for (std::int64_t i = 0; i < count; ++i) {
        insert(sites.occupancy.bits.data(), static_cast<std::int32_t>(keys[i] / heights));
    }
    sites.list_columns();
    std::size_t column = 0;
    for (std::int64_t i = 0; i < count; ++i) {
        while (sites.columns[column].cell != keys[i] / heights) ++column;
        sites.columns[column].mask |= std::uint64_t{1} << (keys[i] % heights);
    }
    sites.number_rows();
}

// Writes into (W, K) of a frame, W output sites: the input row at each place of the kernel that has one, counted from
// first_row. The other places are left as they are.
void list_neighbours(const Sites& in, const Sites& out, const Kernel& kernel, std::int32_t first_row,
                     std::int32_t* table) {
    const int places = kernel.places();
    std::vector<Pair> pairs(static_cast<std::size_t>(places) * kListRoom);
    std::vector<std::int32_t> counts;
    for (const Block& block : out.blocks) {
        counts.assign(static_cast<std::size_t>(places), 0);
        find_pairs(in, out, kernel, block, pairs.data(), counts.data());
        for (int place = 0; place < places; ++place) {
            const Pair* const list = pairs.data() + place * kListRoom;
            for (std::int32_t i = 0; i < counts[static_cast<std::size_t>(place)]; ++i) {
                table[std::int64_t{list[i].out} * places + place] = list[i].in + first_row;
            }
        }
    }
}

// The places of a kernel in groups that an input meets together, by where it lies between the outputs: for each group
// its places, and for each place which of its group's it is.
struct PlaceGroups {
    Triple stride, padding;
    std::vector<std::vector<std::int64_t>> places;
    std::vector<std::int32_t> order;

    explicit PlaceGroups(const Kernel& kernel)
        : stride(kernel.stride),
          padding(kernel.padding),
          places(static_cast<std::size_t>(stride[0] * stride[1] * stride[2])),
          order(static_cast<std::size_t>(kernel.places())) {
        std::int32_t place = 0;
        for (std::int32_t kz = 0; kz < kernel.size[0]; ++kz) {
            for (std::int32_t ky = 0; ky < kernel.size[1]; ++ky) {
                for (std::int32_t kx = 0; kx < kernel.size[2]; ++kx, ++place) {
                    std::vector<std::int64_t>& group = places[number({kz, ky, kx})];
                    order[static_cast<std::size_t>(place)] = static_cast<std::int32_t>(group.size());
                    group.push_back(place);
                }
            }
        }
    }

    // The group of an input at a padded position.
    std::size_t number(const Triple& at) const {
        return static_cast<std::size_t>((at[0] % stride[0] * stride[1] + at[1] % stride[1]) * stride[2] +
                                        at[2] % stride[2]);
    }
};

// Calls `found` with the group of every input of a frame, in the order of rows.
template <typename Found>
void for_groups(const Sites& in, const PlaceGroups& groups, Found found) {
    const Triple& padding = groups.padding;
    for (const Column& column : in.columns) {
        const std::int32_t iy = column.cell / in.size[2], ix = column.cell - iy * in.size[2];
        for (std::uint64_t rest = column.mask; rest != 0; rest &= rest - 1) {
            found(groups.number({__builtin_ctzll(rest) + padding[0], iy + padding[1], ix + padding[2]}));
        }
    }
}

// A strided rulebook from the inputs' side.
struct Reached {
    std::vector<std::int32_t> inputs, outputs;
    std::vector<std::int64_t> places;
    std::vector<std::array<std::int64_t, 2>> sizes;  // inputs and places of each group that has places
};

// Turns a batch's table (W, K), `none` being its number of inputs, the other way round.
Reached reverse(const std::vector<Sites>& frames, const Kernel& kernel, const std::int32_t* table,
                std::int32_t outputs, std::int32_t none) {
    const PlaceGroups groups(kernel);
    const std::size_t count = groups.places.size();
    std::vector<std::int64_t> members(count, 0), next_input(count), next_output(count);
    for (const Sites& in : frames) for_groups(in, groups, [&](std::size_t group) { ++members[group]; });

    Reached reached;
    std::int64_t inputs = 0, cells = 0;
    for (std::size_t group = 0; group < count; ++group) {
        const auto size = static_cast<std::int64_t>(groups.places[group].size());
        if (size == 0) continue;  // a kernel shorter than its stride passes these by
        next_input[group] = inputs, next_output[group] = cells;
        inputs += members[group], cells += members[group] * size;
        reached.sizes.push_back({members[group], size});
        reached.places.insert(reached.places.end(), groups.places[group].begin(), groups.places[group].end());
    }
    reached.inputs.resize(static_cast<std::size_t>(inputs));
    reached.outputs.assign(static_cast<std::size_t>(cells), outputs);

    std::vector<std::int64_t> cell_of(static_cast<std::size_t>(none));  // where an input's outputs begin
    std::int32_t row = 0;
    for (const Sites& in : frames) {
        for_groups(in, groups, [&](std::size_t group) {
            const auto size = static_cast<std::int64_t>(groups.places[group].size());
            if (size > 0) {
                reached.inputs[static_cast<std::size_t>(next_input[group]++)] = row;
                cell_of[static_cast<std::size_t>(row)] = next_output[group];
                next_output[group] += size;
            }
            ++row;
        });
    }
    const int places = kernel.places();
    for (std::int32_t to = 0; to < outputs; ++to, table += places) {
        for (int place = 0; place < places; ++place) {
            if (table[place] == none) continue;
            const std::int64_t first = cell_of[static_cast<std::size_t>(table[place])];
            reached.outputs[static_cast<std::size_t>(first + groups.order[static_cast<std::size_t>(place)])] = to;
        }
    }
    return reached;
}

using Keys = py::array_t<std::int64_t, py::array::c_style>;

template <typename Value>
py::array_t<Value> to_array(const std::vector<Value>& values) {
    return py::array_t<Value>(static_cast<py::ssize_t>(values.size()), values.data());
}

std::int32_t count_sites(const std::vector<Sites>& frames) {
    std::int64_t sites = 0;
    for (const Sites& frame : frames) sites += frame.count;
    if (sites > std::numeric_limits<std::int32_t>::max()) throw std::length_error("a batch has at most 2^31 - 1 sites");
    return static_cast<std::int32_t>(sites);
}

// The table of a layer over a batch, (W, K).
py::array_t<std::int32_t> find_table(const std::vector<Sites>& in, const std::vector<Sites>& out,
                                     const Kernel& kernel) {
    const std::int32_t none = count_sites(in), places = kernel.places();
    py::array_t<std::int32_t> table({py::ssize_t{count_sites(out)}, py::ssize_t{places}});
    std::int32_t *to = table.mutable_data(), first = 0;
    const py::gil_scoped_release release;
    std::fill_n(to, table.size(), none);
    for (std::size_t frame = 0; frame < in.size(); ++frame) {
        list_neighbours(in[frame], out[frame], kernel, first, to);
        first += in[frame].count;
        to += std::int64_t{out[frame].count} * places;
    }
    return table;
}

// The sites of each frame's keys.
std::vector<Sites> find_frames(const std::vector<Keys>& frames, const Triple& size) {
    std::vector<Sites> sites(frames.size());
    for (std::size_t frame = 0; frame < frames.size(); ++frame) {
        sites[frame].size = size;
        find_sites(frames[frame].data(), frames[frame].size(), sites[frame]);
    }
    return sites;
}

// The sites of a strided layer, frame by frame.
std::vector<Sites> stride_frames(const std::vector<Sites>& in, const Kernel& kernel) {
    std::vector<Sites> out(in.size());
    for (std::size_t frame = 0; frame < in.size(); ++frame) {
        for (int axis = 0; axis < 3; ++axis) out[frame].size[axis] = kernel.output(axis, in[frame].size[axis]);
        stride_sites(in[frame], kernel, out[frame]);
    }
    return out;
}

// The rulebooks of layers over a batch, and the keys of the last sites.
py::tuple rulebooks(const std::vector<Keys>& frames, const Triple& size,
                    const std::vector<std::tuple<bool, Triple, Triple, Triple>>& layers) {
    std::vector<Sites> sites = find_frames(frames, size);
    py::list books;
    for (const auto& [submanifold, kernel_size, stride, padding] : layers) {
        const Kernel kernel{kernel_size, stride, padding};
        check_kernel(kernel);
        if (submanifold) {
            books.append(py::make_tuple(find_table(sites, sites, kernel), py::none()));
            continue;
        }
        std::vector<Sites> out = stride_frames(sites, kernel);
        const py::array_t<std::int32_t> table = find_table(sites, out, kernel);
        const Reached reached = reverse(sites, kernel, table.data(), count_sites(out), count_sites(sites));
        books.append(py::make_tuple(table, py::make_tuple(to_array(reached.inputs), to_array(reached.outputs),
                                                          to_array(reached.places), reached.sizes)));
        sites = std::move(out);
    }
    Keys keys(py::ssize_t{count_sites(sites)});
    std::int64_t *key = keys.mutable_data(), first = 0;
    for (const Sites& frame : sites) {
        key = list_keys(frame, key, first);
        first += std::int64_t{frame.size[0]} * frame.size[1] * frame.size[2];
    }
    return py::make_tuple(books, keys);
}

}  // namespace
}  // namespace pd_edge

PYBIND11_MODULE(_rulebooks, m) {
    m.def("rulebooks", &pd_edge::rulebooks, py::arg("frames"), py::arg("size"), py::arg("layers"));
}
