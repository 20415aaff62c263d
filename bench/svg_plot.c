#include "bench/svg_plot.h"

#include <math.h>

#define WIDTH      640.0
#define HEIGHT     300.0
#define LEFT       64.0
#define RIGHT      16.0
#define TOP        28.0
#define BOTTOM     44.0
#define MAX_TICKS  12
#define WANT_TICKS 5.0

const char svg_plot_style[] =
    "svg{width:100%;height:auto;max-width:720px}svg text{font:11px sans-serif;fill:currentColor}"
    ".axis{stroke:currentColor;stroke-width:1;fill:none}.grid{stroke:currentColor;stroke-opacity:.15}"
    "polyline{fill:none;stroke-width:1.6}.line0{stroke:#1f6fb2}.line1{stroke:#c8501e}.line2{stroke:#2c8a4b}"
    ".line3{stroke:#8a4fb0}circle{stroke:none}circle.line0,rect.line0{fill:#1f6fb2}circle.line1,rect.line1{fill:#"
    "c8501e}"
    "rect.line2{fill:#2c8a4b}rect.line3{fill:#8a4fb0}circle{fill-opacity:.45}rect{stroke:none}";

void html_escape(struct text_buffer *out, const char *text)
{
    for (; *text; text++)
        switch (*text) {
        case '<':
            text_buffer_add(out, "&lt;");
            break;
        case '>':
            text_buffer_add(out, "&gt;");
            break;
        case '&':
            text_buffer_add(out, "&amp;");
            break;
        case '"':
            text_buffer_add(out, "&quot;");
            break;
        default:
            text_buffer_char(out, *text);
        }
}

/* 0 to 1 along the axis. */
static double share(double v, double min, double max, bool is_log)
{
    if (is_log) {
        v = log(v > min ? v : min);
        min = log(min);
        max = log(max);
    }
    double s = (v - min) / (max - min);
    return s < 0 ? 0 : s > 1 ? 1 : s;
}

static double x_of(const struct svg_plot *p, double v)
{
    return LEFT + (WIDTH - LEFT - RIGHT) * share(v, p->x_min, p->x_max, p->x_log);
}

static double y_of(const struct svg_plot *p, double v)
{
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share(v, p->y_min, p->y_max, p->y_log);
}

/* Powers of ten, or round numbers in equal steps. */
static int ticks(double min, double max, bool is_log, double out[MAX_TICKS])
{
    int n = 0;
    if (is_log) {
        int every = 1 + (int)(log10(max / min) / MAX_TICKS);
        for (double e = ceil(log10(min) - 1e-9); n < MAX_TICKS && e <= log10(max) + 1e-9; e += every)
            out[n++] = pow(10, e);
        return n;
    }
    double step = pow(10, floor(log10((max - min) / WANT_TICKS)));
    if ((max - min) / step > 2 * WANT_TICKS)
        step *= (max - min) / step > 4 * WANT_TICKS ? 5 : 2;
    for (double v = ceil(min / step - 1e-9) * step; n < MAX_TICKS && v <= max + step * 1e-9; v += step)
        out[n++] = v;
    return n;
}

static void draw_ticks(const struct svg_plot *p)
{
    double at[MAX_TICKS];
    int n = ticks(p->x_min, p->x_max, p->x_log, at);
    for (int i = 0; i < n; i++)
        text_buffer_printf(p->out,
                           "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%g\" y2=\"%g\"/><text x=\"%.1f\" "
                           "y=\"%g\" text-anchor=\"middle\">%g</text>",
                           x_of(p, at[i]), x_of(p, at[i]), TOP, HEIGHT - BOTTOM, x_of(p, at[i]), HEIGHT - BOTTOM + 14,
                           at[i]);
    n = ticks(p->y_min, p->y_max, p->y_log, at);
    for (int i = 0; i < n; i++)
        text_buffer_printf(p->out,
                           "<line class=\"grid\" x1=\"%g\" x2=\"%g\" y1=\"%.1f\" y2=\"%.1f\"/><text x=\"%g\" "
                           "y=\"%.1f\" text-anchor=\"end\">%g</text>",
                           LEFT, WIDTH - RIGHT, y_of(p, at[i]), y_of(p, at[i]), LEFT - 6, y_of(p, at[i]) + 4, at[i]);
}

void svg_plot_begin(struct svg_plot *p)
{
    ASSERT(p->x_min < p->x_max && p->y_min < p->y_max);
    p->n_series = 0;
    text_buffer_printf(p->out, "<figure><figcaption>%s</figcaption><svg viewBox=\"0 0 %g %g\" role=\"img\">", p->title,
                       WIDTH, HEIGHT);
    draw_ticks(p);
    text_buffer_printf(p->out,
                       "<path class=\"axis\" d=\"M%g %gV%gH%g\"/><text x=\"%g\" y=\"%g\" text-anchor=\"middle\">%s"
                       "</text><text x=\"%g\" y=\"%g\">%s</text>",
                       LEFT, TOP, HEIGHT - BOTTOM, WIDTH - RIGHT, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, p->x_label,
                       4.0, TOP - 14, p->y_label);
}

static void draw_name(struct svg_plot *p, const char *name)
{
    double x = LEFT + 90 + 130 * p->n_series;
    text_buffer_printf(p->out,
                       "<rect class=\"line%u\" x=\"%g\" y=\"%g\" width=\"10\" height=\"10\"/><text x=\"%g\" y=\"%g\">%s"
                       "</text>",
                       p->n_series, x, TOP - 23, x + 14, TOP - 14, name);
    p->n_series++;
}

void svg_plot_line(struct svg_plot *p, const char *name, const double x[], const double y[], size_t n)
{
    text_buffer_printf(p->out, "<polyline class=\"line%u\" points=\"", p->n_series);
    for (size_t i = 0; i < n; i++)
        text_buffer_printf(p->out, "%.1f,%.1f ", x_of(p, x[i]), y_of(p, y[i]));
    text_buffer_add(p->out, "\"/>");
    draw_name(p, name);
}

void svg_plot_points(struct svg_plot *p, const char *name, const double x[], const double y[], size_t n)
{
    for (size_t i = 0; i < n; i++)
        text_buffer_printf(p->out, "<circle class=\"line%u\" cx=\"%.1f\" cy=\"%.1f\" r=\"1.8\"/>", p->n_series,
                           x_of(p, x[i]), y_of(p, y[i]));
    draw_name(p, name);
}

void svg_plot_end(struct svg_plot *p)
{
    text_buffer_add(p->out, "</svg></figure>\n");
}
