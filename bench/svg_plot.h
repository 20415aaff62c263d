/* svg_plot.h - plots as SVG inside of a page: axes, lines and points. Colours are the classes line0, line1 and so on of
 * the page's style. Pure. */
#ifndef BATON_BENCH_SVG_PLOT_H
#define BATON_BENCH_SVG_PLOT_H

#include <stdbool.h>
#include <stddef.h>

#include "common/text_buffer.h"

struct svg_plot {
    const char *title, *x_label, *y_label;
    double x_min, x_max, y_min, y_max; /* min below max; of a logarithmic axis above 0 */
    bool x_log, y_log;
    struct text_buffer *out;
    unsigned n_series;
};

/* The rules of the page's style that plots need. */
extern const char svg_plot_style[];

void svg_plot_begin(struct svg_plot *plot);
/* Values outside of the axes are drawn at their ends. */
void svg_plot_line(struct svg_plot *plot, const char *name, const double x[], const double y[], size_t n);
void svg_plot_points(struct svg_plot *plot, const char *name, const double x[], const double y[], size_t n);
void svg_plot_end(struct svg_plot *plot);

/* Text with what HTML reads otherwise replaced. */
void html_escape(struct text_buffer *out, const char *text);

#endif
