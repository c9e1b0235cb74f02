// The operations of the plugins, launched on a stream: by pillar_launch.cu on the GPU, by pillar_launch_host.cpp on the
// CPU, where the stream is not looked at.
#pragma once

#include "pillar_kernels.cuh"

struct CUstream_st;  // what cudaStream_t points to

namespace pd_edge {

using Stream = CUstream_st*;

// Null, or why the launch failed. No points are no failure.
const char* launch(const Voxelization& voxelization, Stream stream);

// As above; clears the canvas first.
const char* launch(const Scatter<std::int32_t>& scatter, Stream stream);
const char* launch(const Scatter<std::int16_t>& scatter, Stream stream);

}  // namespace pd_edge
