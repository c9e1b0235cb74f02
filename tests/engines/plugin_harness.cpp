// Takes the plugins through what TensorRT does with them, without libnvinfer, on host memory:
//
//     plugin_harness LIBRARY run FOLDER POINTS CHANNELS float|half linear|channels_last
//     plugin_harness LIBRARY refuse
//
// `run` reads grid.bin, points.bin and values.bin in FOLDER, writes features.bin, cells.bin and canvas.bin, and prints
// what the plugins told on the way. `refuse` prints one line for each mistake: what came back, and what was logged.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "pillar_math.hpp"
#include "tensorrt_stand_ins.hpp"

namespace {

using Bytes = std::vector<char>;
using Plugin = std::unique_ptr<IPluginV3>;

// Fields by the names and types that a creator advertises, with data from a grid.
struct FieldSet {
    FieldSet(IPluginCreatorV3One& creator, const pd_edge::Grid& grid) : storage(grid) {
        const PluginFieldCollection& names = *creator.getFieldNames();
        fields.assign(names.fields, names.fields + names.nbFields);
        for (PluginField& field : fields) field.data = address(field.name);
    }

    const void* address(const std::string& name) const {
        const std::vector<std::pair<const char*, const void*>> members = {
            {"nx", &storage.nx},
            {"ny", &storage.ny},
            {"scale", &storage.scale},
            {"x_offset", &storage.x_offset},
            {"y_offset", &storage.y_offset},
            {"z_min", &storage.z_min},
            {"z_max", &storage.z_max},
            {"cell", &storage.cell},
            {"x_centre", &storage.x_centre},
            {"y_centre", &storage.y_centre},
            {"z_centre", &storage.z_centre},
        };
        for (const auto& member : members) {
            if (name == member.first) return member.second;
        }
        require(false, "no member " + name);
        return nullptr;
    }

    PluginField& operator[](const std::string& name) {
        for (PluginField& field : fields) {
            if (name == field.name) return field;
        }
        require(false, "no field " + name);
        std::abort();
    }

    PluginFieldCollection collection() const { return {static_cast<std::int32_t>(fields.size()), fields.data()}; }

    pd_edge::Grid storage;
    std::vector<PluginField> fields;
};

IPluginV3OneBuild& build_of(IPluginV3& plugin) {
    return static_cast<IPluginV3OneBuild&>(*plugin.getCapabilityInterface(PluginCapabilityType::kBUILD));
}

IPluginV3OneRuntime& runtime_of(IPluginV3& plugin) {
    return static_cast<IPluginV3OneRuntime&>(*plugin.getCapabilityInterface(PluginCapabilityType::kRUNTIME));
}

PluginTensorDesc tensor(std::vector<std::int64_t> shape, DataType type, TensorFormat format = TensorFormat::kLINEAR) {
    PluginTensorDesc desc{};
    desc.dims.nbDims = static_cast<std::int32_t>(shape.size());
    std::copy(shape.begin(), shape.end(), desc.dims.d);
    desc.type = type;
    desc.format = format;
    return desc;
}

std::size_t bytes_of(const PluginTensorDesc& desc) {
    std::int64_t count = desc.type == DataType::kHALF ? 2 : 4;
    for (std::int32_t i = 0; i < desc.dims.nbDims; ++i) {
        const bool padded = desc.format == TensorFormat::kHWC8 && i == 1;
        count *= padded ? (desc.dims.d[i] + 7) / 8 * 8 : desc.dims.d[i];
    }
    return static_cast<std::size_t>(count);
}

// A tensor whose shape the plugin is asked for is checked against the shape that it will get.
void check_shapes(IPluginV3OneBuild& build, const std::vector<PluginTensorDesc>& in,
                  const std::vector<PluginTensorDesc>& out) {
    Extents extents;
    std::vector<DimsExprs> inputs(in.size()), outputs(out.size());
    Extent dynamic(-1);
    for (std::size_t i = 0; i < in.size(); ++i) {
        inputs[i].nbDims = in[i].dims.nbDims;
        for (std::int32_t d = 0; d < in[i].dims.nbDims; ++d) {
            inputs[i].d[d] = d == 0 ? &dynamic : extents.constant(in[i].dims.d[d]);
        }
    }
    const auto nb_in = static_cast<std::int32_t>(in.size()), nb_out = static_cast<std::int32_t>(out.size());
    require(build.getNbOutputs() == nb_out, "number of outputs");
    require(build.getOutputShapes(inputs.data(), nb_in, nullptr, 0, outputs.data(), nb_out, extents) == 0, "shapes");
    for (std::size_t i = 0; i < out.size(); ++i) {
        require(outputs[i].nbDims == out[i].dims.nbDims, "rank of an output");
        for (std::int32_t d = 0; d < outputs[i].nbDims; ++d) {
            const IDimensionExpr* extent = outputs[i].d[d];
            require(extent == &dynamic || extent->getConstantValue() == out[i].dims.d[d], "extent of an output");
            require(extent != &dynamic || out[i].dims.d[d] == in[0].dims.d[0], "dynamic extent of an output");
        }
    }
}

void check_types(IPluginV3OneBuild& build, const std::vector<PluginTensorDesc>& in,
                 const std::vector<PluginTensorDesc>& out) {
    std::vector<DataType> given, found(out.size());
    for (const PluginTensorDesc& each : in) given.push_back(each.type);
    const auto nb_in = static_cast<std::int32_t>(in.size()), nb_out = static_cast<std::int32_t>(out.size());
    require(build.getOutputDataTypes(found.data(), nb_out, given.data(), nb_in) == 0, "output types");
    for (std::size_t i = 0; i < out.size(); ++i) require(found[i] == out[i].type, "type of an output");
}

std::vector<DynamicPluginTensorDesc> joined(const std::vector<PluginTensorDesc>& in,
                                            const std::vector<PluginTensorDesc>& out) {
    std::vector<DynamicPluginTensorDesc> all;
    for (const auto* side : {&in, &out}) {
        for (const PluginTensorDesc& each : *side) all.push_back({each, each.dims, each.dims, each.dims});
    }
    return all;
}

// The wanted combination must be supported, and no tensor of it in another type or in a vectorized format.
void check_formats(IPluginV3OneBuild& build, const std::vector<PluginTensorDesc>& in,
                   const std::vector<PluginTensorDesc>& out) {
    const std::vector<DynamicPluginTensorDesc> wanted = joined(in, out);
    const auto nb_in = static_cast<std::int32_t>(in.size()), nb_out = static_cast<std::int32_t>(out.size());
    for (std::int32_t i = 0; i < nb_in + nb_out; ++i) {
        require(build.supportsFormatCombination(i, wanted.data(), nb_in, nb_out), "format");
        auto other = wanted;
        other[i].desc.type = DataType::kINT8;
        require(!build.supportsFormatCombination(i, other.data(), nb_in, nb_out), "INT8 must not be supported");
        other = wanted;
        other[i].desc.format = TensorFormat::kCHW32;
        require(!build.supportsFormatCombination(i, other.data(), nb_in, nb_out), "CHW32 must not be supported");
    }
}

Plugin create(IPluginCreatorV3One& creator, const PluginFieldCollection& fields, TensorRTPhase phase) {
    Plugin plugin(creator.createPlugin("node", &fields, phase));
    require(plugin != nullptr, "createPlugin");
    auto& core = static_cast<IPluginV3OneCore&>(*plugin->getCapabilityInterface(PluginCapabilityType::kCORE));
    for (const auto& [told, expected] : {std::pair{core.getPluginName(), creator.getPluginName()},
                                         std::pair{core.getPluginVersion(), creator.getPluginVersion()},
                                         std::pair{core.getPluginNamespace(), creator.getPluginNamespace()},
                                         std::pair{core.getPluginVersion(), "1"},
                                         std::pair{core.getPluginNamespace(), "pd_edge"}}) {
        require(std::strcmp(told, expected) == 0, std::string("identity: ") + told);
    }
    return plugin;
}

// The fields as they come out of an engine: bytes elsewhere, under names elsewhere.
struct Serialized {
    explicit Serialized(const PluginFieldCollection& from) {
        for (std::int32_t i = 0; i < from.nbFields; ++i) {
            const PluginField& field = from.fields[i];
            names.emplace_back(field.name);
            const char* data = static_cast<const char*>(field.data);
            contents.emplace_back(data, data + 4 * field.length);
        }
        for (std::size_t i = 0; i < names.size(); ++i) {
            fields.emplace_back(names[i].c_str(), contents[i].data(), from.fields[i].type, from.fields[i].length);
        }
    }

    PluginFieldCollection collection() const { return {static_cast<std::int32_t>(fields.size()), fields.data()}; }

    std::vector<std::string> names;
    std::vector<Bytes> contents;
    std::vector<PluginField> fields;
};

// Build, serialize, and come back as the plugin of an execution context.
Plugin through_an_engine(IPluginCreatorV3One& creator, const pd_edge::Grid& grid, Recorder& recorder,
                         const std::vector<PluginTensorDesc>& in, const std::vector<PluginTensorDesc>& out,
                         std::size_t& workspace) {
    Plugin plugin = create(creator, FieldSet(creator, grid).collection(), TensorRTPhase::kBUILD);
    plugin.reset(plugin->clone());
    IPluginV3OneBuild& build = build_of(*plugin);
    check_shapes(build, in, out);
    check_types(build, in, out);
    check_formats(build, in, out);
    const std::vector<DynamicPluginTensorDesc> all = joined(in, out);
    const auto nb_in = static_cast<std::int32_t>(in.size()), nb_out = static_cast<std::int32_t>(out.size());
    require(build.configurePlugin(all.data(), nb_in, all.data() + nb_in, nb_out) == 0, "configurePlugin");
    workspace = build.getWorkspaceSize(all.data(), nb_in, all.data() + nb_in, nb_out);
    std::cout << creator.getPluginName() << " workspace " << workspace;
    std::cout << " timing " << build.getTimingCacheID() << "\n";
    const Serialized engine(*runtime_of(*plugin).getFieldsToSerialize());
    plugin = create(creator, engine.collection(), TensorRTPhase::kRUNTIME);
    Context context(recorder);
    plugin.reset(runtime_of(*plugin).attachToContext(&context));
    require(runtime_of(*plugin).onShapeChange(in.data(), nb_in, out.data(), nb_out) == 0, "onShapeChange");
    return plugin;
}

// Outputs and workspace are of the exact size, for the sanitizer, and hold rubbish before.
std::vector<Bytes> execute(IPluginCreatorV3One& creator, const pd_edge::Grid& grid,
                           const std::vector<PluginTensorDesc>& in, const std::vector<PluginTensorDesc>& out,
                           const std::vector<const Bytes*>& data) {
    Recorder recorder;
    std::size_t workspace_size = 0;
    const Plugin plugin = through_an_engine(creator, grid, recorder, in, out, workspace_size);
    Bytes workspace(workspace_size, '\xA5');
    std::vector<Bytes> results;
    for (const PluginTensorDesc& each : out) results.emplace_back(bytes_of(each), '\xA5');
    std::vector<const void*> inputs;
    std::vector<void*> outputs;
    for (std::size_t i = 0; i < in.size(); ++i) {
        require(data[i]->size() == bytes_of(in[i]), "size of an input");
        inputs.push_back(data[i]->data());
    }
    for (Bytes& each : results) outputs.push_back(each.data());
    for (int repetition = 0; repetition < 2; ++repetition) {  // the second finds what the first left
        require(runtime_of(*plugin).enqueue(in.data(), out.data(), inputs.data(), outputs.data(), workspace.data(),
                                            nullptr) == 0,
                "enqueue");
    }
    require(recorder.errors == 0, "no error is to be recorded");
    return results;
}

Bytes read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    require(file.good(), "cannot read " + path);
    return Bytes(std::istreambuf_iterator<char>(file), {});
}

void write(const std::string& path, const Bytes& bytes) {
    std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

void run(const Library& library, const std::string& folder, std::int64_t count, std::int64_t channels, bool half,
         bool channels_last) {
    const Bytes points = read(folder + "/points.bin"), values = read(folder + "/values.bin");
    pd_edge::Grid grid{};
    std::memcpy(&grid, read(folder + "/grid.bin").data(), sizeof grid);
    const std::vector<Bytes> voxels =
        execute(library.creator("PillarVoxelize"), grid, {tensor({count, 4}, DataType::kFLOAT)},
                {tensor({count, 10}, DataType::kFLOAT), tensor({count}, DataType::kINT32)}, {&points});
    write(folder + "/features.bin", voxels[0]);
    write(folder + "/cells.bin", voxels[1]);
    const DataType type = half ? DataType::kHALF : DataType::kFLOAT;
    const TensorFormat last = half ? TensorFormat::kHWC8 : TensorFormat::kHWC;
    const std::vector<Bytes> canvas =
        execute(library.creator("PillarScatter"), grid,
                {tensor({count, channels}, type), tensor({count}, DataType::kINT32)},
                {tensor({1, channels, grid.ny, grid.nx}, type, channels_last ? last : TensorFormat::kLINEAR)},
                {&values, &voxels[1]});
    write(folder + "/canvas.bin", canvas[0]);
}

const pd_edge::Grid kGrid{2.0f, 4.0f, 4.0f, -1.0f, 1.0f, 0.5f, -1.75f, -1.75f, 0.0f, 8, 8};

void refuse_fields(Library& library) {
    IPluginCreatorV3One& creator = library.creator("PillarVoxelize");
    const auto attempt = [&](const std::string& name, const std::function<void(FieldSet&)>& spoil) {
        FieldSet set(creator, kGrid);
        spoil(set);
        library.finder.logger.last.clear();
        const PluginFieldCollection fields = set.collection();
        const Plugin plugin(creator.createPlugin("node", &fields, TensorRTPhase::kBUILD));
        std::cout << name << ": " << (plugin ? "created" : "null") << "; " << library.finder.logger.last << "\n";
    };
    const std::int64_t wide = 8, negative = -8;
    attempt("whole", [](FieldSet&) {});
    attempt("int64", [&](FieldSet& s) { s["nx"] = {"nx", &wide, PluginFieldType::kINT64, 1}; });
    attempt("missing", [](FieldSet& s) { s.fields.pop_back(); });
    attempt("unknown", [](FieldSet& s) { s.fields[3].name = "voxel_size"; });
    attempt("nameless", [](FieldSet& s) { s.fields[3].name = nullptr; });
    attempt("no data", [](FieldSet& s) { s["scale"].data = nullptr; });
    attempt("two numbers", [](FieldSet& s) { s["scale"].length = 2; });
    attempt("wrong type", [](FieldSet& s) { s["scale"].type = PluginFieldType::kINT32; });
    attempt("float nx", [](FieldSet& s) { s["nx"].type = PluginFieldType::kFLOAT32; });
    attempt("negative", [&](FieldSet& s) { s["nx"] = {"nx", &negative, PluginFieldType::kINT64, 1}; });
    attempt("large", [](FieldSet& s) { s.storage.nx = s.storage.ny = 50000; });
    attempt("nan", [](FieldSet& s) { s.storage.cell = std::nanf(""); });
    attempt("upside down", [](FieldSet& s) { s.storage.z_min = 2.0f; });
    library.finder.logger.last.clear();
    const Plugin plugin(creator.createPlugin("node", nullptr, TensorRTPhase::kBUILD));
    std::cout << "no fields: " << (plugin ? "created" : "null") << "; " << library.finder.logger.last << "\n";
}

void refuse_tensors(Library& library) {
    Recorder recorder;
    Context context(recorder);
    const auto attempt = [&](const std::string& name, const char* kind, std::vector<PluginTensorDesc> in) {
        IPluginCreatorV3One& creator = library.creator(kind);
        const Plugin made = create(creator, FieldSet(creator, kGrid).collection(), TensorRTPhase::kRUNTIME);
        const Plugin plugin(runtime_of(*made).attachToContext(&context));
        recorder.clear();
        const PluginTensorDesc out[2] = {};
        const void* inputs[2] = {};
        void* outputs[2] = {};
        const int code = runtime_of(*plugin).enqueue(in.data(), out, inputs, outputs, nullptr, nullptr);
        std::cout << name << ": " << code << " with " << recorder.errors << " recorded; " << library.finder.logger.last
                  << "\n";
    };
    attempt("five columns", "PillarVoxelize", {tensor({7, 5}, DataType::kFLOAT)});
    attempt("flat points", "PillarVoxelize", {tensor({28}, DataType::kFLOAT)});
    attempt("half points", "PillarVoxelize", {tensor({7, 4}, DataType::kHALF)});
    attempt("too many points", "PillarVoxelize", {tensor({std::int64_t{1} << 39, 4}, DataType::kFLOAT)});
    attempt("unequal rows", "PillarScatter", {tensor({7, 8}, DataType::kFLOAT), tensor({6}, DataType::kINT32)});
    attempt("int8 values", "PillarScatter", {tensor({7, 8}, DataType::kINT8), tensor({7}, DataType::kINT32)});
    attempt("int64 cells", "PillarScatter", {tensor({7, 8}, DataType::kFLOAT), tensor({7}, DataType::kINT64)});
    attempt("no channel", "PillarScatter", {tensor({7, 0}, DataType::kFLOAT), tensor({7}, DataType::kINT32)});
}

void refuse_numbers(Library& library) {
    IPluginCreatorV3One& creator = library.creator("PillarScatter");
    const Plugin plugin = create(creator, FieldSet(creator, kGrid).collection(), TensorRTPhase::kBUILD);
    const int code = build_of(*plugin).configurePlugin(nullptr, 3, nullptr, 1);
    std::cout << "three inputs: " << code << "; " << library.finder.logger.last << "\n";
}

}  // namespace

int main(int argc, char** argv) {
    const std::string command = argc > 2 ? argv[2] : "";
    require(command == "refuse" || (command == "run" && argc == 8), "see the head of the source for its arguments");
    Library library(argv[1]);
    if (command == "run") {
        run(library, argv[3], std::atoll(argv[4]), std::atoll(argv[5]), std::strcmp(argv[6], "half") == 0,
            std::strcmp(argv[7], "channels_last") == 0);
    } else {
        refuse_fields(library);
        refuse_tensors(library);
        refuse_numbers(library);
    }
    std::cout << "TensorRT " << NV_TENSORRT_MAJOR << "." << NV_TENSORRT_MINOR << "\n";
    return 0;
}
