// The kernels as a module: compiled to a fatbin by nvcc or to a cubin by NVRTC (pd_edge.engines.kernels), and into the
// plugin library by CMake. The names are C's, so that PyCUDA finds them. A block may have any number of threads.

#include "pillar_kernels.cuh"

namespace pd_edge {
namespace {

__device__ __forceinline__ std::int64_t thread_index() {
    return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

}  // namespace
}  // namespace pd_edge

extern "C" {

__global__ void pd_edge_locate(pd_edge::Voxelization v) {
    const std::int64_t i = pd_edge::thread_index();
    if (i < v.count) pd_edge::locate(v, i);
}

__global__ void pd_edge_sum(pd_edge::Voxelization v) {
    const std::int64_t i = pd_edge::thread_index();
    if (i < v.count) pd_edge::sum(v, i);
}

__global__ void pd_edge_decorate(pd_edge::Voxelization v) {
    const std::int64_t i = pd_edge::thread_index();
    if (i < v.count) pd_edge::decorate(v, i);
}

__global__ void pd_edge_scatter_float(pd_edge::Scatter<std::int32_t> s) {
    const std::int64_t i = pd_edge::thread_index();
    if (i < s.count * s.channels) pd_edge::scatter(s, i);
}

__global__ void pd_edge_scatter_half(pd_edge::Scatter<std::int16_t> s) {
    const std::int64_t i = pd_edge::thread_index();
    if (i < s.count * s.channels) pd_edge::scatter(s, i);
}

__global__ void pd_edge_encode(pd_edge::Encoding e) {
    const std::int64_t i = pd_edge::thread_index();
    if (i < e.count * e.channels) pd_edge::encode(e, i);
}
}
