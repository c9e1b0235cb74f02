// The arithmetic of a sparse convolution for one instruction set, which the file that includes this one defines:
//   PD_ISA      its namespace
//   PD_TARGET   the attribute of functions that use it
//   PD_LANES    floats in a vector
//   PD_WEIGHTS  weights that stay in registers
//   PD_OUTPUTS  outputs at a time where so many are left, 16 or 32
//   PD_FMA      a * b + c of vectors
// Included several times, hence no include guard.

namespace PD_ISA {

typedef float Lanes __attribute__((vector_size(PD_LANES * sizeof(float)), may_alias));

PD_TARGET PD_HOST_DEVICE Lanes load(const float* from) { return *reinterpret_cast<const Lanes*>(from); }

PD_TARGET PD_HOST_DEVICE void store(float* to, Lanes value) { *reinterpret_cast<Lanes*>(to) = value; }

// Adds some inputs times their weights to some outputs of every pair. The weights are in registers meanwhile; the pairs
// are independent of each other, so that the processor works on several at once.
template <int inputs, int outputs>
PD_TARGET PD_HOST_DEVICE void add_products(const Pair* pairs, int count, const Rows& in, const float* weights,
                                           float* out, std::int64_t stride) {
    constexpr int vectors = outputs / PD_LANES;
    Lanes w[inputs][vectors];
    for (int i = 0; i < inputs; ++i) {
        for (int v = 0; v < vectors; ++v) w[i][v] = load(weights + i * stride + v * PD_LANES);
    }
    for (int p = 0; p < count; ++p) {
        const float* from = in.data + pairs[p].in * in.stride;
        float* to = out + pairs[p].out * stride;
        Lanes sums[vectors];
        for (int v = 0; v < vectors; ++v) sums[v] = load(to + v * PD_LANES);
        for (int i = 0; i < inputs; ++i) {
            const Lanes value = from[i] - Lanes{};  // a broadcast; with + it would be an addition, for the sake of -0
            for (int v = 0; v < vectors; ++v) sums[v] = PD_FMA(value, w[i][v], sums[v]);
        }
        for (int v = 0; v < vectors; ++v) store(to + v * PD_LANES, sums[v]);
    }
}

// Adds all inputs to some outputs of every pair, in steps of `step` and what is left in smaller ones.
template <int step, int outputs>
PD_TARGET PD_HOST_DEVICE void add_inputs(const Pair* pairs, int count, Rows in, int inputs, const float* weights,
                                         float* out, std::int64_t stride) {
    for (; inputs >= step; inputs -= step, in.data += step, weights += step * stride) {
        add_products<step, outputs>(pairs, count, in, weights, out, stride);
    }
    if constexpr (step > 1) add_inputs<step / 2, outputs>(pairs, count, in, inputs, weights, out, stride);
}

// Convolves one block of output sites.
PD_TARGET void convolve(const Convolution& layer, const Pair* pairs, const std::int32_t* counts, const Rows& in,
                        const Block& block, float* out) {
    const std::int64_t stride = layer.stride;
    float* first = out + block.first * stride;
    float* end = first + block.sites * stride;
    for (float* row = first; row < end; row += stride) {
        for (std::int64_t c = 0; c < stride; c += PD_LANES) store(row + c, load(layer.bias() + c));
    }
    for (int k = 0; k < layer.places; ++k, pairs += kListRoom) {
        const float* weights = layer.weights(k);
        std::int64_t c = 0;
        for (; c + PD_OUTPUTS <= stride; c += PD_OUTPUTS) {
            add_inputs<PD_WEIGHTS / PD_OUTPUTS, PD_OUTPUTS>(pairs, counts[k], in, layer.inputs, weights + c, out + c,
                                                            stride);
        }
        if (PD_OUTPUTS > 16 && c < stride) {
            add_inputs<PD_WEIGHTS / 16, 16>(pairs, counts[k], in, layer.inputs, weights + c, out + c, stride);
        }
    }
    for (float* value = first; value < end; value += PD_LANES) {
        const Lanes sum = load(value);
        store(value, sum < 0.0f ? Lanes{} : sum);  // not a number stays one, as in numpy
    }
}

}  // namespace PD_ISA

#undef PD_ISA
#undef PD_TARGET
#undef PD_LANES
#undef PD_WEIGHTS
#undef PD_OUTPUTS
#undef PD_FMA
