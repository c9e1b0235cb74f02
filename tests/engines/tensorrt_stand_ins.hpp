// Stands in for what TensorRT lends to plugins: logger, error recorder, context, dimensions, and loading a library.
#pragma once

#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

using namespace nvinfer1;

inline void require(bool condition, const std::string& what) {
    if (condition) return;
    std::cerr << "harness: " << what << "\n";
    std::exit(1);
}

class Logger : public ILogger {
   public:
    void log(Severity, const AsciiChar* message) noexcept override { last = message; }
    std::string last;
};

class Finder : public ILoggerFinder {
   public:
    virtual ~Finder() = default;
    ILogger* findLogger() override { return &logger; }
    Logger logger;
};

class Recorder : public IErrorRecorder {
   public:
    std::int32_t getNbErrors() const noexcept override { return errors; }
    ErrorCode getErrorCode(std::int32_t) const noexcept override { return code; }
    ErrorDesc getErrorDesc(std::int32_t) const noexcept override { return ""; }
    bool hasOverflowed() const noexcept override { return false; }
    void clear() noexcept override { errors = 0; }
    bool reportError(ErrorCode value, ErrorDesc) noexcept override {
        code = value;
        ++errors;
        return true;
    }
    RefCount incRefCount() noexcept override { return 0; }
    RefCount decRefCount() noexcept override { return 0; }
    std::int32_t errors = 0;
    ErrorCode code = ErrorCode::kSUCCESS;
};

class Context : public IPluginResourceContext {
   public:
    explicit Context(Recorder& recorder) : recorder_(recorder) {}
    IGpuAllocator* getGpuAllocator() const noexcept override { return nullptr; }
    IErrorRecorder* getErrorRecorder() const noexcept override { return &recorder_; }

   private:
    Recorder& recorder_;
};

// A dimension: a number, or one that is known at run time only (-1).
class Extent : public IDimensionExpr {
   public:
    explicit Extent(std::int64_t value) : impl_(value) { mImpl = &impl_; }
    virtual ~Extent() noexcept = default;

   private:
    struct Impl : apiv::VDimensionExpr {
        explicit Impl(std::int64_t number) : value(number) {}
        bool isConstant() const override { return value >= 0; }
        std::int64_t getConstantValue() const override { return value; }
        bool isSizeTensor() const override { return false; }
        std::int64_t value;
    } impl_;
};

class Extents : public IExprBuilder {
   public:
    Extents() { mImpl = &impl_; }
    virtual ~Extents() noexcept = default;

   private:
    struct Impl : apiv::VExprBuilder {
        const IDimensionExpr* constant(std::int64_t value) override {
            made.push_back(std::make_unique<Extent>(value));
            return made.back().get();
        }
        const IDimensionExpr* operation(DimensionOperation, const IDimensionExpr&, const IDimensionExpr&) override {
            return nullptr;
        }
        const IDimensionExpr* declareSizeTensor(std::int32_t, const IDimensionExpr&, const IDimensionExpr&) override {
            return nullptr;
        }
        std::vector<std::unique_ptr<Extent>> made;
    } impl_;
};

// A library loaded as IPluginRegistry::loadLibrary does.
struct Library {
    explicit Library(const char* path) : handle(dlopen(path, RTLD_NOW | RTLD_LOCAL)) {
        require(handle != nullptr, handle == nullptr ? dlerror() : "");
        reinterpret_cast<void (*)(ILoggerFinder*)>(symbol("setLoggerFinder"))(&finder);
    }

    void* symbol(const char* name) const {
        void* found = dlsym(handle, name);
        require(found != nullptr, std::string("no symbol ") + name);
        return found;
    }

    IPluginCreatorV3One& creator(const std::string& name) const {
        using GetCreators = IPluginCreatorInterface* const* (*)(std::int32_t&);
        std::int32_t count = 0;
        IPluginCreatorInterface* const* all = reinterpret_cast<GetCreators>(symbol("getCreators"))(count);
        for (std::int32_t i = 0; i < count; ++i) {
            auto& each = static_cast<IPluginCreatorV3One&>(*all[i]);
            if (name == each.getPluginName()) return each;
        }
        require(false, "no creator of " + name);
        std::abort();
    }

    void* handle;
    Finder finder;
};
