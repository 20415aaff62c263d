/* A line of a decision log from any bytes: refused with a sentence, or a decision that can be taken and written again,
 * and is then the same one. */
#include <stdlib.h>
#include <string.h>

#include "router/decision.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *id_of(const void *ctx, bool decode, uint32_t index)
{
    const struct decision_line *line = ctx;
    return decode ? line->decode_ids[index] : line->prefill_ids[index];
}

static void check_choice(const struct pick_input *in, const struct pick_choice *c)
{
    ASSERT(c->decode == PICK_NONE || (c->decode < in->n_decodes && in->decodes[c->decode].usable));
    ASSERT(c->n_prefills <= PICK_MAX_RANKED);
    for (uint32_t i = 0; i < c->n_prefills; i++)
        ASSERT(c->prefills[i] < in->n_prefills && in->prefills[c->prefills[i]].usable);
}

/* Ids may stand twice in a hostile line, and the reader takes the first one. */
static bool ids_are_unique(char (*const ids)[DECISION_ID_BYTES], uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < i; j++)
            if (!strcmp(ids[i], ids[j]))
                return false;
    return true;
}

static void check_written(struct decision_line *line, const struct pick_choice *choice)
{
    struct decision_line *again = NULL;
    struct pick_choice second;
    struct text_buffer text;
    struct error err;
    const struct decision d = {
        .attempt = line->attempt, .input = &line->input, .choice = choice, .id = id_of, .ctx = line
    };
    text_buffer_init(&text, 4 * DECISION_LINE_BYTES);
    decision_write(&d, &text);
    ASSERT(text.state == ST_OK);
    ASSERT(decision_read(text.data, text.len, &again, &err) == ST_OK);
    pick(&again->input, &second);
    check_choice(&again->input, &second);
    if (again->is_whole) {
        ASSERT(second.decode == choice->decode && second.n_prefills == choice->n_prefills);
        ASSERT(!memcmp(second.prefills, choice->prefills, second.n_prefills * sizeof *second.prefills));
    }
    decision_line_free(&again);
    text_buffer_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct decision_line *line = NULL;
    struct pick_choice choice;
    struct error err;
    if (size > DECISION_LINE_BYTES || decision_read((const char *)data, size, &line, &err) != ST_OK)
        return 0;
    if (!line->is_outcome) {
        pick(&line->input, &choice);
        check_choice(&line->input, &choice);
        if (ids_are_unique(line->decode_ids, line->input.n_decodes) &&
            ids_are_unique(line->prefill_ids, line->input.n_prefills))
            check_written(line, &choice);
    }
    decision_line_free(&line);
    return 0;
}
