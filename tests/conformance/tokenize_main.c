/* Tokenises for a conformance script: argv[1] is a folder or a GGUF file.
 * On stdin texts, each a 32-bit little-endian length and the bytes; on stdout
 * for each text a 32-bit count and the ids. argv[2], if any: flags, see
 * engine/tokenizer.h (default: special tokens are recognised, no BOS). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/gguf.h"
#include "engine/tokenizer.h"

static status load(const char *path, struct tokenizer **tok, struct error *err)
{
    size_t len = strlen(path);
    if (len < 5 || strcmp(path + len - 5, ".gguf") != 0)
        return tokenizer_load_folder(path, tok, err);
    struct gguf *file = NULL;
    status st = gguf_open(path, &file, err);
    if (st == ST_OK)
        st = tokenizer_load_gguf(file, tok, err);
    gguf_close(&file);
    return st;
}

/* 1 for a text, 0 at the end, -1 for a broken stream. */
static int read_text(char **text, uint32_t *len)
{
    if (fread(len, sizeof *len, 1, stdin) != 1)
        return feof(stdin) ? 0 : -1;
    if (*len > TOKENIZER_MAX_TEXT_BYTES)
        return -1;
    *text = malloc(*len + 1u);
    if (!*text || fread(*text, 1, *len, stdin) != *len) {
        free(*text);
        return -1;
    }
    return 1;
}

int main(int argc, char **argv)
{
    struct tokenizer *tok = NULL;
    struct error err = { "" };
    if (argc < 2 || load(argv[1], &tok, &err) != ST_OK) {
        fprintf(stderr, "%s\n", argc < 2 ? "usage: tokenize FOLDER [FLAGS] < texts > ids" : err.text);
        return 1;
    }
    unsigned flags = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 0) : TOKENIZE_SPECIAL;
    struct token_list list = { 0 };
    char *text = NULL;
    uint32_t len;
    int rc;
    while ((rc = read_text(&text, &len)) > 0) {
        list.n = 0;
        status st = tokenizer_encode(tok, text, len, flags, 0, &list);
        free(text);
        uint32_t n = (uint32_t)list.n;
        if (st != ST_OK || fwrite(&n, sizeof n, 1, stdout) != 1 ||
            fwrite(list.ids, sizeof *list.ids, list.n, stdout) != list.n) {
            fprintf(stderr, "%s\n", status_text(st));
            rc = -1;
            break;
        }
    }
    token_list_free(&list);
    tokenizer_destroy(&tok);
    return rc == 0 ? 0 : 1;
}
