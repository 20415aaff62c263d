#include "engine/spm.h"

#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"

#define SPACE     "\xE2\x96\x81" /* U+2581 */
#define SPACE_LEN 3

static bool is_space(const char *text, size_t len)
{
    return len >= SPACE_LEN && memcmp(text, SPACE, SPACE_LEN) == 0;
}

size_t spm_spaces(const char *text, size_t len, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < len; n++) {
        bool space = is_space(text + i, len - i);
        out[n] = space ? ' ' : text[i];
        i += space ? SPACE_LEN : 1;
    }
    return n;
}

bool spm_starts_with_space(const char *text, size_t len)
{
    return (len > 0 && text[0] == ' ') || is_space(text, len);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int spm_byte(const char *text, size_t len)
{
    if (len != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
        return -1;
    int high = hex_digit(text[3]), low = hex_digit(text[4]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

static status add_byte(struct bpe *bpe, uint32_t id, uint8_t byte)
{
    if (bpe->base[byte] != BPE_NO_ID)
        return ST_INVALID;
    status st = bpe_vocab_add(&bpe->vocab, id, &(char){ (char)byte }, 1, 0);
    if (st == ST_OK)
        bpe->base[byte] = id;
    return st;
}

static bool has_inner_space(const char *bytes, size_t n)
{
    for (size_t i = 1; i < n; i++)
        if (bytes[i] == ' ' && bytes[i - 1] != ' ')
            return true;
    return false;
}

status spm_add_token(struct bpe *bpe, uint32_t id, const char *text, size_t len, bool findable)
{
    char bytes[SPACE_LEN * TOKENIZER_MAX_TOKEN_BYTES];
    int byte = findable ? spm_byte(text, len) : -1;
    if (byte >= 0)
        return add_byte(bpe, id, (uint8_t)byte);
    if (len > sizeof bytes)
        return ST_LIMIT;
    size_t n = spm_spaces(text, len, bytes);
    status st = bpe_vocab_add(&bpe->vocab, id, bytes, n, 0);
    if (st != ST_OK || !findable || n == 0 || memchr(text, ' ', len) || utf8_valid_prefix(bytes, n) != n)
        return st;
    bpe->has_inner_spaces |= has_inner_space(bytes, n);
    return bpe_vocab_index(&bpe->vocab, id);
}

uint32_t spm_find(const struct bpe *bpe, const char *text, size_t len)
{
    char bytes[SPACE_LEN * TOKENIZER_MAX_TOKEN_BYTES];
    int byte = spm_byte(text, len);
    if (byte >= 0)
        return bpe->base[byte];
    if (len > sizeof bytes || memchr(text, ' ', len))
        return BPE_NO_ID;
    return bpe_vocab_find(&bpe->vocab, bytes, spm_spaces(text, len, bytes));
}

unsigned spm_count_bytes(const struct bpe *bpe)
{
    unsigned n = 0;
    for (unsigned byte = 0; byte < 256; byte++)
        n += bpe->base[byte] != BPE_NO_ID;
    return n;
}

struct scored {
    double score;
    uint32_t id;
};

static int compare_scores(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    return (x->score < y->score) - (x->score > y->score);
}

/* Every cut of a token into two is a merge. */
static status add_merges_of(struct bpe *bpe, uint32_t id, uint32_t rank)
{
    size_t len;
    const char *bytes = bpe_vocab_bytes(&bpe->vocab, id, &len);
    if (len == 0 || bpe_vocab_find(&bpe->vocab, bytes, len) != id)
        return ST_OK;
    status st = ST_OK;
    for (size_t cut = 1; st == ST_OK && cut < len; cut++) {
        uint32_t left = bpe_vocab_find(&bpe->vocab, bytes, cut);
        uint32_t right = left == BPE_NO_ID ? left : bpe_vocab_find(&bpe->vocab, bytes + cut, len - cut);
        if (right != BPE_NO_ID)
            st = bpe_add_merge(bpe, left, right, rank, id);
    }
    return st;
}

status spm_add_merges(struct bpe *bpe, const double *scores)
{
    uint32_t n = bpe->vocab.n, rank = 0;
    struct scored *sorted = malloc((n + 1) * sizeof *sorted);
    if (!sorted)
        return ST_NO_MEMORY;
    for (uint32_t id = 0; id < n; id++)
        sorted[id] = (struct scored){ scores[id], id };
    qsort(sorted, n, sizeof *sorted, compare_scores);
    status st = ST_OK;
    for (uint32_t i = 0; st == ST_OK && i < n; i++) {
        rank += i > 0 && sorted[i].score != sorted[i - 1].score;
        st = add_merges_of(bpe, sorted[i].id, rank);
    }
    free(sorted);
    return st;
}

struct first_ids {
    const struct bpe *bpe;
    uint32_t *ids;
    size_t n;
    bool after_unknown;
};

/* All bytes of a vocabulary have tokens or none has: see the loaders. */
static void put_unknown(struct first_ids *f, const char *text, size_t len)
{
    const struct bpe *bpe = f->bpe;
    bool bytes = bpe->base[(uint8_t)text[0]] != BPE_NO_ID;
    for (size_t i = 0; bytes && i < len; i++)
        f->ids[f->n++] = bpe->base[(uint8_t)text[i]];
    if (!bytes && bpe->unknown != BPE_NO_ID && !(bpe->fuse_unknown && f->after_unknown))
        f->ids[f->n++] = bpe->unknown;
    f->after_unknown = !bytes;
}

size_t spm_first_ids(const struct bpe *bpe, const char *piece, size_t len, uint32_t *ids)
{
    struct first_ids f = { .bpe = bpe, .ids = ids };
    for (size_t i = 0, n; i < len; i += n) {
        n = utf8_sequence(piece + i, len - i);
        ASSERT(n > 0);
        uint32_t id = bpe_vocab_find(&bpe->vocab, piece + i, n);
        if (id == BPE_NO_ID) {
            put_unknown(&f, piece + i, n);
            continue;
        }
        f.ids[f.n++] = id;
        f.after_unknown = false;
    }
    return f.n;
}

/* Not where a space is unknown, and perhaps one with an unknown character before it; nor where unknown
 * characters are left out, so that spaces around them become neighbours. */
static bool may_cut(const struct bpe *bpe)
{
    bool has_bytes = bpe->base[0] != BPE_NO_ID;
    return !bpe->has_inner_spaces && bpe_vocab_find(&bpe->vocab, " ", 1) != BPE_NO_ID &&
           (has_bytes || bpe->unknown != BPE_NO_ID);
}

size_t spm_piece(const struct bpe *bpe, const char *text, size_t len)
{
    if (!may_cut(bpe))
        return len;
    size_t end = 1;
    while (end < len && (text[end] != ' ' || text[end - 1] == ' '))
        end++;
    return end;
}
