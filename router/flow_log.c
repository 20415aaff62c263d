#include <time.h>

#include "router/flow_internal.h"

static uint64_t wall_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static void add_line(struct flows *flows)
{
    if (flows->line.state == ST_OK)
        (void)decision_log_add(flows->options.decision_log, flows->line.data, flows->line.len);
    text_buffer_clear(&flows->line);
}

static const char *id_of(const void *fleet, bool decode, uint32_t index)
{
    return fleet_candidate_id(fleet, decode, index);
}

void flow_log_decision(struct flow *flow)
{
    struct flows *flows = flow->flows;
    const struct fleet *fleet = flows->options.fleet;
    if (!flows->options.decision_log)
        return;
    const struct decision decision = { .time_us = wall_us(),
                                       .key = flow_key(flow),
                                       .attempt = flow->attempt,
                                       .input = fleet_last_input(fleet),
                                       .choice = fleet_last_choice(fleet),
                                       .id = id_of,
                                       .ctx = fleet };
    decision_write(&decision, &flows->line);
    add_line(flows);
}

void flow_log_outcome(struct flow *flow, struct decision_outcome *outcome)
{
    struct flows *flows = flow->flows;
    if (!flows->options.decision_log)
        return;
    outcome->time_us = wall_us();
    outcome->key = flow_key(flow);
    outcome->attempt = flow->attempt;
    decision_write_outcome(outcome, &flows->line);
    add_line(flows);
}
