// PillarVoxelize and PillarScatter for TensorRT 10.3 to 11.x, as IPluginV3. README.md tells shapes and attributes.
//
// TensorRT loads the library through IPluginRegistry::loadLibrary, which asks getCreators() below. Nothing of
// libnvinfer is called, so the library needs TensorRT's headers only.

#include <algorithm>

#include "pillar_launch.hpp"
#include "pillar_plugin.hpp"

#if NV_TENSORRT_MAJOR < 10 || (NV_TENSORRT_MAJOR == 10 && NV_TENSORRT_MINOR < 3)
#error "pd_edge plugins need TensorRT 10.3 or later"
#endif

#define PD_EXPORT extern "C" __attribute__((visibility("default")))

namespace pd_edge {
namespace {

using namespace nvinfer1;

// `extent` is the second dimension where it is known, as a build-time constant or at run time; else negative.
void check_points(std::int32_t rank, std::int64_t extent) {
    if (rank != 2 || (extent >= 0 && extent != 4)) refuse("points must have shape (N, 4): x y z [m] and intensity");
}

std::int64_t constant_or_unknown(const IDimensionExpr& extent) {
    return extent.isConstant() ? extent.getConstantValue() : -1;
}

class Voxelize : public PillarPlugin {
   public:
    static constexpr Kind kKind{"PillarVoxelize", kAttributes.size(), 1, 2};

    explicit Voxelize(const Grid& grid) : PillarPlugin(kKind, grid) {}

    std::int32_t getOutputDataTypes(DataType* outputs, std::int32_t nb_outputs, const DataType*,
                                    std::int32_t nb_inputs) const noexcept override {
        return guard(kFailure, [&] {
            check_numbers(nb_inputs, nb_outputs);
            outputs[0] = DataType::kFLOAT;
            outputs[1] = DataType::kINT32;
            return kSuccess;
        });
    }

    std::int32_t getOutputShapes(const DimsExprs* inputs, std::int32_t nb_inputs, const DimsExprs*, std::int32_t,
                                 DimsExprs* outputs, std::int32_t nb_outputs, IExprBuilder& builder) noexcept override {
        return guard(kFailure, [&] {
            check_numbers(nb_inputs, nb_outputs);
            check_points(inputs[0].nbDims, inputs[0].nbDims == 2 ? constant_or_unknown(*inputs[0].d[1]) : -1);
            outputs[0] = {2, {inputs[0].d[0], builder.constant(kPointFeatures)}};
            outputs[1] = {1, {inputs[0].d[0]}};
            return kSuccess;
        });
    }

    bool supportsFormatCombination(std::int32_t position, const DynamicPluginTensorDesc* tensors, std::int32_t,
                                   std::int32_t) noexcept override {
        return is(tensors[position].desc, position == 2 ? DataType::kINT32 : DataType::kFLOAT);
    }

    std::size_t getWorkspaceSize(const DynamicPluginTensorDesc*, std::int32_t, const DynamicPluginTensorDesc*,
                                 std::int32_t) const noexcept override {
        return static_cast<std::size_t>(cells()) * sizeof(PillarSum);
    }

    std::int32_t enqueue(const PluginTensorDesc* in, const PluginTensorDesc*, const void* const* inputs,
                         void* const* outputs, void* workspace, cudaStream_t stream) noexcept override {
        return guard(kFailure, [&] {
            check_inputs(in);
            const char* failure = launch(
                Voxelization{static_cast<const Point*>(inputs[0]), in[0].dims.d[0], grid(),
                             static_cast<PillarSum*>(workspace), static_cast<float*>(outputs[0]),
                             static_cast<std::int32_t*>(outputs[1])},
                stream);
            if (failure != nullptr) throw std::runtime_error(failure);
            return kSuccess;
        });
    }

   private:
    Voxelize* copy() const override { return new Voxelize(*this); }

    void check_inputs(const PluginTensorDesc* inputs) const override {
        const Dims& dims = inputs[0].dims;
        check_points(dims.nbDims, dims.nbDims == 2 ? dims.d[1] : -1);
        if (!is(inputs[0], DataType::kFLOAT)) refuse("points must be float32 in linear format");
        // All points may lie in one cell, and its sums have 64 bits.
        const Grid& g = grid();
        const auto outermost = [&](float offset, std::int32_t n) { return std::max(std::fabs(offset), n - offset); };
        const float reach = std::max({outermost(g.x_offset, g.nx) / g.scale, outermost(g.y_offset, g.ny) / g.scale,
                                      std::fabs(g.z_min), std::fabs(g.z_max)});
        if (static_cast<double>(dims.d[0]) * reach * kFixedPoint >= 0x1p63) {
            refuse(std::to_string(dims.d[0]) + " points overflow a pillar's 64-bit sum; split the cloud");
        }
    }
};

template <typename Bits>
Canvas<Bits> canvas_at(void* data, std::int64_t cells, std::int64_t channels, TensorFormat format) {
    if (format == TensorFormat::kLINEAR) return {static_cast<Bits*>(data), channels * cells, cells, 1, cells};
    const std::int64_t padded = format == TensorFormat::kHWC8 ? (channels + 7) / 8 * 8 : channels;
    return {static_cast<Bits*>(data), padded * cells, cells, padded, 1};
}

class ScatterMax : public PillarPlugin {
   public:
    static constexpr Kind kKind{"PillarScatter", 2, 2, 1};

    explicit ScatterMax(const Grid& grid) : PillarPlugin(kKind, grid) {}

    std::int32_t getOutputDataTypes(DataType* outputs, std::int32_t nb_outputs, const DataType* inputs,
                                    std::int32_t nb_inputs) const noexcept override {
        return guard(kFailure, [&] {
            check_numbers(nb_inputs, nb_outputs);
            outputs[0] = inputs[0];
            return kSuccess;
        });
    }

    std::int32_t getOutputShapes(const DimsExprs* inputs, std::int32_t nb_inputs, const DimsExprs*, std::int32_t,
                                 DimsExprs* outputs, std::int32_t nb_outputs, IExprBuilder& builder) noexcept override {
        return guard(kFailure, [&] {
            check_numbers(nb_inputs, nb_outputs);
            check_ranks(inputs[0].nbDims, inputs[1].nbDims);
            outputs[0] = {
                4, {builder.constant(1), inputs[0].d[1], builder.constant(grid().ny), builder.constant(grid().nx)}};
            return kSuccess;
        });
    }

    // The canvas may be channels-last too, as convolutions on tensor cores like it.
    bool supportsFormatCombination(std::int32_t position, const DynamicPluginTensorDesc* tensors, std::int32_t,
                                   std::int32_t) noexcept override {
        const PluginTensorDesc& tensor = tensors[position].desc;
        if (position == 0) return is(tensor, DataType::kFLOAT) || is(tensor, DataType::kHALF);
        if (position == 1) return is(tensor, DataType::kINT32);
        const DataType type = tensors[0].desc.type;
        return is(tensor, type) ||
               is(tensor, type, type == DataType::kHALF ? TensorFormat::kHWC8 : TensorFormat::kHWC);
    }

    std::int32_t enqueue(const PluginTensorDesc* in, const PluginTensorDesc* out, const void* const* inputs,
                         void* const* outputs, void*, cudaStream_t stream) noexcept override {
        return guard(kFailure, [&] {
            check_inputs(in);
            const char* failure = in[0].type == DataType::kHALF ? start<std::int16_t>(in, out, inputs, outputs, stream)
                                                                : start<std::int32_t>(in, out, inputs, outputs, stream);
            if (failure != nullptr) throw std::runtime_error(failure);
            return kSuccess;
        });
    }

   private:
    ScatterMax* copy() const override { return new ScatterMax(*this); }

    static void check_ranks(std::int32_t values, std::int32_t cells) {
        if (values != 2 || cells != 1) refuse("values must have shape (N, C) and cell (N,)");
    }

    void check_inputs(const PluginTensorDesc* inputs) const override {
        check_ranks(inputs[0].dims.nbDims, inputs[1].dims.nbDims);
        if (inputs[0].dims.d[0] != inputs[1].dims.d[0]) {
            refuse(std::to_string(inputs[0].dims.d[0]) + " rows of values, but " +
                   std::to_string(inputs[1].dims.d[0]) + " cells");
        }
        if (inputs[0].dims.d[1] < 1) refuse("values must have a channel");
        if (!is(inputs[0], DataType::kFLOAT) && !is(inputs[0], DataType::kHALF)) {
            refuse("values must be float32 or float16 in linear format");
        }
        if (!is(inputs[1], DataType::kINT32)) refuse("cell must be int32 in linear format");
    }

    template <typename Bits>
    const char* start(const PluginTensorDesc* in, const PluginTensorDesc* out, const void* const* inputs,
                      void* const* outputs, cudaStream_t stream) const {
        const std::int64_t channels = in[0].dims.d[1];
        return launch(Scatter<Bits>{static_cast<const Bits*>(inputs[0]), static_cast<const std::int32_t*>(inputs[1]),
                                    in[0].dims.d[0], static_cast<std::int32_t>(channels),
                                    canvas_at<Bits>(outputs[0], cells(), channels, out[0].format)},
                      stream);
    }
};

template <typename Plugin>
class Creator : public IPluginCreatorV3One {
   public:
    IPluginV3* createPlugin(const AsciiChar*, const PluginFieldCollection* fields, TensorRTPhase) noexcept override {
        const auto create = [&]() -> IPluginV3* { return new Plugin(read_grid(Plugin::kKind, fields)); };
        return guarded<IPluginV3*>(Plugin::kKind, nullptr, nullptr, create);
    }

    const PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
    const AsciiChar* getPluginName() const noexcept override { return Plugin::kKind.name; }
    const AsciiChar* getPluginVersion() const noexcept override { return kVersion; }
    const AsciiChar* getPluginNamespace() const noexcept override { return kNamespace; }

   private:
    Fields fields_ = fields_of(nullptr);
    PluginFieldCollection collection_{static_cast<std::int32_t>(Plugin::kKind.attributes), fields_.data()};
};

}  // namespace
}  // namespace pd_edge

// The two functions that TensorRT looks for in a library of plugins.

PD_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count) {
    static pd_edge::Creator<pd_edge::Voxelize> voxelize;
    static pd_edge::Creator<pd_edge::ScatterMax> scatter;
    static nvinfer1::IPluginCreatorInterface* const creators[] = {&voxelize, &scatter};
    count = 2;
    return creators;
}

PD_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { pd_edge::logger_finder = finder; }
