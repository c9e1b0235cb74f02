// Launches on the CPU: the kernels' bodies in a loop, in any order of the threads and on several workers at a time.

#include <thread>
#include <vector>

#include "pillar_launch.hpp"

#define PD_EXPORT extern "C" __attribute__((visibility("default")))

namespace pd_edge {
namespace {

// How to run a launch's threads: `order` is a permutation of them, or null for ascending order.
struct Schedule {
    const std::int64_t* order = nullptr;
    std::int32_t workers = 1;
};

template <typename Arguments>
void run(void (*body)(const Arguments&, std::int64_t), const Arguments& arguments, std::int64_t threads,
         const Schedule& schedule) {
    const auto work = [&](std::int64_t first) {
        for (std::int64_t i = first; i < threads; i += schedule.workers) {
            body(arguments, schedule.order != nullptr ? schedule.order[i] : i);
        }
    };
    std::vector<std::thread> others;
    for (std::int32_t worker = 1; worker < schedule.workers; ++worker) others.emplace_back(work, worker);
    work(0);
    for (std::thread& other : others) other.join();
}

void voxelize(const Voxelization& v, const Schedule& schedule) {
    run<Voxelization>(locate, v, v.count, schedule);
    run<Voxelization>(sum, v, v.count, schedule);
    run<Voxelization>(decorate, v, v.count, schedule);
}

template <typename Bits>
void clear(const Canvas<Bits>& canvas) {
    std::memset(canvas.data, 0, static_cast<std::size_t>(canvas.size) * sizeof(Bits));
}

template <typename Bits>
void clear_and_scatter(const Scatter<Bits>& s, const Schedule& schedule) {
    clear(s.canvas);
    run<Scatter<Bits>>(scatter, s, s.count * s.channels, schedule);
}

}  // namespace

const char* launch(const Voxelization& voxelization, Stream) {
    voxelize(voxelization, {});
    return nullptr;
}

const char* launch(const Scatter<std::int32_t>& scatter, Stream) {
    clear_and_scatter(scatter, {});
    return nullptr;
}

const char* launch(const Scatter<std::int16_t>& scatter, Stream) {
    clear_and_scatter(scatter, {});
    return nullptr;
}

}  // namespace pd_edge

// For ctypes (pd_edge.engines.kernels).

PD_EXPORT void pd_edge_host_voxelize(const pd_edge::Voxelization* v, const std::int64_t* order, std::int32_t workers) {
    pd_edge::voxelize(*v, {order, workers});
}

PD_EXPORT void pd_edge_host_scatter_float(const pd_edge::Scatter<std::int32_t>* s, const std::int64_t* order,
                                          std::int32_t workers) {
    pd_edge::clear_and_scatter(*s, {order, workers});
}

PD_EXPORT void pd_edge_host_scatter_half(const pd_edge::Scatter<std::int16_t>* s, const std::int64_t* order,
                                         std::int32_t workers) {
    pd_edge::clear_and_scatter(*s, {order, workers});
}

PD_EXPORT void pd_edge_host_encode(const pd_edge::Encoding* e, const std::int64_t* order, std::int32_t workers) {
    pd_edge::clear(e->canvas);
    pd_edge::run<pd_edge::Encoding>(pd_edge::encode, *e, e->count * e->channels, {order, workers});
}
