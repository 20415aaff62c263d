/* stranger.h - for tests: an end of a connection that says what it likes, by raw active messages. */
#ifndef BATON_TESTS_STRANGER_H
#define BATON_TESTS_STRANGER_H

#include "borrower_side.h"

#include "transfer/description.h"
#include "transfer/proof.h"
#include "transfer/ucx_link.h"

struct stranger {
    struct ucx_link link;
    const struct ucx_link *answers_to; /* what HELLO gives as its address; NULL: link */
    ucp_ep_h ep;
    bool failed;
    struct cluster_key key; /* all zeros: the one of those who have none */
    struct description d;   /* of the lender */
    struct proof_terms terms;
    struct wire_challenge challenge;
    uint8_t hello[WIRE_HELLO_BYTES]; /* as it was said last */
    size_t hello_len;
    uint8_t heard_hello[WIRE_HELLO_BYTES]; /* of a borrower, when this plays the lender */
    size_t heard_hello_len;
    uint64_t heard_session;
    uint8_t heard_key[WIRE_KEY_BYTES];
    size_t heard_key_len;
    uint32_t messages, hellos, challenges, welcomes, keys, datas, ends;
    status last_end;
};

static inline void stranger_hears(void *arg, struct ucx_link *link, const void *head, size_t head_len,
                                  const uint8_t *payload, size_t len, bool whole)
{
    (void)link;
    struct stranger *s = arg;
    struct wire_head h;
    assert_true(whole);
    assert_int_equal(wire_head_decode(head, head_len, len, &h), ST_OK);
    s->messages++;
    s->welcomes += h.kind == WIRE_WELCOME;
    s->datas += h.kind == WIRE_DATA;
    s->ends += h.kind == WIRE_END;
    if (h.kind == WIRE_END)
        s->last_end = (status)h.st;
    if (h.kind == WIRE_CHALLENGE) {
        s->challenges++;
        memcpy(&s->challenge, payload, sizeof s->challenge);
        memcpy(s->terms.lender_nonce, s->challenge.nonce, WIRE_NONCE_BYTES);
    }
    if (h.kind == WIRE_KEY) {
        s->keys++;
        memcpy(s->heard_key, payload, s->heard_key_len = len);
    }
    if (h.kind == WIRE_HELLO) {
        s->hellos++;
        s->heard_session = h.session;
        memcpy(s->heard_hello, payload, s->heard_hello_len = len);
    }
}

static inline void stranger_failed(void *arg, ucp_ep_h ep, ucs_status_t st)
{
    (void)ep, (void)st;
    ((struct stranger *)arg)->failed = true;
}

/* mapped: to the same-host context, else to that of the network. */
static inline void stranger_open(struct stranger *s, const struct lender_process *p, bool mapped)
{
    struct error err;
    *s = (struct stranger){ 0 };
    assert_int_equal(description_decode(p->description, p->description_len, &s->d, &err), ST_OK);
    assert_int_equal(ucx_link_open(&s->link, mapped, "lo", stranger_hears, s, &err), ST_OK);
    const uint8_t *address = mapped ? s->d.same_address.data : s->d.net_address.data;
    assert_int_equal(ucx_link_connect(&s->link, address, stranger_failed, s, &s->ep, &err), ST_OK);
}

static inline void stranger_close(struct stranger *s)
{
    if (s->ep)
        ucx_link_disconnect(&s->link, &s->ep);
    for (int i = 0; i < 100000 && s->link.closing; i++)
        (void)ucx_link_progress(&s->link);
    ucx_link_close(&s->link);
}

static inline void progress_for(struct stranger *s, uint64_t us)
{
    uint64_t until = clock_now_us() + us;
    while (clock_now_us() < until && !s->failed)
        (void)ucx_link_progress(&s->link);
}

/* Longer than any machine takes. */
static inline void await(struct stranger *s, const uint32_t *count, uint32_t n)
{
    uint64_t until = clock_now_us() + 20000000;
    while (clock_now_us() < until && !s->failed && *count < n)
        (void)ucx_link_progress(&s->link);
    assert_int_equal(*count, n);
}

static inline void say(struct stranger *s, const struct wire_head *head, const void *payload, size_t len)
{
    if (ucx_link_send(&s->link, s->ep, head, payload, len, NULL, NULL))
        s->failed = true;
}

static inline void say_last_hello(struct stranger *s)
{
    struct wire_head head = {
        .magic = WIRE_MAGIC, .kind = WIRE_HELLO, .session = s->terms.session, .request = s->terms.pool
    };
    say(s, &head, s->hello, s->hello_len);
}

/* To a pool of this nonce, proved with the stranger's key. */
static inline void say_hello(struct stranger *s, uint64_t session, uint64_t nonce)
{
    uint8_t address[WIRE_MAX_ADDRESS];
    size_t len;
    struct error err;
    struct wire_hello hello = { .incarnation = 99 };
    s->terms = (struct proof_terms){ .pool = nonce,
                                     .lender = s->d.pool.incarnation,
                                     .borrower = hello.incarnation,
                                     .session = session,
                                     .mapped = s->link.mapped };
    proof_draw_nonce(s->terms.borrower_nonce);
    memcpy(hello.nonce, s->terms.borrower_nonce, sizeof hello.nonce);
    assert_int_equal(ucx_link_address(s->answers_to ? s->answers_to : &s->link, address, sizeof address, &len, &err),
                     ST_OK);
    assert_int_equal(proof_make(&s->key, PROOF_HELLO, &s->terms, address, len, hello.proof), ST_OK);
    s->hello_len = wire_hello_encode(&hello, address, len, s->hello);
    say_last_hello(s);
}

static inline void say_proof(struct stranger *s, const uint8_t proof[WIRE_PROOF_BYTES])
{
    struct wire_head head = { .magic = WIRE_MAGIC, .kind = WIRE_PROOF, .session = s->terms.session };
    say(s, &head, proof, WIRE_PROOF_BYTES);
}

static inline void make_proof(const struct stranger *s, uint8_t out[WIRE_PROOF_BYTES])
{
    assert_int_equal(proof_make(&s->key, PROOF_BORROWER, &s->terms, NULL, 0, out), ST_OK);
}

/* From HELLO to WELCOME, as a borrower who has the key. */
static inline void be_welcomed(struct stranger *s, uint64_t session)
{
    uint8_t proof[WIRE_PROOF_BYTES];
    uint32_t challenges = s->challenges, welcomes = s->welcomes;
    say_hello(s, session, s->d.pool.nonce);
    await(s, &s->challenges, challenges + 1);
    make_proof(s, proof);
    say_proof(s, proof);
    await(s, &s->welcomes, welcomes + 1);
}

static inline void say_key_ask(struct stranger *s, uint64_t session)
{
    struct wire_head ask = { .magic = WIRE_MAGIC, .kind = WIRE_KEY_ASK, .session = session };
    say(s, &ask, NULL, 0);
}

/* All layers of block 1. */
static inline void say_request(struct stranger *s, uint64_t session, uint64_t number, uint64_t timeout_us)
{
    uint8_t payload[WIRE_REQUEST_BYTES];
    const struct transfer_span span = { 0, 1, 1, 0, 16 };
    size_t len = wire_request_encode(0, test_geometry.n_layers, &span, 1, payload);
    struct wire_head ask = {
        .magic = WIRE_MAGIC, .kind = WIRE_REQUEST, .session = session, .request = number, .value = timeout_us
    };
    say(s, &ask, payload, len);
}

#endif
