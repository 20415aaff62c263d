/* model_folder.h - the parts of a Hugging Face model folder: config.json, the
 * safetensors files, the chat template. */
#ifndef BATON_ENGINE_MODEL_FOLDER_H
#define BATON_ENGINE_MODEL_FOLDER_H

#include "engine/model.h"
#include "engine/model_index.h"
#include "engine/safetensors.h"

#define MODEL_MAX_SHARDS 1024

/* Of the fields that transformers' LlamaConfig and Qwen3Config know, each one
 * that changes the mathematics is read or must say that it is off. */
MUST_CHECK status model_folder_config(const char *dir, struct model_config *out, struct error *err);

struct model_shards {
    struct safetensors *files[MODEL_MAX_SHARDS];
    size_t n;
};

/* Opens model.safetensors, or the files that model.safetensors.index.json names. */
MUST_CHECK status model_folder_shards(const char *dir, struct model_shards *out, struct model_index *index,
                                      struct error *err);
void model_shards_close(struct model_shards *shards);

/* chat_template.jinja or else tokenizer_config.json's chat_template, of several
 * the one named "default"; *out is NULL when the folder has none. */
MUST_CHECK status model_folder_template(const char *dir, struct chat_template **out, struct error *err);

#endif
