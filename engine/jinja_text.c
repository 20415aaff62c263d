#include "engine/jinja_text.h"

#include <string.h>
#include <utf8proc.h>

size_t jinja_char_at(const char *text, size_t len, int32_t *code)
{
    unsigned char c = (unsigned char)*text;
    if (c < 0x80) {
        *code = c;
        return 1;
    }
    size_t n = c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
    if (n > len)
        n = len;
    *code = c & (0xFF >> (n + 1));
    for (size_t i = 1; i < n; i++)
        *code = *code << 6 | (text[i] & 0x3F);
    return n;
}

void jinja_put_char(struct jinja_heap *heap, struct jinja_buf *buf, int32_t code)
{
    utf8proc_uint8_t bytes[4];
    utf8proc_ssize_t n = utf8proc_encode_char(code, bytes);
    jinja_buf_add(heap, buf, (const char *)bytes, (size_t)n);
}

bool jinja_valid_utf8(const char *text, size_t len)
{
    for (size_t at = 0; at < len;) {
        utf8proc_int32_t code;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)(len - at), &code);
        if (n <= 0)
            return false;
        at += (size_t)n;
    }
    return true;
}

bool jinja_is_space(int32_t c)
{
    return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x1F) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/* As str.splitlines() sees line ends. */
static bool is_line_end(int32_t c)
{
    return (c >= 10 && c <= 13) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

bool jinja_is_printable(int32_t c)
{
    if (c == ' ')
        return true;
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return false;
    default:
        return true;
    }
}

/* Byte where the code point before at starts. */
static size_t char_before(const char *text, size_t at)
{
    do
        at--;
    while (at > 0 && ((unsigned char)text[at] & 0xC0) == 0x80);
    return at;
}

static bool among(const struct jinja_str *chars, int32_t code)
{
    if (!chars)
        return jinja_is_space(code);
    for (size_t at = 0; at < chars->len;) {
        int32_t c;
        at += jinja_char_at(chars->bytes + at, chars->len - at, &c);
        if (c == code)
            return true;
    }
    return false;
}

static size_t leading(const char *text, size_t len, const struct jinja_str *chars)
{
    size_t at = 0;
    while (at < len) {
        int32_t code;
        size_t n = jinja_char_at(text + at, len - at, &code);
        if (!among(chars, code))
            break;
        at += n;
    }
    return at;
}

static size_t trailing(const char *text, size_t len, const struct jinja_str *chars)
{
    size_t end = len;
    while (end > 0) {
        int32_t code;
        size_t before = char_before(text, end);
        jinja_char_at(text + before, end - before, &code);
        if (!among(chars, code))
            break;
        end = before;
    }
    return len - end;
}

size_t jinja_leading_space(const char *text, size_t len)
{
    return leading(text, len, NULL);
}

size_t jinja_trailing_space(const char *text, size_t len)
{
    return trailing(text, len, NULL);
}

size_t jinja_count_chars(const char *text, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++)
        n += ((unsigned char)text[i] & 0xC0) != 0x80;
    return n;
}

size_t jinja_byte_offset(const struct jinja_str *s, size_t at)
{
    if (at >= s->chars)
        return s->len;
    if (s->chars == s->len)
        return at;
    size_t i = 0;
    for (size_t seen = 0; i < s->len; i++)
        if (((unsigned char)s->bytes[i] & 0xC0) != 0x80 && seen++ == at)
            break;
    return i;
}

size_t jinja_find(struct jinja_heap *heap, const struct jinja_str *s, const struct jinja_str *needle, size_t from,
                  size_t to)
{
    if (from > to || to - from < needle->len)
        return SIZE_MAX;
    jinja_charge(heap, (to - from) / 64);
    if (!needle->len)
        return from;
    const char *at = memmem(s->bytes + from, to - from, needle->bytes, needle->len);
    return at ? (size_t)(at - s->bytes) : SIZE_MAX;
}

size_t jinja_find_last(struct jinja_heap *heap, const struct jinja_str *s, const struct jinja_str *needle, size_t from,
                       size_t to)
{
    if (from > to || to - from < needle->len)
        return SIZE_MAX;
    size_t at = to - needle->len;
    for (;; at--) {
        jinja_charge(heap, 1);
        if (memcmp(s->bytes + at, needle->bytes, needle->len) == 0)
            return at;
        if (at == from)
            return SIZE_MAX;
    }
}

const struct jinja_str *jinja_strip(struct jinja_heap *heap, const struct jinja_str *s, const struct jinja_str *chars,
                                    bool left, bool right)
{
    size_t from = left ? leading(s->bytes, s->len, chars) : 0;
    size_t cut = right ? trailing(s->bytes + from, s->len - from, chars) : 0;
    return from || cut ? jinja_str_new(heap, s->bytes + from, s->len - from - cut) : s;
}

/* Python puts the new text before every character and at the end. */
static const struct jinja_str *replace_empty(struct jinja_heap *heap, const struct jinja_str *s,
                                             const struct jinja_str *new_text, int64_t max)
{
    struct jinja_buf out = { 0 };
    size_t at = 0;
    for (int64_t done = 0; max < 0 || done < max; done++) {
        jinja_charge(heap, 1);
        jinja_buf_add(heap, &out, new_text->bytes, new_text->len);
        if (at == s->len)
            return jinja_str_of_buf(heap, &out);
        int32_t code;
        size_t n = jinja_char_at(s->bytes + at, s->len - at, &code);
        jinja_buf_add(heap, &out, s->bytes + at, n);
        at += n;
    }
    jinja_buf_add(heap, &out, s->bytes + at, s->len - at);
    return jinja_str_of_buf(heap, &out);
}

const struct jinja_str *jinja_replace(struct jinja_heap *heap, const struct jinja_str *s, const struct jinja_str *old,
                                      const struct jinja_str *new_text, int64_t max)
{
    if (!old->len)
        return replace_empty(heap, s, new_text, max);
    struct jinja_buf out = { 0 };
    size_t from = 0;
    for (int64_t done = 0; max < 0 || done < max; done++) {
        size_t at = jinja_find(heap, s, old, from, s->len);
        if (at == SIZE_MAX)
            break;
        jinja_charge(heap, 1);
        jinja_buf_add(heap, &out, s->bytes + from, at - from);
        jinja_buf_add(heap, &out, new_text->bytes, new_text->len);
        from = at + old->len;
    }
    if (!from)
        return s;
    jinja_buf_add(heap, &out, s->bytes + from, s->len - from);
    return jinja_str_of_buf(heap, &out);
}

/* Parts as they are found; a growing list. */
struct parts {
    struct jinja_heap *heap;
    struct jinja_list *list;
    size_t cap;
};

static void part_add(struct parts *parts, const char *bytes, size_t len)
{
    struct jinja_list *list = parts->list;
    jinja_charge(parts->heap, 1);
    if (list->n == parts->cap) {
        parts->cap = parts->cap ? 2 * parts->cap : 8;
        struct jinja_value *grown = jinja_alloc(parts->heap, parts->cap * sizeof *grown);
        if (list->n)
            memcpy(grown, list->items, list->n * sizeof *grown);
        list->items = grown;
    }
    list->items[list->n++] = jinja_of_str(jinja_str_new(parts->heap, bytes, len));
}

static struct parts parts_start(struct jinja_heap *heap)
{
    return (struct parts){ heap, jinja_list_new(heap, FORM_LIST, 0), 0 };
}

static void split_at(struct parts *parts, const struct jinja_str *s, const struct jinja_str *sep, int64_t max)
{
    size_t from = 0, at;
    while (max-- != 0 && (at = jinja_find(parts->heap, s, sep, from, s->len)) != SIZE_MAX) {
        part_add(parts, s->bytes + from, at - from);
        from = at + sep->len;
    }
    part_add(parts, s->bytes + from, s->len - from);
}

static void rsplit_at(struct parts *parts, const struct jinja_str *s, const struct jinja_str *sep, int64_t max)
{
    size_t to = s->len, at;
    while (max-- != 0 && (at = jinja_find_last(parts->heap, s, sep, 0, to)) != SIZE_MAX) {
        part_add(parts, s->bytes + at + sep->len, to - at - sep->len);
        to = at;
    }
    part_add(parts, s->bytes, to);
}

/* Bytes up to the first (after the last) white space. */
static size_t word_end(const char *text, size_t len)
{
    size_t at = 0;
    while (at < len) {
        int32_t code;
        size_t n = jinja_char_at(text + at, len - at, &code);
        if (jinja_is_space(code))
            break;
        at += n;
    }
    return at;
}

static size_t word_start(const char *text, size_t len)
{
    while (len > 0) {
        int32_t code;
        size_t before = char_before(text, len);
        jinja_char_at(text + before, len - before, &code);
        if (jinja_is_space(code))
            break;
        len = before;
    }
    return len;
}

static void split_words(struct parts *parts, const struct jinja_str *s, int64_t max)
{
    for (size_t at = 0;;) {
        at += jinja_leading_space(s->bytes + at, s->len - at);
        if (at == s->len)
            return;
        size_t n = max-- == 0 ? s->len - at : word_end(s->bytes + at, s->len - at);
        part_add(parts, s->bytes + at, n);
        at += n;
    }
}

static void rsplit_words(struct parts *parts, const struct jinja_str *s, int64_t max)
{
    for (size_t to = s->len;;) {
        to -= jinja_trailing_space(s->bytes, to);
        if (to == 0)
            return;
        size_t from = max-- == 0 ? 0 : word_start(s->bytes, to);
        part_add(parts, s->bytes + from, to - from);
        to = from;
    }
}

struct jinja_value jinja_split(struct jinja_heap *heap, const struct jinja_str *s, const struct jinja_str *sep,
                               int64_t max, bool from_right)
{
    struct parts parts = parts_start(heap);
    if (sep && !sep->len)
        jinja_fail(heap, ST_INVALID, "empty separator");
    if (!from_right) {
        if (sep)
            split_at(&parts, s, sep, max);
        else
            split_words(&parts, s, max);
        return jinja_of_list(parts.list);
    }
    if (sep)
        rsplit_at(&parts, s, sep, max);
    else
        rsplit_words(&parts, s, max);
    struct jinja_list *list = parts.list;
    for (size_t i = 0; i < list->n / 2; i++) {
        struct jinja_value swap = list->items[i];
        list->items[i] = list->items[list->n - 1 - i];
        list->items[list->n - 1 - i] = swap;
    }
    return jinja_of_list(list);
}

struct jinja_value jinja_splitlines(struct jinja_heap *heap, const struct jinja_str *s, bool keep_ends)
{
    struct parts parts = parts_start(heap);
    size_t from = 0;
    for (size_t at = 0; at < s->len;) {
        int32_t code;
        size_t end = at + jinja_char_at(s->bytes + at, s->len - at, &code);
        if (is_line_end(code)) {
            if (code == '\r' && end < s->len && s->bytes[end] == '\n')
                end++;
            part_add(&parts, s->bytes + from, (keep_ends ? end : at) - from);
            from = end;
        }
        at = end;
    }
    if (from < s->len)
        part_add(&parts, s->bytes + from, s->len - from);
    return jinja_of_list(parts.list);
}
