/* Guesses ahead of the sampled token, and what became of them. */
#include "worker/core.h"

double drafts_price(const struct worker *worker, uint32_t n_decoding, uint64_t attended)
{
    double plain = step_cost_predict(&worker->cost, n_decoding, attended);
    if (n_decoding == 0 || !(plain > 0.0))
        return 0.0;
    double more = step_cost_predict(&worker->cost, n_decoding + 1, attended + attended / n_decoding);
    return (more - plain) * n_decoding / plain;
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
    uint32_t found =
        speculation_lookup(seq->tokens, seq->n_tokens, room_for_drafts(worker, seq), seq->tokens + seq->n_tokens);
    return speculation_depth(&seq->speculation, worker->batch.draft_price, found);
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
