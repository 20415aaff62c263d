/* tokenizer_sample.h - a tokenizer.json for tests: the 256 bytes as tokens 0 to
 * 255, and what a test adds or replaces. Byte-level, or SentencePiece's as Llama 2 has it. */
#ifndef BATON_TESTS_TOKENIZER_SAMPLE_H
#define BATON_TESTS_TOKENIZER_SAMPLE_H

#include <stdio.h>
#include <string.h>

#include "common/utf8.h"
#include "engine/tokenizer_impl.h"

#define SAMPLE_GPT2 "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}"
#define SAMPLE_RAW  "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}"
#define SAMPLE_SPLIT(pattern)                                                                                          \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" pattern                  \
    "\"},\"behavior\":\"Isolated\",\"invert\":false}," SAMPLE_RAW "]}"

#define SAMPLE_REPLACE           "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\u2581\"}"
#define SAMPLE_PREPEND           "{\"type\":\"Prepend\",\"prepend\":\"\u2581\"}"
#define SAMPLE_NORMALIZERS(list) "{\"type\":\"Sequence\",\"normalizers\":[" list "]}"
#define SAMPLE_METASPACE(scheme)                                                                                       \
    "{\"type\":\"Metaspace\",\"replacement\":\"\u2581\",\"prepend_scheme\":\"" scheme "\",\"split\":false}"
#define SAMPLE_SPACES         "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\u2581\"},\"content\":\" \"}"
#define SAMPLE_STRIP          "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}"
#define SAMPLE_DECODERS(list) "{\"type\":\"Sequence\",\"decoders\":[" list "]}"
#define SAMPLE_FUSED          SAMPLE_SPACES ",{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}"

/* Members are JSON; NULL takes what stands in sample_load. */
struct sample {
    bool spm;
    const char *normalizer, *pre, *post, *decoder, *added;
    const char *vocab; /* more tokens, each ",\"text\":id" */
    const char *merges;
    const char *model; /* more members of the model, each ",\"key\":value" */
    const char *top;   /* more members of the file */
    const char *type;
};

static inline const char *sample_or(const char *given, const char *otherwise)
{
    return given ? given : otherwise;
}

/* The bytes as tokens: "\"!\":33,...". */
static inline void sample_bytes(char *out)
{
    unsigned other = 0x100;
    size_t n = 0;
    for (unsigned b = 0; b < 256; b++) {
        bool itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        if (b > 0)
            out[n++] = ',';
        out[n++] = '"';
        if (b == '"' || b == '\\')
            out[n++] = '\\';
        n += utf8_put(itself ? b : other++, out + n);
        n += (size_t)sprintf(out + n, "\":%u", b);
    }
    out[n] = '\0';
}

static inline void sample_spm_bytes(char *out)
{
    size_t n = 0;
    for (unsigned b = 0; b < 256; b++)
        n += (size_t)sprintf(out + n, "%s\"<0x%02X>\":%u", b > 0 ? "," : "", b, b);
}

static inline int sample_text(const struct sample *s, char *out, size_t size)
{
    char bytes[8192];
    if (s->spm)
        sample_spm_bytes(bytes);
    else
        sample_bytes(bytes);
    const char *normalizer = s->spm ? SAMPLE_NORMALIZERS(SAMPLE_PREPEND "," SAMPLE_REPLACE) : "null";
    const char *decoder = s->spm ? SAMPLE_DECODERS(SAMPLE_FUSED "," SAMPLE_STRIP) : SAMPLE_RAW;
    const char *model = s->spm ? ",\"byte_fallback\":true" : "";
    return snprintf(
        out, size,
        "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[%s],\"normalizer\":%s,"
        "\"pre_tokenizer\":%s,\"post_processor\":%s,\"decoder\":%s,\"model\":{\"type\":\"%s\",\"vocab\":{%s%s},"
        "\"merges\":[%s]%s}%s}",
        sample_or(s->added, ""), sample_or(s->normalizer, normalizer), sample_or(s->pre, s->spm ? "null" : SAMPLE_RAW),
        sample_or(s->post, "null"), sample_or(s->decoder, decoder), sample_or(s->type, "BPE"), bytes,
        sample_or(s->vocab, ""), sample_or(s->merges, ""), sample_or(s->model, model), sample_or(s->top, ""));
}

static inline status sample_load(const struct sample *s, struct tokenizer **tok, struct error *err)
{
    char text[16384];
    int n = sample_text(s, text, sizeof text);
    if (n < 0 || (size_t)n >= sizeof text)
        return ST_LIMIT;
    return tokenizer_load_json("sample/tokenizer.json", text, (size_t)n, tok, err);
}

#endif
