/* Guesses ahead of the sampled token, and what became of them. */
#include "worker/core.h"

double drafts_price(const struct worker *worker, uint32_t n_decoding, uint64_t attended)
{
    double plain = step_cost_predict(&worker->cost, n_decoding, attended);
    if (n_decoding == 0 || !(plain > 0.0))
        return 0.0;
    double more = step_cost_predict(&worker->cost, n_decoding + 1, attended + attended / n_decoding);
    double guess = worker->options.speculation == SPECULATION_MODEL ? worker->batch.draft_us : 0.0;
    return (more - plain + guess) * n_decoding / plain;
}

/* So that the step samples no token beyond the answer's longest. */
static uint32_t room_for_drafts(const struct worker *worker, const struct sequence *seq)
{
    const struct worker_options *o = &worker->options;
    uint32_t left = seq->sampling.max_tokens - sequence_generated(seq);
    uint32_t positions = o->max_model_len - seq->n_tokens;
    left = left < positions ? left : positions;
    return left > o->draft_tokens ? o->draft_tokens : left - (left > 0);
}

uint32_t drafts_propose(struct worker *worker, struct sequence *seq)
{
    if (worker->options.speculation == SPECULATION_OFF || !seq->may_draft)
        return 0;
    uint32_t most = room_for_drafts(worker, seq);
    if (worker->options.speculation == SPECULATION_LOOKUP)
        most = speculation_lookup(seq->tokens, seq->n_tokens, most, seq->tokens + seq->n_tokens);
    return speculation_depth(&seq->speculation, worker->batch.draft_price, most);
}

void drafts_ask(struct worker *worker, struct sequence *seq, uint32_t in_step, uint32_t n)
{
    struct drafts *d = &worker->batch.drafts;
    d->asks[d->n++] = (struct draft_ask){
        .id = seq->id, .seq = in_step, .tokens = seq->tokens, .n_tokens = seq->n_tokens, .wanted = n
    };
}

uint64_t drafts_expected(const struct worker *worker, uint32_t n)
{
    return worker->options.speculation == SPECULATION_MODEL ? (uint64_t)(worker->batch.draft_us * n) : 0;
}

uint64_t drafts_took(struct worker *worker, uint64_t us)
{
    struct batch *b = &worker->batch;
    uint32_t made = 0;
    for (uint32_t i = 0; i < b->drafts.n; i++)
        made += b->drafts.asks[i].made;
    if (made > 0)
        b->draft_us += 0.1 * ((double)b->drafts.us / made - b->draft_us);
    return b->drafts.n && b->drafts.us < us ? us - b->drafts.us : us;
}

uint32_t drafts_accepted(struct worker *worker, struct sequence *seq, const struct step_seq *ran)
{
    uint32_t drafted = ran->n_rows - 1, accepted = 0;
    while (accepted < drafted && ran->sampled_each[accepted].id == ran->tokens[accepted + 1])
        accepted++;
    speculation_verified(&seq->speculation, drafted, accepted);
    worker->counters.drafted += drafted;
    worker->counters.drafts_accepted += accepted;
    return accepted;
}
