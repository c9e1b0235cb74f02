// What both plugins have in common: they are told a grid, and clone, serialize and report alike.
#pragma once

#include <utility>

#include "plugin_fields.hpp"

namespace pd_edge {

constexpr std::int32_t kSuccess = 0, kFailure = -1;
constexpr const char *kVersion = "1", *kNamespace = "pd_edge";

inline bool is(const nvinfer1::PluginTensorDesc& tensor, nvinfer1::DataType type,
               nvinfer1::TensorFormat format = nvinfer1::TensorFormat::kLINEAR) {
    return tensor.type == type && tensor.format == format;
}

class PillarPlugin : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
   public:
    // `kind` must outlive the plugin.
    PillarPlugin(const Kind& kind, const Grid& grid) : kind_(kind), grid_(grid) {
        for (std::size_t i = 0; i < kind.attributes; ++i) {
            const Attribute& each = kAttributes[i];
            std::array<char, 32> text;
            if (each.integer != nullptr) {
                std::snprintf(text.data(), text.size(), "_%d", grid.*each.integer);
            } else {
                std::snprintf(text.data(), text.size(), "_%a", static_cast<double>(grid.*each.real));
            }
            timing_id_ += text.data();
        }
    }

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override {
        switch (type) {
            case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
            case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
            case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }

    nvinfer1::IPluginV3* clone() noexcept override {
        return guard<nvinfer1::IPluginV3*>(nullptr, [&] { return copy(); });
    }

    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override {
        return guard<nvinfer1::IPluginV3*>(nullptr, [&] {
            PillarPlugin* attached = copy();
            attached->recorder_ = context != nullptr ? context->getErrorRecorder() : nullptr;
            return attached;
        });
    }

    const nvinfer1::AsciiChar* getPluginName() const noexcept override { return kind_.name; }
    const nvinfer1::AsciiChar* getPluginVersion() const noexcept override { return kVersion; }
    const nvinfer1::AsciiChar* getPluginNamespace() const noexcept override { return kNamespace; }
    std::int32_t getNbOutputs() const noexcept override { return kind_.outputs; }
    const char* getTimingCacheID() noexcept override { return timing_id_.c_str(); }

    std::int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc*, std::int32_t inputs,
                                 const nvinfer1::DynamicPluginTensorDesc*, std::int32_t outputs) noexcept override {
        return guard(kFailure, [&] { return check_numbers(inputs, outputs), kSuccess; });
    }

    std::int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, std::int32_t inputs,
                               const nvinfer1::PluginTensorDesc*, std::int32_t outputs) noexcept override {
        return guard(kFailure, [&] { return check_numbers(inputs, outputs), check_inputs(in), kSuccess; });
    }

    const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override {
        fields_ = fields_of(&grid_);
        collection_ = {static_cast<std::int32_t>(kind_.attributes), fields_.data()};
        return &collection_;
    }

   protected:
    template <typename Result, typename Action>
    Result guard(Result failure, Action&& action) const noexcept {
        return guarded(kind_, recorder_, failure, std::forward<Action>(action));
    }

    void check_numbers(std::int32_t inputs, std::int32_t outputs) const {
        if (inputs == kind_.inputs && outputs == kind_.outputs) return;
        refuse(std::to_string(inputs) + " inputs and " + std::to_string(outputs) + " outputs, expected " +
               std::to_string(kind_.inputs) + " and " + std::to_string(kind_.outputs));
    }

    const Grid& grid() const { return grid_; }
    std::int64_t cells() const { return std::int64_t{grid_.nx} * grid_.ny; }

   private:
    virtual PillarPlugin* copy() const = 0;
    virtual void check_inputs(const nvinfer1::PluginTensorDesc* inputs) const = 0;  // throws std::invalid_argument

    const Kind& kind_;
    Grid grid_;
    std::string timing_id_;
    nvinfer1::IErrorRecorder* recorder_ = nullptr;
    Fields fields_{};
    nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace pd_edge
