#include "engine/math_f32.h"

void math_exp_array(const float *x, float *out, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] = math_exp(x[i]);
}
