/* gguf_files.h - a GGUF model in one file or in several, as llama.cpp's gguf-split writes them:
 * NAME-00001-of-00003.gguf and so on. The first holds all metadata, each some of the tensors. */
#ifndef BATON_ENGINE_GGUF_FILES_H
#define BATON_ENGINE_GGUF_FILES_H

#include "engine/gguf.h"
#include "engine/model_index.h"

#define GGUF_MAX_FILES 512u

struct gguf_files {
    struct gguf *files[GGUF_MAX_FILES]; /* the first one has the metadata */
    size_t n;
    struct model_index joined;       /* of several files */
    const struct model_index *index; /* of all tensors   */
};

/* path is the only file, or the first of several. out is zeros; what was opened before an error is closed by
 * gguf_files_close. */
MUST_CHECK status gguf_files_open(const char *path, struct gguf_files *out, struct error *err);
void gguf_files_close(struct gguf_files *files);
/* Asks the kernel to read them all ahead. */
void gguf_files_will_need(const struct gguf_files *files);

/* Bytes of a file's name before "-00001-of-00003.gguf"; 0 when it does not end like this. */
size_t gguf_split_name(const char *path);

#endif
