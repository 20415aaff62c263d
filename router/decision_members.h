/* decision_members.h - the members of a decision's JSON, once for its writer and its reader; nobody else includes it.
 */
#ifndef BATON_ROUTER_DECISION_MEMBERS_H
#define BATON_ROUTER_DECISION_MEMBERS_H

/* Of struct pick_candidate: 64 and 32 bits wide. */
#define CANDIDATE_WIDE(X)                                                                                              \
    X(queued_tokens) X(age_us) X(later_tokens) X(remote_tokens) X(fault_tokens) X(running_tokens) X(format) X(host)
#define CANDIDATE_NARROW(X) X(place) X(requests) X(running) X(kv_blocks) X(kv_free) X(computes_all)

/* Of struct pick_request. */
#define REQUEST_NARROW(X) X(n_tokens) X(block_tokens) X(elsewhere)
#define REQUEST_WIDE(X)   X(itl_target_us) X(turn)

/* Of struct pick_parts. */
#define PARTS_WIDE(X)   X(wait_us) X(prefill_us) X(pull_us) X(handoff_us) X(pressure_us) X(itl_us)
#define PARTS_NARROW(X) X(cached) X(pulled) X(computed) X(moved)

#endif
