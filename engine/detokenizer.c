#include <string.h>

#include "common/utf8.h"
#include "engine/tokenizer_impl.h"

_Static_assert(sizeof((struct detokenizer *)0)->pending == sizeof((struct utf8_pending *)0)->bytes,
               "a detokenizer carries one unfinished UTF-8 sequence");

void detokenizer_init(struct detokenizer *d, const struct tokenizer *tok, bool keep_special)
{
    *d = (struct detokenizer){ .tok = tok, .keep_special = keep_special };
}

void detokenizer_at_start(struct detokenizer *d)
{
    d->drop_space = d->tok->drops_first_space;
}

static struct utf8_pending load_pending(const struct detokenizer *d)
{
    struct utf8_pending pending = { .n = d->n_pending };
    memcpy(pending.bytes, d->pending, sizeof pending.bytes);
    return pending;
}

static void store_pending(struct detokenizer *d, const struct utf8_pending *pending)
{
    memcpy(d->pending, pending->bytes, sizeof d->pending);
    d->n_pending = pending->n;
}

size_t detokenizer_push(struct detokenizer *d, uint32_t id, char *out)
{
    if (!d->keep_special && tokenizer_is_special(d->tok, id))
        return 0;
    size_t len = 0, written = 0;
    const char *bytes = tokenizer_bytes(d->tok, id, &len);
    struct utf8_pending pending = load_pending(d);
    for (size_t i = 0; i < len; i++)
        written += utf8_feed(&pending, (uint8_t)bytes[i], out + written);
    store_pending(d, &pending);
    if (!d->drop_space || written == 0)
        return written;
    d->drop_space = false;
    if (out[0] == ' ')
        memmove(out, out + 1, --written);
    return written;
}

size_t detokenizer_finish(struct detokenizer *d, char *out)
{
    struct utf8_pending pending = load_pending(d);
    size_t written = utf8_flush(&pending, out);
    store_pending(d, &pending);
    return written;
}
