#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/tokenizer_json.h"

#define PATH_BYTES       4096
#define CONFIG_MAX_BYTES (16u << 20)

/* A whole file. ST_NOT_FOUND when there is none. */
static status read_file(const char *path, size_t max_bytes, char **out, size_t *out_len, struct error *err)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return error_set(err, errno == ENOENT ? ST_NOT_FOUND : ST_IO, "%s: %s", path, strerror(errno));
    struct stat info;
    char *data = NULL;
    status st = ST_OK;
    if (fstat(fileno(file), &info) != 0 || !S_ISREG(info.st_mode))
        st = error_set(err, ST_IO, "%s: not a regular file", path);
    else if (info.st_size > (off_t)max_bytes)
        st = error_set(err, ST_LIMIT, "%s: more than %zu bytes", path, max_bytes);
    else if (!(data = malloc((size_t)info.st_size + 1)))
        st = error_set(err, ST_NO_MEMORY, "%s: no memory", path);
    else if (fread(data, 1, (size_t)info.st_size, file) != (size_t)info.st_size)
        st = error_set(err, ST_IO, "%s: shorter than it said", path);
    (void)fclose(file);
    if (st != ST_OK) {
        free(data);
        return st;
    }
    *out = data;
    *out_len = (size_t)info.st_size;
    return ST_OK;
}

static status join(char *path, const char *dir, const char *name, struct error *err)
{
    int n = snprintf(path, PATH_BYTES, "%s/%s", dir, name);
    return n < 0 || n >= PATH_BYTES ? error_set(err, ST_LIMIT, "%.100s: the path is too long", dir) : ST_OK;
}

/* *out is NULL when the folder has no such file. */
static status read_config(const char *dir, const char *name, json_t **out, struct error *err)
{
    char path[PATH_BYTES], *data = NULL;
    size_t len = 0;
    *out = NULL;
    status st = join(path, dir, name, err);
    if (st == ST_OK)
        st = read_file(path, CONFIG_MAX_BYTES, &data, &len, err);
    if (st != ST_OK)
        return st == ST_NOT_FOUND ? ST_OK : st;
    json_error_t why;
    /* model_max_length is often written as an integer beyond 64 bits. */
    *out = json_loadb(data, len, JSON_DECODE_INT_AS_REAL, &why);
    free(data);
    return *out ? ST_OK : error_set(err, ST_INVALID, "%s: line %d: %s", path, why.line, why.text);
}

/* False when it is no number that could be a token. */
static bool token_of(const json_t *id, uint32_t *out)
{
    double value = json_number_value(id);
    if (!json_is_number(id) || value < 0 || value >= TOKENIZER_MAX_VOCAB || value != (double)(uint32_t)value)
        return false;
    *out = (uint32_t)value;
    return true;
}

static status add_eos(const char *dir, const char *name, const json_t *id, struct tokenizer *tok, struct error *err)
{
    uint32_t token;
    if (!token_of(id, &token))
        return error_set(err, ST_INVALID, "%s/%s: eos_token_id is not a token", dir, name);
    status st = tokenizer_add_eos(tok, token);
    return st == ST_OK ? st
                       : error_set(err, st, "%s/%s: eos_token_id: more than %d ids end an answer", dir, name,
                                   TOKENIZER_MAX_EOS);
}

/* One id, a list of ids, or nothing. */
static status read_eos(const char *dir, const char *name, const json_t *config, struct tokenizer *tok,
                       struct error *err)
{
    const json_t *eos = json_object_get(config, "eos_token_id");
    if (!eos || json_is_null(eos))
        return ST_OK;
    if (!json_is_array(eos))
        return add_eos(dir, name, eos, tok, err);
    for (size_t i = 0; i < json_array_size(eos); i++) {
        status st = add_eos(dir, name, json_array_get(eos, i), tok, err);
        if (st != ST_OK)
            return st;
    }
    return ST_OK;
}

/* "bos_token": a text, an object with the text as content, or null. */
static status read_token_text(const json_t *config, const char *key, char **slot)
{
    const json_t *token = json_object_get(config, key);
    if (json_is_object(token))
        token = json_object_get(token, "content");
    return json_is_string(token) ? tokenizer_set_text(slot, json_string_value(token), json_string_length(token))
                                 : ST_OK;
}

static status text_of(const struct tokenizer *tok, uint32_t id, char **slot)
{
    size_t len;
    const char *bytes = tokenizer_bytes(tok, id, &len);
    return *slot || len == 0 ? ST_OK : tokenizer_set_text(slot, bytes, len);
}

/* The text decides where the id does not, and the id where the text does not. */
static status settle_ends(struct tokenizer *tok, const json_t *config)
{
    const json_t *bos = json_object_get(config, "bos_token_id");
    if (tok->bos == TOKENIZER_NONE && tok->bos_text)
        tok->bos = tokenizer_id(tok, tok->bos_text, strlen(tok->bos_text));
    uint32_t token;
    if (tok->bos == TOKENIZER_NONE && !tok->bos_text && token_of(bos, &token) && token < tokenizer_vocab_size(tok))
        tok->bos = token;
    uint32_t eos = tok->eos_text ? tokenizer_id(tok, tok->eos_text, strlen(tok->eos_text)) : TOKENIZER_NONE;
    status st = tok->n_eos == 0 && eos != TOKENIZER_NONE ? tokenizer_add_eos(tok, eos) : ST_OK;
    if (st == ST_OK && tok->n_eos > 0)
        st = text_of(tok, tok->eos[0], &tok->eos_text);
    if (st == ST_OK && tok->bos != TOKENIZER_NONE)
        st = text_of(tok, tok->bos, &tok->bos_text);
    return st;
}

static status read_configs(const char *dir, struct tokenizer *tok, struct error *err)
{
    json_t *token = NULL, *model = NULL, *generation = NULL;
    status st = read_config(dir, "tokenizer_config.json", &token, err);
    if (st == ST_OK)
        st = read_config(dir, "config.json", &model, err);
    if (st == ST_OK)
        st = read_config(dir, "generation_config.json", &generation, err);
    if (st == ST_OK)
        st = read_eos(dir, "config.json", model, tok, err);
    if (st == ST_OK)
        st = read_eos(dir, "generation_config.json", generation, tok, err);
    if (st == ST_OK)
        st = read_token_text(token, "bos_token", &tok->bos_text);
    if (st == ST_OK)
        st = read_token_text(token, "eos_token", &tok->eos_text);
    if (st == ST_OK)
        st = settle_ends(tok, model);
    json_decref(token);
    json_decref(model);
    json_decref(generation);
    return st;
}

status tokenizer_load_folder(const char *dir, struct tokenizer **out, struct error *err)
{
    char path[PATH_BYTES], *data = NULL;
    size_t len = 0;
    struct tokenizer *tok = NULL;
    status st = join(path, dir, "tokenizer.json", err);
    if (st == ST_OK)
        st = read_file(path, TOKENIZER_JSON_MAX_BYTES, &data, &len, err);
    if (st == ST_OK)
        st = tokenizer_load_json(path, data, len, &tok, err);
    free(data);
    if (st == ST_OK)
        st = read_configs(dir, tok, err);
    if (st == ST_OK)
        *out = tok;
    else
        tokenizer_destroy(&tok);
    return st;
}
