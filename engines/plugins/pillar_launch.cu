// Launches on the GPU. Everything goes to the given stream and nothing is allocated, so that a CUDA graph can hold it.

#include "pillar_kernels.cu"
#include "pillar_launch.hpp"

namespace pd_edge {
namespace {

constexpr std::int64_t kBlock = 256;
constexpr std::int64_t kMaxBlocks = 2147483647;

template <typename Arguments>
cudaError_t start(void (*kernel)(Arguments), std::int64_t threads, const Arguments& arguments, Stream stream) {
    if (threads == 0) return cudaSuccess;
    const std::int64_t blocks = (threads + kBlock - 1) / kBlock;
    if (blocks > kMaxBlocks) return cudaErrorInvalidConfiguration;
    kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(kBlock), 0, stream>>>(arguments);
    return cudaGetLastError();
}

const char* text(cudaError_t error) { return error == cudaSuccess ? nullptr : cudaGetErrorString(error); }

template <typename Bits>
const char* clear_and_scatter(void (*kernel)(Scatter<Bits>), const Scatter<Bits>& scatter, Stream stream) {
    const auto bytes = static_cast<std::size_t>(scatter.canvas.size) * sizeof(Bits);
    const cudaError_t cleared = cudaMemsetAsync(scatter.canvas.data, 0, bytes, stream);
    if (cleared != cudaSuccess) return text(cleared);
    return text(start(kernel, scatter.count * scatter.channels, scatter, stream));
}

}  // namespace

const char* launch(const Voxelization& voxelization, Stream stream) {
    for (auto* kernel : {pd_edge_locate, pd_edge_sum, pd_edge_decorate}) {
        const cudaError_t error = start(kernel, voxelization.count, voxelization, stream);
        if (error != cudaSuccess) return text(error);
    }
    return nullptr;
}

const char* launch(const Scatter<std::int32_t>& scatter, Stream stream) {
    return clear_and_scatter(pd_edge_scatter_float, scatter, stream);
}

const char* launch(const Scatter<std::int16_t>& scatter, Stream stream) {
    return clear_and_scatter(pd_edge_scatter_half, scatter, stream);
}

}  // namespace pd_edge
