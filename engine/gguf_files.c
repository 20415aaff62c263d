#include "engine/gguf_files.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define MAX_PATH   4096
#define SUFFIX_LEN (sizeof "-00001-of-00003.gguf" - 1)

size_t gguf_split_name(const char *path)
{
    static const char pattern[] = "-ddddd-of-ddddd.gguf";
    size_t len = strlen(path);
    if (len <= SUFFIX_LEN)
        return 0;
    const char *suffix = path + len - SUFFIX_LEN;
    for (size_t i = 0; i < SUFFIX_LEN; i++)
        if (pattern[i] == 'd' ? !isdigit((unsigned char)suffix[i]) : suffix[i] != pattern[i])
            return 0;
    return len - SUFFIX_LEN;
}

/* *out is 0 when the key is absent. */
static status read_split(const struct gguf *file, const char *path, const char *key, uint64_t *out, struct error *err)
{
    *out = 0;
    if (gguf_get_u64(file, key, out) == ST_INVALID)
        return error_set(err, ST_INVALID, "%s: key %s: not a count", path, key);
    return ST_OK;
}

/* Opens number i of n, which says the same of itself. */
static status open_part(const char *path, uint64_t i, uint64_t n, struct gguf_files *out, struct error *err)
{
    uint64_t no, count;
    status st = gguf_open(path, &out->files[out->n], err);
    if (st != ST_OK)
        return st;
    const struct gguf *file = out->files[out->n++];
    if ((st = read_split(file, path, "split.no", &no, err)) != ST_OK ||
        (st = read_split(file, path, "split.count", &count, err)) != ST_OK)
        return st;
    if (no != i || count != n)
        return error_set(err, ST_INVALID, "%s: it says that it is part %llu of %llu", path, (unsigned long long)no + 1,
                         (unsigned long long)count);
    return ST_OK;
}

static status open_rest(const char *path, uint64_t count, struct gguf_files *out, struct error *err)
{
    char part[MAX_PATH];
    size_t name = gguf_split_name(path);
    if (name == 0)
        return error_set(err, ST_INVALID, "%s: one of %llu files, but not named NAME-00001-of-%05llu.gguf", path,
                         (unsigned long long)count, (unsigned long long)count);
    for (uint64_t i = 1; i < count; i++) {
        int n = snprintf(part, sizeof part, "%.*s-%05llu-of-%05llu.gguf", (int)name, path, (unsigned long long)i + 1,
                         (unsigned long long)count);
        if (n < 0 || (size_t)n >= sizeof part)
            return error_set(err, ST_LIMIT, "%.64s...: the path is longer than %d bytes", path, MAX_PATH);
        status st = open_part(part, i, count, out, err);
        if (st != ST_OK)
            return st;
    }
    return ST_OK;
}

static status join(const char *path, struct gguf_files *files, struct error *err)
{
    struct model_index parts[GGUF_MAX_FILES];
    uint64_t stated;
    for (size_t i = 0; i < files->n; i++)
        parts[i] = *gguf_index(files->files[i]);
    status st = model_index_join(parts, files->n, path, &files->joined, err);
    if (st == ST_OK)
        st = read_split(files->files[0], path, "split.tensors.count", &stated, err);
    if (st == ST_OK && stated != 0 && stated != files->joined.n)
        return error_set(err, ST_INVALID, "%s: key split.tensors.count is %llu, but its %zu files hold %zu tensors",
                         path, (unsigned long long)stated, files->n, files->joined.n);
    files->index = &files->joined;
    return st;
}

status gguf_files_open(const char *path, struct gguf_files *out, struct error *err)
{
    uint64_t no, count;
    status st = gguf_open(path, &out->files[0], err);
    if (st != ST_OK)
        return st;
    out->n = 1;
    out->index = gguf_index(out->files[0]);
    if ((st = read_split(out->files[0], path, "split.count", &count, err)) != ST_OK ||
        (st = read_split(out->files[0], path, "split.no", &no, err)) != ST_OK || count <= 1)
        return st;
    if (count > GGUF_MAX_FILES)
        return error_set(err, ST_LIMIT, "%s: one of %llu files, more than %u", path, (unsigned long long)count,
                         GGUF_MAX_FILES);
    if (no != 0)
        return error_set(err, ST_INVALID, "%s: this is part %llu of %llu; name the first one", path,
                         (unsigned long long)no + 1, (unsigned long long)count);
    st = open_rest(path, count, out, err);
    return st == ST_OK ? join(path, out, err) : st;
}

void gguf_files_close(struct gguf_files *files)
{
    model_index_free(&files->joined);
    while (files->n > 0)
        gguf_close(&files->files[--files->n]);
    files->index = NULL;
}

void gguf_files_will_need(const struct gguf_files *files)
{
    for (size_t i = 0; i < files->n; i++)
        model_map_will_need(gguf_map(files->files[i]));
}
