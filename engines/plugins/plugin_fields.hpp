// Attributes of the plugins, read from what a parser or a serialized engine brings; and where their errors go.
#pragma once

#include <NvInferRuntime.h>

#include <array>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "pillar_math.hpp"

namespace pd_edge {

struct Attribute {
    const char* name;
    std::int32_t Grid::*integer;  // one of the two
    float Grid::*real;
};

// Those of PillarScatter first.
constexpr std::array<Attribute, 11> kAttributes{{
    {"nx", &Grid::nx, nullptr},
    {"ny", &Grid::ny, nullptr},
    {"scale", nullptr, &Grid::scale},
    {"x_offset", nullptr, &Grid::x_offset},
    {"y_offset", nullptr, &Grid::y_offset},
    {"z_min", nullptr, &Grid::z_min},
    {"z_max", nullptr, &Grid::z_max},
    {"cell", nullptr, &Grid::cell},
    {"x_centre", nullptr, &Grid::x_centre},
    {"y_centre", nullptr, &Grid::y_centre},
    {"z_centre", nullptr, &Grid::z_centre},
}};

// What tells the two plugins apart before they run.
struct Kind {
    const char* name;
    std::size_t attributes;
    std::int32_t inputs, outputs;
};

using Fields = std::array<nvinfer1::PluginField, kAttributes.size()>;

// Fields that point into `grid`, or, where it is null, that only tell names and types.
inline Fields fields_of(const Grid* grid) {
    Fields fields;
    for (std::size_t i = 0; i < fields.size(); ++i) {
        const Attribute& each = kAttributes[i];
        const bool integer = each.integer != nullptr;
        const void* data = nullptr;
        if (grid != nullptr) data = integer ? static_cast<const void*>(&(grid->*each.integer)) : &(grid->*each.real);
        using nvinfer1::PluginFieldType;
        fields[i] = {each.name, data, integer ? PluginFieldType::kINT32 : PluginFieldType::kFLOAT32, 1};
    }
    return fields;
}

template <typename Stored>
Stored stored(const nvinfer1::PluginField& field) {
    Stored value;
    std::memcpy(&value, field.data, sizeof value);
    return value;
}

[[noreturn]] inline void refuse(const std::string& why) { throw std::invalid_argument(why); }

inline void read_field(const nvinfer1::PluginField& field, const Attribute& attribute, Grid& grid) {
    using nvinfer1::PluginFieldType;
    const std::string name = std::string("attribute ") + attribute.name;
    if (field.data == nullptr || field.length != 1) refuse(name + " must be one number");
    if (attribute.real != nullptr) {
        if (field.type != PluginFieldType::kFLOAT32) refuse(name + " must be a float32");
        grid.*attribute.real = stored<float>(field);
        if (!std::isfinite(grid.*attribute.real)) refuse(name + " must be finite");
        return;
    }
    const bool narrow = field.type == PluginFieldType::kINT32;
    if (!narrow && field.type != PluginFieldType::kINT64) refuse(name + " must be an integer");
    const std::int64_t value = narrow ? stored<std::int32_t>(field) : stored<std::int64_t>(field);
    if (value < 1 || value > std::numeric_limits<std::int32_t>::max()) {
        refuse(name + " is " + std::to_string(value) + ", expected a positive 32-bit integer");
    }
    grid.*attribute.integer = static_cast<std::int32_t>(value);
}

inline const Attribute& find_attribute(const Kind& kind, const char* name) {
    for (std::size_t i = 0; i < kind.attributes; ++i) {
        if (name != nullptr && std::strcmp(name, kAttributes[i].name) == 0) return kAttributes[i];
    }
    refuse(std::string("attribute ") + (name != nullptr ? name : "without a name") + " is unknown");
}

// Throws std::invalid_argument where an attribute is missing, unknown, of a wrong type, or makes no grid.
inline Grid read_grid(const Kind& kind, const nvinfer1::PluginFieldCollection* fields) {
    if (fields == nullptr || (fields->nbFields > 0 && fields->fields == nullptr)) refuse("no attributes were given");
    Grid grid{};
    std::array<bool, kAttributes.size()> found{};
    for (std::int32_t i = 0; i < fields->nbFields; ++i) {
        const Attribute& attribute = find_attribute(kind, fields->fields[i].name);
        read_field(fields->fields[i], attribute, grid);
        found[static_cast<std::size_t>(&attribute - kAttributes.data())] = true;
    }
    for (std::size_t i = 0; i < kind.attributes; ++i) {
        if (!found[i]) refuse(std::string("attribute ") + kAttributes[i].name + " is missing");
    }
    if (std::int64_t{grid.nx} * grid.ny > std::numeric_limits<std::int32_t>::max()) {
        refuse("nx * ny is larger than a 32-bit cell number; use larger cells");
    }
    if (kind.attributes > 2 && !(grid.scale > 0 && grid.cell > 0 && grid.z_min < grid.z_max)) {
        refuse("scale and cell must be positive and z_min less than z_max");
    }
    return grid;
}

// Set when TensorRT loads the library.
inline std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

inline void report(const Kind& kind, nvinfer1::ErrorCode code, const char* what,
                   nvinfer1::IErrorRecorder* recorder) noexcept try {
    std::array<char, 512> message;
    std::snprintf(message.data(), message.size(), "pd_edge %s: %s", kind.name, what);
    if (recorder != nullptr) recorder->reportError(code, message.data());
    nvinfer1::ILoggerFinder* finder = logger_finder.load();
    nvinfer1::ILogger* logger = finder != nullptr ? finder->findLogger() : nullptr;
    if (logger != nullptr) {
        logger->log(nvinfer1::ILogger::Severity::kERROR, message.data());
    } else {
        std::fprintf(stderr, "%s\n", message.data());
    }
} catch (...) {  // a logger that throws must not end the process
}

// Runs an action; where it throws, reports why and returns `failure`.
template <typename Result, typename Action>
Result guarded(const Kind& kind, nvinfer1::IErrorRecorder* recorder, Result failure, Action&& action) noexcept {
    try {
        return action();
    } catch (const std::invalid_argument& error) {
        report(kind, nvinfer1::ErrorCode::kINVALID_ARGUMENT, error.what(), recorder);
    } catch (const std::exception& error) {
        report(kind, nvinfer1::ErrorCode::kFAILED_EXECUTION, error.what(), recorder);
    } catch (...) {
        report(kind, nvinfer1::ErrorCode::kUNSPECIFIED_ERROR, "unknown error", recorder);
    }
    return failure;
}

}  // namespace pd_edge
