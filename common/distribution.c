#include "common/distribution.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/draw.h"

#define MOST 1e12

static const struct {
    const char *name;
    enum distribution_kind kind;
    int n; /* numbers */
} forms[] = {
    { "", DIST_FIXED, 1 },
    { "uniform:", DIST_UNIFORM, 2 },
    { "normal:", DIST_NORMAL, 2 },
    { "lognormal:", DIST_LOGNORMAL, 2 },
    { "exponential:", DIST_EXPONENTIAL, 1 },
};
#define N_FORMS (sizeof forms / sizeof *forms)

static bool read_number(const char **text, double *out)
{
    char *end;
    double value = strtod(*text, &end);
    if (end == *text || !isfinite(value) || value < 0 || value > MOST)
        return false;
    *text = end;
    *out = value;
    return true;
}

static bool parse(const char *text, struct distribution *d)
{
    size_t form = N_FORMS - 1;
    while (strncmp(text, forms[form].name, strlen(forms[form].name)) != 0)
        form--;
    d->kind = forms[form].kind;
    text += strlen(forms[form].name);
    if (!read_number(&text, &d->a))
        return false;
    if (forms[form].n == 2 && (*text++ != ',' || !read_number(&text, &d->b)))
        return false;
    return *text == '\0' && (d->kind != DIST_UNIFORM || d->a <= d->b);
}

status distribution_parse(const char *text, struct distribution *out, struct error *err)
{
    struct distribution d = { .a = 0 };
    if (!parse(text, &d))
        return error_set(err, ST_INVALID, "\"%.60s\" is not allowed; it takes " DISTRIBUTION_FORMS, text);
    *out = d;
    return ST_OK;
}

static double draw(const struct distribution *d, uint64_t seed, uint64_t stream, uint64_t index)
{
    switch (d->kind) {
    case DIST_UNIFORM: /* both ends are as likely as what lies between */
        return floor(d->a + (d->b - d->a + 1) * draw_unit(seed, stream, index));
    case DIST_NORMAL:
        return d->a + d->b * draw_normal(seed, stream, index);
    case DIST_LOGNORMAL:
        return d->a * exp(d->b * draw_normal(seed, stream, index));
    case DIST_EXPONENTIAL:
        return d->a * draw_exponential(seed, stream, index);
    case DIST_FIXED:
        break;
    }
    return d->a;
}

uint64_t distribution_draw(const struct distribution *d, uint64_t seed, uint64_t stream, uint64_t index, uint64_t least,
                           uint64_t most)
{
    double value = round(draw(d, seed, stream, index));
    if (!(value > (double)least))
        return least;
    return value < (double)most ? (uint64_t)value : most;
}
