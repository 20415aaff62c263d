#include "engine/model_quantise.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/chat_template.h"
#include "engine/gguf_files.h"
#include "engine/model_config.h"
#include "engine/model_keys.h"
#include "engine/model_quantise_plan.h"
#include "engine/quantise.h"
#include "engine/team.h"
#include "engine/tokenizer_keys.h"

#define PANEL_BYTES ((size_t)8 << 20) /* of values as float32 that are written at once */

struct converter {
    const struct quantise_options *options;
    struct model *model;
    struct gguf_files gguf; /* of a GGUF source: its keys */
    struct quantise_plan plan;
    struct text_buffer header;
    struct team *team;
    float *rows; /* [threads][widest row] */
    uint8_t *panel;
    size_t panel_bytes;
    uint64_t done_bytes; /* of data, padding included */
    char path[PATH_MAX]; /* of the unfinished file; "" when there is none */
    int fd;
};

const char *quantise_mix_name(enum quantise_mix mix)
{
    static const char *const names[] = {
#define X(name, number) #name,
        QUANTISE_MIXES(X)
#undef X
    };
    ASSERT((unsigned)mix < MIX_COUNT);
    return names[mix];
}

static uint32_t mix_number(enum quantise_mix mix)
{
    static const uint32_t numbers[] = {
#define X(name, number) number,
        QUANTISE_MIXES(X)
#undef X
    };
    return numbers[mix];
}

/* --- metadata --- */

/* Written anew, or about the file that was split or laid out otherwise. */
static bool is_copied(struct gguf_string key)
{
    static const char *const others[] = { "general.file_type", "general.quantization_version", "general.alignment" };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (key.len == strlen(others[i]) && memcmp(key.data, others[i], key.len) == 0)
            return false;
    return key.len < strlen("split.") || memcmp(key.data, "split.", strlen("split.")) != 0;
}

static void copy_keys(const struct gguf *from, struct gguf_writer *w)
{
    for (size_t i = 0; i < gguf_key_count(from); i++)
        if (is_copied(gguf_key_at(from, i)))
            gguf_put_copy(w, from, i);
}

static status write_folder_keys(const struct model *m, struct gguf_writer *w, struct error *err)
{
    const struct chat_template *tpl = model_chat_template(m);
    status st = model_write_keys(model_config(m), w, err);
    if (st != ST_OK)
        return st;
    gguf_put_string(w, "general.type", "model", strlen("model"));
    gguf_put_string(w, "general.name", model_name(m), strlen(model_name(m)));
    st = tokenizer_write_keys(model_tokenizer(m), model_config(m)->n_vocab, w, err);
    if (tpl) {
        size_t len;
        const char *source = chat_template_source(tpl, &len);
        gguf_put_string(w, "tokenizer.chat_template", source, len);
    }
    return st;
}

static status make_header(struct converter *c, struct error *err)
{
    struct gguf_writer w;
    struct error why = { "" };
    status st = ST_OK;
    gguf_writer_init(&w);
    if (c->gguf.n > 0)
        copy_keys(c->gguf.files[0], &w);
    else
        st = write_folder_keys(c->model, &w, &why);
    gguf_put_u32(&w, "general.quantization_version", 2); /* of the formats' layout; there is no other */
    gguf_put_u32(&w, "general.file_type", mix_number(c->options->mix));
    for (size_t i = 0; i < c->plan.n; i++) {
        const struct planned_tensor *t = &c->plan.tensors[i];
        (void)gguf_put_tensor(&w, t->name, t->type, t->source->n_dims, t->source->shape);
    }
    c->plan.data_bytes = w.data_bytes;
    if (st == ST_OK)
        st = gguf_writer_finish(&w, &c->header, &why);
    gguf_writer_free(&w);
    return st == ST_OK ? st : error_set(err, st, "%s: %.400s", c->options->source, why.text);
}

/* --- the file --- */

static status failed_write(const struct converter *c, int reason, struct error *err)
{
    return error_set(err, ST_IO, "%s: %s; %.1f MB are needed", c->options->out, strerror(reason),
                     (double)(c->header.len + c->plan.data_bytes) / 1e6);
}

static status write_bytes(const struct converter *c, const void *data, size_t n, struct error *err)
{
    const uint8_t *at = data;
    while (n > 0) {
        ssize_t done = write(c->fd, at, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return failed_write(c, done < 0 ? errno : ENOSPC, err);
        at += done;
        n -= (size_t)done;
    }
    return ST_OK;
}

/* Takes all room at once, so that a full disk shows before hours of work. */
static status create_file(struct converter *c, struct error *err)
{
    const char *out = c->options->out;
    int n = snprintf(c->path, sizeof c->path, "%s.%ld.part", out, (long)getpid());
    if (n < 0 || (size_t)n >= sizeof c->path) {
        c->path[0] = '\0';
        return error_set(err, ST_LIMIT, "%.64s...: the path is longer than %d bytes", out, PATH_MAX);
    }
    c->fd = open(c->path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (c->fd < 0) {
        c->path[0] = '\0';
        return error_set(err, ST_IO, "%s: %s", out, strerror(errno));
    }
    status st = write_bytes(c, c->header.data, c->header.len, err);
    int reason = st == ST_OK ? posix_fallocate(c->fd, 0, (off_t)(c->header.len + c->plan.data_bytes)) : 0;
    return reason == 0 ? st : failed_write(c, reason, err);
}

static status check_absent(const struct quantise_options *o, struct error *err)
{
    struct stat info;
    if (stat(o->out, &info) != 0)
        return ST_OK;
    if (!S_ISREG(info.st_mode))
        return error_set(err, ST_INVALID, "%s: it is there and no regular file", o->out);
    return o->force ? ST_OK : error_set(err, ST_INVALID, "%s: it is there already; --force replaces it", o->out);
}

static status publish(struct converter *c, struct error *err)
{
    if (fsync(c->fd) != 0)
        return failed_write(c, errno, err);
    status st = check_absent(c->options, err);
    if (st == ST_OK && rename(c->path, c->options->out) != 0)
        st = failed_write(c, errno, err);
    if (st == ST_OK)
        c->path[0] = '\0';
    return st;
}

/* --- reading again --- */

static status check_again(const struct converter *c, const struct model *again, struct error *err)
{
    if (!model_keys_mean(model_config(c->model), model_config(again)))
        return error_set(err, ST_UNSUPPORTED,
                         "%s: the model cannot be written to GGUF: its keys would mean another network",
                         c->options->source);
    if (c->gguf.n > 0)
        return ST_OK;
    struct error why = { "" };
    status st = tokenizer_check_same(model_tokenizer(c->model), model_tokenizer(again), &why);
    return st == ST_OK ? st : error_set(err, st, "%s: %.400s", c->options->source, why.text);
}

/* What the new file says of itself decides how rows stand in it. */
static status read_again(struct converter *c, struct error *err)
{
    struct model *again = NULL;
    struct error why = { "" };
    status st = model_open(c->path, 0, &again, &why);
    if (st != ST_OK)
        return error_set(err, st, "%s: the model cannot be written to GGUF, which would not be read: %.400s",
                         c->options->source, why.text);
    st = check_again(c, again, err);
    if (st == ST_OK && model_config(again)->rope_interleaved && !model_config(c->model)->rope_interleaved)
        quantise_plan_interleave(&c->plan, model_config(c->model), model_weights(c->model));
    model_close(&again);
    return st;
}

/* --- tensors --- */

struct panel_job {
    const struct planned_tensor *tensor;
    size_t cols, row_bytes; /* of the target */
    uint64_t first_row;
    float *rows;
    size_t row_stride;
    uint8_t *out;
    atomic_bool refused;
};

/* In the file pairs of rows are neighbours, which in a folder stand half a head apart. */
static uint64_t source_row(const struct planned_tensor *t, uint64_t row)
{
    const uint64_t in_head = t->head_rows ? row % t->head_rows : 0;
    return t->head_rows ? row - in_head + in_head % 2 * (t->head_rows / 2) + in_head / 2 : row;
}

/* The bytes of one row, and the format in which they are. */
static const uint8_t *find_row(const struct planned_tensor *t, uint64_t row, enum dtype *type)
{
    const struct tensor *from = t->source;
    if (t->parts) {
        const uint64_t rows = from->shape[1];
        from = t->parts[row / rows];
        row %= rows;
    }
    *type = from->type;
    return (const uint8_t *)from->data + row * dtype_row_bytes(from->type, t->cols);
}

static void convert_row(void *ctx, uint32_t item, uint32_t thread)
{
    struct panel_job *job = ctx;
    enum dtype from;
    const uint8_t *src = find_row(job->tensor, source_row(job->tensor, job->first_row + item), &from);
    uint8_t *dst = job->out + item * job->row_bytes;
    if (from == job->tensor->type) {
        memcpy(dst, src, job->row_bytes);
        return;
    }
    float *values = job->rows + thread * job->row_stride;
    dtype_to_f32(from, src, values, job->cols);
    if (!quantise_row(job->tensor->type, values, job->cols, dst))
        atomic_store(&job->refused, true);
}

static status write_padding(struct converter *c, struct error *err)
{
    static const uint8_t zeros[GGUF_WRITE_ALIGNMENT];
    size_t n = (GGUF_WRITE_ALIGNMENT - c->done_bytes % GGUF_WRITE_ALIGNMENT) % GGUF_WRITE_ALIGNMENT;
    c->done_bytes += n;
    return write_bytes(c, zeros, n, err);
}

static status write_panel(struct converter *c, struct panel_job *job, uint32_t n_rows, struct error *err)
{
    if (c->options->cancelled && atomic_load(c->options->cancelled))
        return error_set(err, ST_CANCELLED, "%s: interrupted", c->options->out);
    team_run(c->team, convert_row, job, n_rows);
    if (atomic_load(&job->refused))
        return error_set(err, ST_INVALID, "%s: tensor %s: a value is no number or beyond %g", c->options->source,
                         job->tensor->source->name, (double)QUANTISE_MAX);
    c->done_bytes += n_rows * job->row_bytes;
    return write_bytes(c, c->panel, n_rows * job->row_bytes, err);
}

static status write_tensor(struct converter *c, const struct planned_tensor *t, struct error *err)
{
    const uint64_t n_rows = t->values / t->cols;
    struct panel_job job = { .tensor = t,
                             .cols = t->cols,
                             .row_bytes = dtype_row_bytes(t->type, t->cols),
                             .rows = c->rows,
                             .row_stride = c->plan.widest,
                             .out = c->panel };
    const size_t fit = PANEL_BYTES / (t->cols * sizeof(float));
    const uint64_t at_once = fit > 0 ? fit : 1;
    status st = ST_OK;
    for (; st == ST_OK && job.first_row < n_rows; job.first_row += at_once) {
        const uint64_t left = n_rows - job.first_row;
        if (c->options->on_progress)
            c->options->on_progress(c->options->ctx, t->name, c->done_bytes, c->plan.data_bytes);
        st = write_panel(c, &job, (uint32_t)(left < at_once ? left : at_once), err);
    }
    return st == ST_OK ? write_padding(c, err) : st;
}

/* A panel is never larger than its values as float32. */
static status take_memory(struct converter *c, struct error *err)
{
    const size_t widest = c->plan.widest * sizeof(float);
    c->panel_bytes = widest > PANEL_BYTES ? widest : PANEL_BYTES;
    c->panel = malloc(c->panel_bytes);
    c->rows = malloc(c->options->n_threads * widest);
    return c->panel && c->rows ? ST_OK : error_set(err, ST_NO_MEMORY, "out of memory for a panel of rows");
}

/* The first tensors are what reading again looks at. */
static status write_tensors(struct converter *c, size_t from, size_t to, struct error *err)
{
    status st = ST_OK;
    for (size_t i = from; st == ST_OK && i < to; i++)
        st = write_tensor(c, &c->plan.tensors[i], err);
    return st;
}

/* --- all of it --- */

static status open_source(struct converter *c, struct error *err)
{
    struct stat info;
    status st = model_open(c->options->source, MODEL_WEIGHTS | MODEL_DEFAULTS, &c->model, err);
    if (st != ST_OK || stat(c->options->source, &info) != 0 || S_ISDIR(info.st_mode))
        return st;
    return gguf_files_open(c->options->source, &c->gguf, err);
}

static status convert(struct converter *c, struct error *err)
{
    status st;
    if ((st = check_absent(c->options, err)) != ST_OK || (st = open_source(c, err)) != ST_OK ||
        (st = quantise_plan_make(c->model, c->gguf.n > 0, c->options->mix, &c->plan, err)) != ST_OK ||
        (st = make_header(c, err)) != ST_OK || (st = take_memory(c, err)) != ST_OK ||
        (st = team_create(c->options->n_threads, false, &c->team, err)) != ST_OK ||
        (st = create_file(c, err)) != ST_OK || (st = write_tensors(c, 0, c->plan.n_first, err)) != ST_OK ||
        (st = read_again(c, err)) != ST_OK || (st = write_tensors(c, c->plan.n_first, c->plan.n, err)) != ST_OK)
        return st;
    return publish(c, err);
}

static void report(const struct converter *c, struct quantise_report *out)
{
    const struct model_defaults neutral = MODEL_DEFAULTS_NEUTRAL, *d = model_defaults(c->model);
    quantise_plan_report(&c->plan, out);
    out->bytes = c->header.len + c->plan.data_bytes;
    out->drops_defaults = d->temperature != neutral.temperature || d->top_p != neutral.top_p ||
                          d->min_p != neutral.min_p || d->repetition_penalty != neutral.repetition_penalty ||
                          d->top_k != neutral.top_k || d->max_tokens != neutral.max_tokens;
}

static void release(struct converter *c)
{
    if (c->fd >= 0)
        close(c->fd);
    if (c->path[0])
        unlink(c->path);
    team_destroy(&c->team);
    free(c->panel);
    free(c->rows);
    text_buffer_free(&c->header);
    quantise_plan_free(&c->plan);
    gguf_files_close(&c->gguf);
    model_close(&c->model);
}

status model_quantise(const struct quantise_options *options, struct quantise_report *out, struct error *err)
{
    struct converter *c = calloc(1, sizeof *c);
    if (!c)
        return error_set(err, ST_NO_MEMORY, "out of memory");
    ASSERT(options->n_threads > 0);
    c->options = options;
    c->fd = -1;
    text_buffer_init(&c->header, 3 * GGUF_WRITE_MAX_BYTES);
    status st = convert(c, err);
    if (st == ST_OK)
        report(c, out);
    release(c);
    free(c);
    return st;
}
