#include "engine/jinja_case.h"

#include <utf8proc.h>

#include "engine/jinja_text.h"

/* Letters whose upper or title case is not one letter: Unicode's
 * SpecialCasing.txt, but for the regular run U+1F80..U+1FAF. */
static const struct {
    int32_t code;
    int32_t upper[3];
    int32_t title[3];
} special[] = {
    { 0x00DF, { 0x0053, 0x0053 }, { 0x0053, 0x0073 } },
    { 0x0149, { 0x02BC, 0x004E }, { 0x02BC, 0x004E } },
    { 0x01F0, { 0x004A, 0x030C }, { 0x004A, 0x030C } },
    { 0x0390, { 0x0399, 0x0308, 0x0301 }, { 0x0399, 0x0308, 0x0301 } },
    { 0x03B0, { 0x03A5, 0x0308, 0x0301 }, { 0x03A5, 0x0308, 0x0301 } },
    { 0x0587, { 0x0535, 0x0552 }, { 0x0535, 0x0582 } },
    { 0x1E96, { 0x0048, 0x0331 }, { 0x0048, 0x0331 } },
    { 0x1E97, { 0x0054, 0x0308 }, { 0x0054, 0x0308 } },
    { 0x1E98, { 0x0057, 0x030A }, { 0x0057, 0x030A } },
    { 0x1E99, { 0x0059, 0x030A }, { 0x0059, 0x030A } },
    { 0x1E9A, { 0x0041, 0x02BE }, { 0x0041, 0x02BE } },
    { 0x1F50, { 0x03A5, 0x0313 }, { 0x03A5, 0x0313 } },
    { 0x1F52, { 0x03A5, 0x0313, 0x0300 }, { 0x03A5, 0x0313, 0x0300 } },
    { 0x1F54, { 0x03A5, 0x0313, 0x0301 }, { 0x03A5, 0x0313, 0x0301 } },
    { 0x1F56, { 0x03A5, 0x0313, 0x0342 }, { 0x03A5, 0x0313, 0x0342 } },
    { 0x1FB2, { 0x1FBA, 0x0399 }, { 0x1FBA, 0x0345 } },
    { 0x1FB3, { 0x0391, 0x0399 }, { 0x1FBC } },
    { 0x1FB4, { 0x0386, 0x0399 }, { 0x0386, 0x0345 } },
    { 0x1FB6, { 0x0391, 0x0342 }, { 0x0391, 0x0342 } },
    { 0x1FB7, { 0x0391, 0x0342, 0x0399 }, { 0x0391, 0x0342, 0x0345 } },
    { 0x1FBC, { 0x0391, 0x0399 }, { 0x1FBC } },
    { 0x1FC2, { 0x1FCA, 0x0399 }, { 0x1FCA, 0x0345 } },
    { 0x1FC3, { 0x0397, 0x0399 }, { 0x1FCC } },
    { 0x1FC4, { 0x0389, 0x0399 }, { 0x0389, 0x0345 } },
    { 0x1FC6, { 0x0397, 0x0342 }, { 0x0397, 0x0342 } },
    { 0x1FC7, { 0x0397, 0x0342, 0x0399 }, { 0x0397, 0x0342, 0x0345 } },
    { 0x1FCC, { 0x0397, 0x0399 }, { 0x1FCC } },
    { 0x1FD2, { 0x0399, 0x0308, 0x0300 }, { 0x0399, 0x0308, 0x0300 } },
    { 0x1FD3, { 0x0399, 0x0308, 0x0301 }, { 0x0399, 0x0308, 0x0301 } },
    { 0x1FD6, { 0x0399, 0x0342 }, { 0x0399, 0x0342 } },
    { 0x1FD7, { 0x0399, 0x0308, 0x0342 }, { 0x0399, 0x0308, 0x0342 } },
    { 0x1FE2, { 0x03A5, 0x0308, 0x0300 }, { 0x03A5, 0x0308, 0x0300 } },
    { 0x1FE3, { 0x03A5, 0x0308, 0x0301 }, { 0x03A5, 0x0308, 0x0301 } },
    { 0x1FE4, { 0x03A1, 0x0313 }, { 0x03A1, 0x0313 } },
    { 0x1FE6, { 0x03A5, 0x0342 }, { 0x03A5, 0x0342 } },
    { 0x1FE7, { 0x03A5, 0x0308, 0x0342 }, { 0x03A5, 0x0308, 0x0342 } },
    { 0x1FF2, { 0x1FFA, 0x0399 }, { 0x1FFA, 0x0345 } },
    { 0x1FF3, { 0x03A9, 0x0399 }, { 0x1FFC } },
    { 0x1FF4, { 0x038F, 0x0399 }, { 0x038F, 0x0345 } },
    { 0x1FF6, { 0x03A9, 0x0342 }, { 0x03A9, 0x0342 } },
    { 0x1FF7, { 0x03A9, 0x0342, 0x0399 }, { 0x03A9, 0x0342, 0x0345 } },
    { 0x1FFC, { 0x03A9, 0x0399 }, { 0x1FFC } },
    { 0xFB00, { 0x0046, 0x0046 }, { 0x0046, 0x0066 } },
    { 0xFB01, { 0x0046, 0x0049 }, { 0x0046, 0x0069 } },
    { 0xFB02, { 0x0046, 0x004C }, { 0x0046, 0x006C } },
    { 0xFB03, { 0x0046, 0x0046, 0x0049 }, { 0x0046, 0x0066, 0x0069 } },
    { 0xFB04, { 0x0046, 0x0046, 0x004C }, { 0x0046, 0x0066, 0x006C } },
    { 0xFB05, { 0x0053, 0x0054 }, { 0x0053, 0x0074 } },
    { 0xFB06, { 0x0053, 0x0054 }, { 0x0053, 0x0074 } },
    { 0xFB13, { 0x0544, 0x0546 }, { 0x0544, 0x0576 } },
    { 0xFB14, { 0x0544, 0x0535 }, { 0x0544, 0x0565 } },
    { 0xFB15, { 0x0544, 0x053B }, { 0x0544, 0x056B } },
    { 0xFB16, { 0x054E, 0x0546 }, { 0x054E, 0x0576 } },
    { 0xFB17, { 0x0544, 0x053D }, { 0x0544, 0x056D } },
};

struct range {
    int32_t first, last;
};

/* Lower and upper case beyond the letters: Unicode's Other_Lowercase and Other_Uppercase. */
static const struct range other_lower[] = {
    { 0xAA, 0xAA },       { 0xBA, 0xBA },       { 0x2B0, 0x2B8 },     { 0x2C0, 0x2C1 },     { 0x2E0, 0x2E4 },
    { 0x345, 0x345 },     { 0x37A, 0x37A },     { 0x1D2C, 0x1D6A },   { 0x1D78, 0x1D78 },   { 0x1D9B, 0x1DBF },
    { 0x2071, 0x2071 },   { 0x207F, 0x207F },   { 0x2090, 0x209C },   { 0x2170, 0x217F },   { 0x24D0, 0x24E9 },
    { 0x2C7C, 0x2C7D },   { 0xA69C, 0xA69D },   { 0xA770, 0xA770 },   { 0xA7F8, 0xA7F9 },   { 0xAB5C, 0xAB5F },
    { 0x10780, 0x10780 }, { 0x10783, 0x10785 }, { 0x10787, 0x107B0 }, { 0x107B2, 0x107BA },
};
static const struct range other_upper[] = {
    { 0x2160, 0x216F }, { 0x24B6, 0x24CF }, { 0x1F130, 0x1F149 }, { 0x1F150, 0x1F169 }, { 0x1F170, 0x1F189 },
};

enum { SIGMA = 0x3A3, SMALL_SIGMA = 0x3C3, FINAL_SIGMA = 0x3C2, DOTTED_I = 0x130, IOTA = 0x399, DOT_ABOVE = 0x307 };

static bool within(int32_t code, const struct range *ranges, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (code >= ranges[i].first && code <= ranges[i].last)
            return true;
    return false;
}

static bool is_lower(int32_t code)
{
    return utf8proc_category(code) == UTF8PROC_CATEGORY_LL ||
           within(code, other_lower, sizeof other_lower / sizeof *other_lower);
}

static bool is_upper(int32_t code)
{
    return utf8proc_category(code) == UTF8PROC_CATEGORY_LU ||
           within(code, other_upper, sizeof other_upper / sizeof *other_upper);
}

static bool is_title(int32_t code)
{
    return utf8proc_category(code) == UTF8PROC_CATEGORY_LT;
}

static bool is_cased(int32_t code)
{
    return is_lower(code) || is_upper(code) || is_title(code);
}

/* Characters that stand within a word without being its letters. */
static bool is_case_ignorable(int32_t code)
{
    static const struct range midword[] = { { '\'', '\'' },     { '.', '.' },       { ':', ':' },
                                            { 0xB7, 0xB7 },     { 0x387, 0x387 },   { 0x55F, 0x55F },
                                            { 0x5F4, 0x5F4 },   { 0x2018, 0x2019 }, { 0x2024, 0x2024 },
                                            { 0x2027, 0x2027 }, { 0xFE13, 0xFE13 }, { 0xFE52, 0xFE52 },
                                            { 0xFE55, 0xFE55 }, { 0xFF07, 0xFF07 }, { 0xFF0E, 0xFF0E },
                                            { 0xFF1A, 0xFF1A } };
    switch (utf8proc_category(code)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
        return true;
    default:
        return within(code, midword, sizeof midword / sizeof *midword);
    }
}

static void put_all(struct jinja_heap *heap, struct jinja_buf *out, const int32_t codes[3])
{
    for (int i = 0; i < 3 && codes[i]; i++)
        jinja_put_char(heap, out, codes[i]);
}

static void put_upper(struct jinja_heap *heap, struct jinja_buf *out, int32_t code, bool title)
{
    if (code >= 0x1F80 && code <= 0x1FAF && !title) {
        int32_t base = code < 0x1F90 ? 0x1F08 : code < 0x1FA0 ? 0x1F28 : 0x1F68;
        put_all(heap, out, (const int32_t[3]){ base + (code & 7), IOTA, 0 });
        return;
    }
    for (size_t i = 0; code >= 0xDF && i < sizeof special / sizeof *special; i++)
        if (special[i].code == code) {
            put_all(heap, out, title ? special[i].title : special[i].upper);
            return;
        }
    jinja_put_char(heap, out, title ? utf8proc_totitle(code) : utf8proc_toupper(code));
}

/* A capital sigma that ends a word becomes another letter than elsewhere. */
static bool ends_word(const struct jinja_str *s, size_t before, size_t after)
{
    int32_t code = 0;
    size_t at = before;
    do {
        if (at == 0)
            return false;
        do
            at--;
        while (at > 0 && ((unsigned char)s->bytes[at] & 0xC0) == 0x80);
        jinja_char_at(s->bytes + at, before - at, &code);
    } while (is_case_ignorable(code));
    if (!is_cased(code))
        return false;
    for (at = after; at < s->len;) {
        at += jinja_char_at(s->bytes + at, s->len - at, &code);
        if (!is_case_ignorable(code))
            return !is_cased(code);
    }
    return true;
}

/* The character at byte at, n bytes long. */
static void put_lower(struct jinja_heap *heap, struct jinja_buf *out, const struct jinja_str *s, size_t at, size_t n,
                      int32_t code)
{
    if (code == SIGMA)
        jinja_put_char(heap, out, ends_word(s, at, at + n) ? FINAL_SIGMA : SMALL_SIGMA);
    else if (code == DOTTED_I)
        put_all(heap, out, (const int32_t[3]){ 'i', DOT_ABOVE, 0 });
    else
        jinja_put_char(heap, out, utf8proc_tolower(code));
}

enum letter_case { CASE_UPPER, CASE_LOWER, CASE_TITLE, CASE_CAPITALIZE };

static const struct jinja_str *recase(struct jinja_heap *heap, const struct jinja_str *s, enum letter_case to)
{
    struct jinja_buf out = { 0 };
    bool within_word = false;
    jinja_charge(heap, s->len / 16);
    for (size_t at = 0, n; at < s->len; at += n) {
        int32_t code;
        n = jinja_char_at(s->bytes + at, s->len - at, &code);
        if (to == CASE_UPPER)
            put_upper(heap, &out, code, false);
        else if (to == CASE_LOWER || within_word)
            put_lower(heap, &out, s, at, n, code);
        else
            put_upper(heap, &out, code, true);
        within_word = to == CASE_CAPITALIZE || is_cased(code);
    }
    return jinja_str_of_buf(heap, &out);
}

const struct jinja_str *jinja_upper(struct jinja_heap *heap, const struct jinja_str *s)
{
    return recase(heap, s, CASE_UPPER);
}

const struct jinja_str *jinja_lower(struct jinja_heap *heap, const struct jinja_str *s)
{
    return recase(heap, s, CASE_LOWER);
}

const struct jinja_str *jinja_title(struct jinja_heap *heap, const struct jinja_str *s)
{
    return recase(heap, s, CASE_TITLE);
}

const struct jinja_str *jinja_capitalize(struct jinja_heap *heap, const struct jinja_str *s)
{
    return recase(heap, s, CASE_CAPITALIZE);
}

/* Every cased character satisfies wanted, and there is one. */
static bool all_cased(const struct jinja_str *s, bool (*wanted)(int32_t code))
{
    bool any = false;
    for (size_t at = 0; at < s->len;) {
        int32_t code;
        at += jinja_char_at(s->bytes + at, s->len - at, &code);
        if (is_cased(code) && !wanted(code))
            return false;
        any |= wanted(code);
    }
    return any;
}

bool jinja_is_upper(const struct jinja_str *s)
{
    return all_cased(s, is_upper);
}

bool jinja_is_lower(const struct jinja_str *s)
{
    return all_cased(s, is_lower);
}
