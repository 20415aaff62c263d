/* A GGUF file from any bytes: refused, or every key and tensor can be read. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/gguf.h"
#include "engine/model_gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint8_t sink;

static void touch(const void *data, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sink = (uint8_t)(sink ^ ((const uint8_t *)data)[i]);
}

static void read_array(const struct gguf *file, const char *key, uint64_t n)
{
    struct gguf_string text;
    int64_t integer;
    double number;
    for (uint64_t i = 0; i < n && i < 64; i++) {
        if (gguf_array_string(file, key, i, &text) == ST_OK)
            touch(text.data, text.len);
        if (gguf_array_i64(file, key, i, &integer) == ST_OK || gguf_array_f64(file, key, n - 1 - i, &number) == ST_OK)
            sink++;
    }
}

static void read_key(const struct gguf *file, const char *key)
{
    struct gguf_string text;
    uint64_t count;
    double number;
    bool truth;
    if (gguf_get_string(file, key, &text) == ST_OK)
        touch(text.data, text.len);
    if (gguf_get_u64(file, key, &count) == ST_OK || gguf_get_f64(file, key, &number) == ST_OK ||
        gguf_get_bool(file, key, &truth) == ST_OK)
        sink++;
    if (gguf_array_len(file, key, &count) == ST_OK)
        read_array(file, key, count);
}

static void read_all(struct gguf *file, const char *path)
{
    char key[256];
    for (size_t i = 0; i < gguf_key_count(file); i++) {
        struct gguf_string name = gguf_key_at(file, i);
        snprintf(key, sizeof key, "%.*s", name.len < sizeof key ? (int)name.len : (int)sizeof key - 1, name.data);
        read_key(file, key);
    }
    for (uint64_t i = 0; i < gguf_tensor_count(file); i++) {
        const struct tensor *t = gguf_tensor_at(file, i);
        touch(t->data, t->bytes);
        ASSERT(gguf_tensor(file, t->name) == t);
    }
    struct model_config config;
    const struct gguf_files files = { .files = { file }, .n = 1, .index = gguf_index(file) };
    if (model_gguf_config(&files, path, &config, NULL) == ST_OK)
        ASSERT(config.n_layers > 0 && config.n_heads % config.n_kv_heads == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    struct gguf *file = NULL;
    struct error err;
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    ASSERT(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (gguf_open(path, &file, &err) == ST_OK)
        read_all(file, path);
    gguf_close(&file);
    close(fd);
    return 0;
}
