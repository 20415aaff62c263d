/* contract.h - the arithmetic contracts. A class is what two engines must agree on to
 * give the same bits.
 *
 * Class "portable". Every backend gives these bits, whatever its instruction set, however rows
 * are cut into steps, and whatever else is in the step. Lanes are outputs,
 * threads divide outputs, rows or heads; no sum over k is ever divided.
 * Everything is IEEE binary32, nearest even, without contraction: fma() below
 * is one rounding, every other operator is one rounding of its own.
 *
 * Products, quantised weights (rule INT8; scale, offset, minimum and halves as in
 * quantised.h). Activations per 32 values:
 *   amax = max |x|; dx = amax / 127, inv = 127 / amax,
 *   q = nearest_even(clamp(x * inv, -127, 127)),
 *   and dx = 0, q = 0 where amax < CONTRACT_TINY (inv would overflow).
 *   per output, groups ascending, halves ascending (one, but in Q6_K):
 *   acc = fma((float)dot, dw * dx, acc), dot being the exact int32 dot of the half's
 *   weights u - offset, then for formats with a minimum, once a group,
 *   acc = fma(m, dx * (float)sum(q), acc). dw and m are exact products of a
 *   super-block's d, or -m, with the group's integer factor.
 * The output head, where its weights are quantised (rule INT16): the same with
 *   dx = amax / 32512, inv = 32512 / amax and q clamped to +-32512. Measured on
 *   SmolLM2's reference answers: 8 bits before the head flip the top token in 9
 *   of 293 positions, 16 bits in 6; decode reads the same bytes either way.
 * Products, weights in F32, F16, BF16, or any type under f32_math (rule F32):
 *   weights widened exactly; acc = fma(w, x, acc), k ascending.
 * An adapter (rule F32, A and B in float32): t = A x, t *= scale, y = y + B t, y being
 *   the layer's product, before a bias and all else. Rows without it are left alone.
 * Every accumulator starts at +0.
 *
 * RMS norm of n values: lane[i % 16] = fma(x, x, lane), i ascending; then
 *   lane[l] += lane[l + w] for w = 8, 4, 2, 1; r = 1 / sqrt(lane[0] / n + eps);
 *   y = (x * r) * weight.
 * Rotary embedding: angle = position * theta^(-2i/d), its sine and cosine in
 *   binary64 by math_trig.c, rounded to binary32; for a pair (a, b):
 *   a' = fma(a, cos, b * -sin), b' = fma(b, cos, a * sin).
 * Attention: q * (1 / sqrt(head_dim)) after the rotation, one rounding; K and V
 *   rounded to the cache dtype before anything reads them; in INT8, each token and KV
 *   head by itself, as rule INT8's activations are (amax over the head's dimension, dx in
 *   binary32), and read as q * dx, one rounding. A score is a chain
 *   fma(q, k, s) over the head's dimension ascending. Positions are divided in
 *   splits of 64 absolute positions; in each, over its unmasked positions:
 *   m = max, p = exp(s - m), l = l + p ascending, o = fma(p, v, o) ascending.
 *   Splits are merged ascending, the first one taken as it is:
 *   M' = max(M, m), a = exp(M - M'), b = exp(m - M'),
 *   L = fma(l, b, L * a), O = fma(o, b, O * a). The result is O * (1 / L).
 *   A masked position is skipped, not multiplied by zero; a split without an unmasked one
 *   is, too: the first split is the first that has one.
 * max(a, b) is a > b ? a : b, min(a, b) is a < b ? a : b (so b where one is a NaN).
 * exp is math_exp of math_f32.h; silu(x) = x / (1 + exp(-x)).
 * tanh is math_tanh; gelu(x) = (0.5 * x) * (1 + tanh(0.79788456 * fma(0.044715, x * x * x, x))).
 * A soft cap: cap * tanh(x / cap): of scores before a maximum is taken of them, of logits before anyone sees them.
 * FFN: silu(gate) * up, or gelu(gate) * up. Residuals: x + y, y normed first where there is a norm behind it.
 * Gemma's embeddings are multiplied by sqrt(n_embd), and where norms are stored as their distance from one, one is
 *   added to them at load; each is one rounding.
 * Experts: a row's are those of the largest router logits, of equal ones the first. p = exp(logit - max) over all
 *   logits; a chosen one's weight is p / S, S being the sum of the chosen p where they sum to one, of all p otherwise,
 *   experts ascending from +0. y = the first chosen expert's result times its weight; then y = y + (the next one's
 *   times its weight), experts ascending, a rounding for each operator; then x + y.
 *
 * Class "amx": as above but for products with BF16 or quantised weights and for attention,
 * which are sums of steps as AMX's TDPBF16PS makes them: 32 products each, in the order of
 * bf16_steps.h, which also has the rounding to bfloat16 and the exponential.
 * Products, weights in BF16 or quantised, the output head's too (rule BF16): x rounded to
 *   bfloat16; a quantised weight dw * (float)(u - offset), then + m where its format has a
 *   minimum, a rounding each, and then rounded to bfloat16; from +0 one step for
 *   each 32 values of k ascending, zeros behind the last.
 * Attention: q (scaled as above), K and V are rounded to bfloat16, K and V after they
 *   were rounded to the cache dtype. A score is, from +0, one step for each 32 values
 *   of the head's dimension ascending, zeros behind the last, and then its soft cap, where
 *   there is one. Splits of 64 absolute
 *   positions ascending, with M = -infinity, L = +0 and O = +0 before the first;
 *   for each that has an unmasked position:
 *   m = max of the unmasked scores, M' = max(M, m), a = M' > M ? bf16_exp(M - M') : 1,
 *   p = bf16_exp(s - M'), or 0 where masked or behind the last position,
 *   L = L * a, then L = L + p ascending; O = O * a, then two steps of 32 positions on
 *   O, p (rounded to bfloat16) times v. The result is (O + 0) * (1 / L).
 *   A masked position is multiplied by zero, which changes no bit as long as its v is
 *   finite: a zero's sign, which it may change, is lost in O + 0. */
#ifndef BATON_ENGINE_CONTRACT_H
#define BATON_ENGINE_CONTRACT_H

#define CONTRACT_GROUP      32u /* values that share one activation scale */
#define CONTRACT_SPLIT      64u /* positions of one attention split       */
#define CONTRACT_NORM_LANES 16u
#define CONTRACT_STEP       32u /* products of one step of class amx      */
#define CONTRACT_TINY       0x1p-100f
#define CONTRACT_INT8_MAX   127.0f
#define CONTRACT_INT16_MAX  32512.0f /* 256 * 127: a high and a low byte, both signed */

/* 2^r for |r| <= 1/2 is 1 + C1 r + C2 r^2 + C3 r^3 to 1.02e-4 of it. */
#define BF16_EXP_MIN -125.0f
#define BF16_EXP_C1  0x1.62f5fcp-1f
#define BF16_EXP_C2  0x1.f00c66p-3f
#define BF16_EXP_C3  0x1.c2a240p-5f

#define CONTRACT_CLASSES(X) X(PORTABLE, "portable") X(AMX, "amx")
enum contract_class {
#define X(name, text) CLASS_##name,
    CONTRACT_CLASSES(X)
#undef X
};

#endif
