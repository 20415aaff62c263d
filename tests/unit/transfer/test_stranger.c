/* Those who connect without the cluster's key, or without a proof of it, read and write no KV and disturb nobody. */
#include "stranger.h"

#include <arpa/inet.h>
#include <sys/stat.h>

#define SECOND    1000000u
#define SESSION   (5u << 16)
#define POOL_FILE "memfd:baton-kv"

static char ours[64], another[64]; /* key files */

static struct cluster_key key_of(const char *path)
{
    struct cluster_key key;
    struct error err;
    assert_int_equal(cluster_key_read(path, &key, &err), ST_OK);
    return key;
}

/* A lender and a borrower of one cluster. */
struct scene {
    struct lender_process lender;
    struct borrower b;
    uint64_t memory;
};

static void scene_open(struct scene *s)
{
    test_key_use(ours);
    lender_start(&s->lender, TRANSFER_AUTO, NULL, NULL);
    borrower_open(&s->b, TRANSFER_AUTO, NULL);
    borrower_meet(&s->b, &s->lender, TRANSFER_TCP, 5 * SECOND);
    assert_int_equal(s->b.ready_st, ST_OK);
    s->memory = lender_order(&s->lender, 's', 0, NULL).memory;
}

static void take_one(struct scene *s)
{
    struct one_take one;
    struct transfer_span span = { 0, 1, 1, 0, 16 };
    uint8_t *wanted = malloc(transfer_block_bytes(&test_geometry));
    lent_block(1, 1, wanted);
    memset(own_block(&s->b, 0), 0, transfer_block_bytes(&test_geometry));
    take_begin(&s->b, &one, 0, test_geometry.n_layers, &span, 1, NULL, 5 * SECOND);
    assert_true(wait_for(&s->b, &one.done, 6 * SECOND));
    assert_int_equal(one.take.st, ST_OK);
    assert_memory_equal(own_block(&s->b, 0), wanted, transfer_block_bytes(&test_geometry));
    free(wanted);
}

static struct transfer_stats lender_stats(struct scene *s)
{
    return lender_order(&s->lender, 's', 0, NULL).stats;
}

/* Until the lender has counted so many, then long enough for an answer to come, were there one. */
static void until_unproven_at_least(struct scene *scene, struct stranger *s, uint64_t n)
{
    uint64_t until = clock_now_us() + 20 * SECOND;
    while (lender_stats(scene).unproven < n && clock_now_us() < until)
        (void)ucx_link_progress(&s->link);
    assert_true(lender_stats(scene).unproven >= n);
    until = clock_now_us() + 100000;
    while (clock_now_us() < until)
        (void)ucx_link_progress(&s->link);
}

static void until_unproven(struct scene *scene, struct stranger *s, uint64_t n)
{
    until_unproven_at_least(scene, s, n);
    assert_int_equal(lender_stats(scene).unproven, n);
}

/* The borrower is served as before, and the lender's memory is what it was. */
static void scene_close(struct scene *s)
{
    take_one(s);
    assert_true(lender_order(&s->lender, 's', 0, NULL).memory == s->memory);
    borrower_close(&s->b);
    assert_int_equal(lender_reap(&s->lender), 0);
}

/* One message of each kind, each of a length that the kind may have. */
static void say_everything(struct stranger *s, uint64_t session)
{
    static uint8_t payload[WIRE_DATA_BYTES];
    static const size_t len[] = { [WIRE_HELLO] = 200,
                                  [WIRE_CHALLENGE] = sizeof(struct wire_challenge),
                                  [WIRE_PROOF] = WIRE_PROOF_BYTES,
                                  [WIRE_WELCOME] = WIRE_HEADER_PAGE,
                                  [WIRE_REQUEST] = 32,
                                  [WIRE_DATA] = 4096,
                                  [WIRE_BYE] = 0,
                                  [WIRE_KEY_ASK] = 0,
                                  [WIRE_KEY] = 200 };
    memset(payload, 0x5a, sizeof payload);
    for (int kind = WIRE_HELLO; kind <= WIRE_KEY; kind++) {
        struct wire_head head = {
            .magic = WIRE_MAGIC, .kind = (uint8_t)kind, .session = session, .request = s->d.pool.nonce
        };
        say(s, &head, payload, len[kind]);
    }
    say_request(s, session, 0, SECOND);
}

static void nothing_is_answered(void)
{
    struct scene scene;
    scene_open(&scene);
    for (int round = 0; round < 2; round++) {
        struct stranger s;
        stranger_open(&s, &scene.lender, false);
        if (round == 1)
            s.key = key_of(another);
        say_everything(&s, SESSION);
        say_hello(&s, SESSION, s.d.pool.nonce);
        say_everything(&s, SESSION);
        take_one(&scene);
        /* twice HELLO, two REQUESTs and KEY_ASK, and a HELLO of its own */
        until_unproven(&scene, &s, (uint64_t)(round + 1) * (2 * 4 + 1));
        assert_int_equal(s.messages, 0);
        stranger_close(&s);
    }
    struct transfer_stats stats = lender_stats(&scene);
    assert_int_equal(stats.malformed,
                     2 * 2 * 5); /* CHALLENGE, WELCOME, KEY, DATA and END are not for a lender to hear */
    assert_int_equal(stats.served_bytes, 2 * transfer_block_bytes(&test_geometry));
    scene_close(&scene);
}

static void test_without_the_key_nothing_is_answered(void **state)
{
    (void)state;
    nothing_is_answered();
    test_rdma_use(true);
    nothing_is_answered();
    test_rdma_use(false);
}

/* Who has said a HELLO that holds still gets nothing before the proof, and the session is over. */
static void test_nothing_is_served_before_the_proof(void **state)
{
    (void)state;
    struct scene scene;
    struct stranger s;
    uint8_t proof[WIRE_PROOF_BYTES];
    uint64_t counted = 0;
    scene_open(&scene);
    for (int round = 0; round < 3; round++) {
        stranger_open(&s, &scene.lender, false);
        s.key = key_of(ours);
        say_hello(&s, SESSION, s.d.pool.nonce);
        await(&s, &s.challenges, 1);
        make_proof(&s, proof);
        struct wire_head cancel = { .magic = WIRE_MAGIC, .kind = WIRE_CANCEL, .session = SESSION };
        if (round == 0)
            say_request(&s, SESSION, 0, SECOND);
        else if (round == 1)
            say(&s, &cancel, NULL, 0);
        else
            proof[0] ^= 1;
        say_proof(&s, proof);
        proof[0] ^= round == 2;
        say_proof(&s, proof);
        say_request(&s, SESSION, 1, SECOND);
        /* and then it asks without a session, when its own is gone already */
        until_unproven_at_least(&scene, &s, counted + 1);
        counted = lender_stats(&scene).unproven;
        assert_int_equal(s.messages, 1);
        stranger_close(&s);
    }
    scene_close(&scene);
}

static void say_bye(struct stranger *s)
{
    struct wire_head bye = { .magic = WIRE_MAGIC, .kind = WIRE_BYE, .session = s->terms.session };
    say(s, &bye, NULL, 0);
}

/* What was recorded of a borrower opens nothing later, nor at the lender's successor. */
static void test_a_recorded_proof_is_worth_nothing(void **state)
{
    (void)state;
    struct scene scene;
    struct stranger s;
    uint8_t recorded[WIRE_PROOF_BYTES];
    scene_open(&scene);
    stranger_open(&s, &scene.lender, false);
    s.key = key_of(ours);
    be_welcomed(&s, SESSION);
    make_proof(&s, recorded);
    say_request(&s, SESSION, 0, SECOND);
    await(&s, &s.ends, 1);
    assert_true(s.datas > 0);
    say_bye(&s);
    progress_for(&s, 100000);
    stranger_close(&s);

    struct stranger thief;
    stranger_open(&thief, &scene.lender, false);
    thief.key = key_of(ours); /* only to have a HELLO with an address of its own */
    say_hello(&thief, SESSION, thief.d.pool.nonce);
    await(&thief, &thief.challenges, 1);
    assert_memory_not_equal(thief.challenge.nonce, s.challenge.nonce, WIRE_NONCE_BYTES);
    say_proof(&thief, recorded);
    say_request(&thief, SESSION, 0, SECOND);
    until_unproven_at_least(&scene, &thief, 1);
    assert_int_equal(thief.messages, 1);
    stranger_close(&thief);

    struct lender_process next;
    lender_start(&next, TRANSFER_AUTO, NULL, NULL);
    struct stranger late;
    stranger_open(&late, &next, false);
    late.terms = thief.terms;
    late.hello_len = thief.hello_len;
    memcpy(late.hello, thief.hello, thief.hello_len);
    say_last_hello(&late);
    late.terms.pool = late.d.pool.nonce;
    say_last_hello(&late);
    progress_for(&late, 300000);
    assert_int_equal(late.messages, 0);
    assert_int_equal(lender_order(&next, 's', 0, NULL).stats.unproven, 1);
    stranger_close(&late);
    assert_int_equal(lender_reap(&next), 0);
    scene_close(&scene);
}

/* On its own host KV is mapped, never sent. */
static void test_the_same_host_context_serves_no_bytes(void **state)
{
    (void)state;
    struct scene scene;
    struct stranger s;
    scene_open(&scene);
    stranger_open(&s, &scene.lender, true);
    say_everything(&s, SESSION);
    progress_for(&s, 200000);
    assert_int_equal(s.messages, 0);
    s.key = key_of(ours);
    be_welcomed(&s, SESSION);
    uint64_t malformed = lender_stats(&scene).malformed;
    say_request(&s, SESSION, 0, SECOND);
    progress_for(&s, 300000);
    assert_int_equal(s.messages, 2);
    assert_int_equal(lender_stats(&scene).malformed, malformed + 1);
    assert_int_equal(lender_stats(&scene).served_bytes, 0);
    stranger_close(&s);
    scene_close(&scene);
}

/* More challenges than may stand open: the oldest go, a borrower gets in between, and in the end none is left. */
static void test_unanswered_challenges_are_bounded(void **state)
{
    (void)state;
    struct scene scene;
    struct stranger s, other;
    const uint32_t n = 200, most = 64;
    scene_open(&scene);
    uint32_t descriptors = lender_order(&scene.lender, 's', 0, NULL).descriptors;
    stranger_open(&s, &scene.lender, false);
    stranger_open(&other, &scene.lender, false);
    s.key = key_of(ours);
    s.answers_to = &other.link; /* as the lender hangs up on who does not answer */
    for (uint32_t i = 0; i < n; i++)
        say_hello(&s, (i + 1) << 16, s.d.pool.nonce);
    uint64_t until = clock_now_us() + 20 * SECOND, gone = 0;
    while (gone < n - most && clock_now_us() < until) {
        progress_for(&s, 20000);
        gone = lender_stats(&scene).unanswered;
    }
    assert_in_range(gone, n - most, n);
    transfer_disconnect(&scene.b.peer);
    borrower_meet(&scene.b, &scene.lender, TRANSFER_TCP, 5 * SECOND);
    assert_int_equal(scene.b.ready_st, ST_OK);
    take_one(&scene);
    wait_quietly(&scene.b, 5 * SECOND);
    assert_int_equal(lender_stats(&scene).unanswered, n);
    stranger_close(&s);
    stranger_close(&other);
    wait_quietly(&scene.b, SECOND);
    assert_true(lender_order(&scene.lender, 's', 0, NULL).descriptors <= descriptors + 2);
    scene_close(&scene);
}

#define CROWD 800

static void connect_crowd(const struct ports *ports, int fds[CROWD])
{
    for (uint32_t i = 0; i < CROWD; i++) {
        struct sockaddr_in to = { .sin_family = AF_INET,
                                  .sin_port = htons(ports->of[i % ports->n]),
                                  .sin_addr = { htonl(INADDR_LOOPBACK) } };
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_true(fds[i] >= 0);
        assert_int_equal(connect(fds[i], (struct sockaddr *)&to, sizeof to), 0);
        if (i % 3 == 0) /* some say something */
            assert_int_equal(send(fds[i], "GET / HTTP/1.0\r\n\r\n", 18, MSG_NOSIGNAL), 18);
    }
}

/* Connections that say nothing, to every port of UCX: most are cut, and a borrower is served before, meanwhile, after.
 */
static void test_a_crowd_is_cut(void **state)
{
    (void)state;
    struct scene scene;
    static int fds[CROWD];
    scene_open(&scene);
    wait_quietly(&scene.b, 2 * SECOND);
    struct lender_answer before = lender_order(&scene.lender, 's', 0, NULL);
    assert_int_equal(before.stats.cut, 0);
    assert_int_equal(before.ports.n, 4); /* two contexts, two workers each */
    connect_crowd(&before.ports, fds);
    take_one(&scene);
    uint64_t until = clock_now_us() + 30 * SECOND;
    uint32_t left;
    do {
        wait_quietly(&scene.b, 200000);
        left = lender_order(&scene.lender, 's', 0, NULL).descriptors - before.descriptors;
    } while (left > CONNECTIONS_IDLE && clock_now_us() < until);
    assert_true(left <= CONNECTIONS_IDLE);
    assert_true(lender_stats(&scene).cut >= CROWD / 2 - CONNECTIONS_IDLE);
    assert_false(scene.b.lost);
    take_one(&scene);
    transfer_disconnect(&scene.b.peer);
    borrower_meet(&scene.b, &scene.lender, TRANSFER_TCP, 5 * SECOND);
    assert_int_equal(scene.b.ready_st, ST_OK);
    for (uint32_t i = 0; i < CROWD; i++)
        (void)close(fds[i]);
    scene_close(&scene);
}

/* Where the lender has its pool, which it tells only to who has proved himself. */
static uint64_t pool_address(pid_t lender)
{
    char path[64], line[512];
    unsigned long long address = 0;
    (void)snprintf(path, sizeof path, "/proc/%d/maps", (int)lender);
    FILE *maps = fopen(path, "re");
    assert_non_null(maps);
    while (!address && fgets(line, sizeof line, maps))
        if (strstr(line, POOL_FILE))
            (void)sscanf(line, "%llx-", &address);
    (void)fclose(maps);
    assert_true(address != 0);
    return address;
}

static bool contains(const uint8_t *all, size_t len, const uint8_t *part, size_t part_len)
{
    return memmem(all, len, part, part_len) != NULL;
}

/* Where gets can be made and by which key: before the proof nobody is told, and the description does not say. */
static void test_no_key_for_gets_before_the_proof(void **state)
{
    (void)state;
    struct scene scene;
    struct stranger s;
    struct wire_key key;
    test_rdma_use(true);
    scene_open(&scene);
    stranger_open(&s, &scene.lender, false);
    assert_int_equal(s.d.rdma, DESCRIPTION_RDMA);
    s.key = key_of(ours);
    say_hello(&s, SESSION, s.d.pool.nonce);
    await(&s, &s.challenges, 1);
    say_key_ask(&s, SESSION);
    until_unproven(&scene, &s, 1);
    assert_int_equal(s.messages, 1);
    stranger_close(&s);

    stranger_open(&s, &scene.lender, false);
    s.key = key_of(ours);
    be_welcomed(&s, 2 * SESSION);
    progress_for(&s, 100000);
    assert_int_equal(s.keys, 0); /* who does not ask takes by other ways */
    say_key_ask(&s, 2 * SESSION);
    await(&s, &s.keys, 1);
    assert_int_equal(wire_key_decode(s.heard_key, s.heard_key_len, &key), ST_OK);
    assert_true(key.pool == pool_address(scene.lender.pid));
    assert_true(proof_holds(&s.key, PROOF_RDMA, &s.terms, s.heard_key + WIRE_PROOF_BYTES,
                            s.heard_key_len - WIRE_PROOF_BYTES, key.proof));
    assert_false(
        contains(scene.lender.description, scene.lender.description_len, s.heard_key + sizeof key, key.address_len));
    stranger_close(&s);

    stranger_open(&s, &scene.lender, true);
    s.key = key_of(ours);
    be_welcomed(&s, 3 * SESSION);
    uint64_t malformed = lender_stats(&scene).malformed;
    say_key_ask(&s, 3 * SESSION);
    progress_for(&s, 300000);
    assert_int_equal(s.keys, 0);
    assert_int_equal(lender_stats(&scene).malformed, malformed + 1);
    stranger_close(&s);
    scene_close(&scene);
    test_rdma_use(false);
}

/* Nor is there anything to tell without a device, or a key, at the lender. */
static void test_without_rdma_there_is_no_key_for_gets(void **state)
{
    (void)state;
    struct scene scene;
    struct stranger s;
    scene_open(&scene);
    stranger_open(&s, &scene.lender, false);
    assert_int_equal(s.d.rdma, DESCRIPTION_NO_RDMA);
    s.key = key_of(ours);
    be_welcomed(&s, SESSION);
    say_key_ask(&s, SESSION);
    progress_for(&s, 300000);
    assert_int_equal(s.keys, 0);
    assert_int_equal(lender_stats(&scene).malformed, 1);
    stranger_close(&s);
    scene_close(&scene);

    struct lender_process keyless;
    struct description d;
    struct error err;
    test_key_use(NULL);
    test_rdma_use(true);
    lender_start(&keyless, TRANSFER_AUTO, NULL, NULL);
    assert_int_equal(description_decode(keyless.description, keyless.description_len, &d, &err), ST_OK);
    assert_int_equal(d.rdma, DESCRIPTION_NO_RDMA);
    assert_int_equal(lender_reap(&keyless), 0);
    test_rdma_use(false);
    test_key_use(ours);
}

/* A lender that moves KV by rdma alone sends no bytes to who asks for them. */
static void test_a_lender_by_rdma_alone_serves_no_bytes(void **state)
{
    (void)state;
    struct lender_process lender;
    struct stranger s;
    test_key_use(ours);
    test_rdma_use(true);
    lender_start(&lender, TRANSFER_RDMA, NULL, NULL);
    stranger_open(&s, &lender, false);
    assert_int_equal(s.d.rdma, DESCRIPTION_RDMA_ONLY);
    s.key = key_of(ours);
    be_welcomed(&s, SESSION);
    say_request(&s, SESSION, 0, SECOND);
    progress_for(&s, 300000);
    assert_int_equal(s.datas + s.ends, 0);
    struct transfer_stats stats = lender_order(&lender, 's', 0, NULL).stats;
    assert_int_equal(stats.malformed, 1);
    assert_int_equal(stats.served_bytes, 0);
    stranger_close(&s);
    assert_int_equal(lender_reap(&lender), 0);
    test_rdma_use(false);
}

static void test_another_cluster_is_told_so(void **state)
{
    (void)state;
    struct scene scene;
    struct borrower other;
    enum transfer_mode modes[] = { TRANSFER_SHM, TRANSFER_TCP, TRANSFER_RDMA };
    test_rdma_use(true);
    scene_open(&scene);
    test_key_use(another);
    borrower_open(&other, TRANSFER_AUTO, NULL);
    test_key_use(ours);
    for (int i = 0; i < 3; i++) {
        borrower_meet(&other, &scene.lender, modes[i], SECOND);
        assert_int_not_equal(other.ready_st, ST_OK);
        assert_non_null(strstr(other.why, "key"));
        transfer_disconnect(&other.peer);
    }
    assert_true(lender_stats(&scene).unproven >= 3);
    assert_int_equal(lender_stats(&scene).served_bytes, 0);
    borrower_close(&other);
    scene_close(&scene);
    test_rdma_use(false);
}

/* Whoever claims to be a lender and has no key gets no borrower, and writes nothing. */
static void test_a_false_lender_is_not_believed(void **state)
{
    (void)state;
    struct scene scene;
    scene_open(&scene);
    for (int round = 0; round < 2; round++) {
        struct stranger s;
        struct error err;
        struct transfer_peer *peer;
        struct borrower seen = { .loop = scene.b.loop };
        uint8_t address[WIRE_MAX_ADDRESS], description[DESCRIPTION_MAX_BYTES];
        stranger_open(&s, &scene.lender, false);
        struct description d = s.d;
        d.net_address.data = address;
        assert_int_equal(ucx_link_address(&s.link, address, sizeof address, &d.net_address.len, &err), ST_OK);
        struct transfer_peer_options o = { .description = description,
                                           .description_len = description_encode(&d, description),
                                           .mode = TRANSFER_TCP,
                                           .timeout_us = SECOND,
                                           .on_ready = on_ready,
                                           .arg = &seen };
        assert_int_equal(transfer_connect(scene.b.t, &o, &peer, &err), ST_OK);
        await(&s, &s.hellos, 1);
        ucx_link_disconnect(&s.link, &s.ep);
        uint64_t back[WIRE_MAX_ADDRESS / 8] = { 0 };
        memcpy(back, s.heard_hello + sizeof(struct wire_hello), s.heard_hello_len - sizeof(struct wire_hello));
        assert_int_equal(ucx_link_connect(&s.link, (uint8_t *)back, stranger_failed, &s, &s.ep, &err), ST_OK);
        memset(transfer_blocks(scene.b.t), 0xa5, TEST_BLOCKS * transfer_block_bytes(&test_geometry));
        if (round == 0) /* WELCOME and DATA at once */
            say_everything(&s, s.heard_session);
        else
            for (int i = 0; i < 3; i++) {
                struct wire_challenge guess = { .nonce = { 1 } };
                struct wire_head head = { .magic = WIRE_MAGIC, .kind = WIRE_CHALLENGE, .session = s.heard_session };
                say(&s, &head, &guess, sizeof guess);
            }
        progress_for(&s, 100000);
        (void)wait_for(&seen, &seen.ready, 3 * SECOND);
        assert_true(seen.ready);
        assert_int_not_equal(seen.ready_st, ST_OK);
        const uint8_t *memory = transfer_blocks(scene.b.t);
        for (size_t i = 0; i < TEST_BLOCKS * transfer_block_bytes(&test_geometry); i++)
            assert_int_equal(memory[i], 0xa5);
        transfer_disconnect(&peer);
        stranger_close(&s);
    }
    struct transfer_stats stats;
    transfer_stats(scene.b.t, &stats);
    assert_true(stats.unproven >= 2);
    scene_close(&scene);
}

static void on_put(void *request, ucs_status_t st, void *arg)
{
    (void)st, (void)arg;
    ucp_request_free(request);
}

/* A key of any memory will do: of TCP there is nothing in it. */
static ucp_rkey_h key_for(ucp_context_h context, ucp_ep_h ep, void *bytes, size_t n, ucp_mem_h *memory)
{
    void *packed;
    size_t len;
    ucp_rkey_h rkey;
    ucp_mem_map_params_t params = { .field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH,
                                    .address = bytes,
                                    .length = n };
    assert_int_equal(ucp_mem_map(context, &params, memory), UCS_OK);
    assert_int_equal(ucp_rkey_pack(context, *memory, &packed, &len), UCS_OK);
    assert_int_equal(ucp_ep_rkey_unpack(ep, packed, &rkey), UCS_OK);
    ucp_rkey_buffer_release(packed);
    return rkey;
}

/* UCX's own handler of software puts writes where the packet says: neither context may have it. */
static void put_by_force(const struct description *d, uint64_t pool, bool mapped)
{
    ucp_config_t *config;
    ucp_context_h context;
    ucp_worker_h worker;
    ucp_ep_h ep;
    ucp_mem_h memory;
    static uint8_t bytes[4096];
    memset(bytes, 0x77, sizeof bytes);
    ucp_params_t params = { .field_mask = UCP_PARAM_FIELD_FEATURES, .features = UCP_FEATURE_AM | UCP_FEATURE_RMA };
    ucp_worker_params_t worker_params = { .field_mask = 0 };
    assert_int_equal(ucp_config_read(NULL, NULL, &config), UCS_OK);
    assert_int_equal(ucp_config_modify(config, "TLS", "tcp"), UCS_OK);
    assert_int_equal(ucp_config_modify(config, "NET_DEVICES", "lo"), UCS_OK);
    assert_int_equal(ucp_init(&params, config, &context), UCS_OK);
    ucp_config_release(config);
    assert_int_equal(ucp_worker_create(context, &worker_params, &worker), UCS_OK);
    ucp_ep_params_t ep_params = { .field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS,
                                  .address = (const void *)(mapped ? d->same_address.data : d->net_address.data) };
    if (ucp_ep_create(worker, &ep_params, &ep) == UCS_OK) {
        ucp_rkey_h rkey = key_for(context, ep, bytes, sizeof bytes, &memory);
        ucp_request_param_t param = { .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK, .cb.send = on_put };
        uint64_t blocks = pool + pool_blocks_offset(&d->pool);
        void *put = ucp_put_nbx(ep, bytes, sizeof bytes, blocks, rkey, &param);
        assert_false(UCS_PTR_IS_ERR(put) && UCS_PTR_STATUS(put) == UCS_ERR_INVALID_PARAM);
        uint64_t until = clock_now_us() + 300000;
        while (clock_now_us() < until)
            (void)ucp_worker_progress(worker);
        ucp_rkey_destroy(rkey);
        assert_int_equal(ucp_mem_unmap(context, memory), UCS_OK);
        ucp_request_param_t close_param = { .op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS, .flags = UCP_EP_CLOSE_FLAG_FORCE };
        void *request = ucp_ep_close_nbx(ep, &close_param);
        for (int i = 0; i < 100000 && UCS_PTR_IS_PTR(request) && !ucp_request_check_status(request); i++)
            (void)ucp_worker_progress(worker);
        if (UCS_PTR_IS_PTR(request))
            ucp_request_free(request);
    }
    ucp_worker_destroy(worker);
    ucp_cleanup(context);
}

static void puts_write_nothing(void)
{
    struct scene scene;
    struct description d;
    struct error err;
    scene_open(&scene);
    assert_int_equal(description_decode(scene.lender.description, scene.lender.description_len, &d, &err), ST_OK);
    put_by_force(&d, pool_address(scene.lender.pid), false);
    put_by_force(&d, pool_address(scene.lender.pid), true);
    assert_true(lender_order(&scene.lender, 's', 0, NULL).memory == scene.memory);
    scene_close(&scene);
}

static void test_puts_write_nothing(void **state)
{
    (void)state;
    puts_write_nothing();
    test_rdma_use(true); /* beside a context that has the feature, these two have none either */
    puts_write_nothing();
    test_rdma_use(false);
}

/* Only this user's processes may open the pool's memory, and it has no name that others could try. */
static void test_the_pool_is_for_its_user_only(void **state)
{
    (void)state;
    struct scene scene;
    uint32_t pools = 0;
    scene_open(&scene);
    for (int fd = 3; fd < 1024; fd++) {
        char path[64], target[256] = "";
        struct stat st;
        (void)snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)scene.lender.pid, fd);
        if (readlink(path, target, sizeof target - 1) < 0 || !strstr(target, POOL_FILE) || stat(path, &st))
            continue;
        pools++;
        assert_int_equal(st.st_mode & 0777, 0600);
        assert_int_equal(st.st_uid, geteuid());
        assert_int_equal(st.st_nlink, 0);
        if (geteuid() != 0)
            continue;
        pid_t child = fork();
        if (child == 0)
            _exit(setgid(65534) || setuid(65534) ? 2 : open(path, O_RDONLY) >= 0);
        int rc;
        assert_int_equal(waitpid(child, &rc, 0), child);
        assert_int_equal(rc, 0);
    }
    assert_true(pools > 0);
    scene_close(&scene);
}

static void test_a_network_address_takes_a_key(void **state)
{
    (void)state;
    struct loop *loop;
    struct transfer *t;
    struct error err;
    assert_int_equal(loop_create(&loop), ST_OK);
    struct transfer_options o = {
        .loop = loop, .geometry = test_geometry, .n_blocks = 4, .network_address = "203.0.113.77", .incarnation = 1
    };
    assert_int_equal(transfer_create(&o, &t, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "--cluster-key-file"));
    o.cluster_key_file = ours;
    assert_int_equal(transfer_create(&o, &t, &err), ST_NOT_FOUND); /* no such device here */
    o.cluster_key_file = "/nowhere/key";
    o.network_address = NULL;
    assert_int_equal(transfer_create(&o, &t, &err), ST_IO);
    loop_destroy(&loop);
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--lender") == 0)
        return lender_main(argv + 2);
    log_init("test", LOG_OFF);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_the_key_nothing_is_answered),
        cmocka_unit_test(test_nothing_is_served_before_the_proof),
        cmocka_unit_test(test_a_recorded_proof_is_worth_nothing),
        cmocka_unit_test(test_the_same_host_context_serves_no_bytes),
        cmocka_unit_test(test_unanswered_challenges_are_bounded),
        cmocka_unit_test(test_a_crowd_is_cut),
        cmocka_unit_test(test_no_key_for_gets_before_the_proof),
        cmocka_unit_test(test_without_rdma_there_is_no_key_for_gets),
        cmocka_unit_test(test_a_lender_by_rdma_alone_serves_no_bytes),
        cmocka_unit_test(test_another_cluster_is_told_so),
        cmocka_unit_test(test_a_false_lender_is_not_believed),
        cmocka_unit_test(test_puts_write_nothing),
        cmocka_unit_test(test_the_pool_is_for_its_user_only),
        cmocka_unit_test(test_a_network_address_takes_a_key),
    };
    test_key_make(ours, 'a');
    test_key_make(another, 'b');
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    (void)unlink(ours);
    (void)unlink(another);
    return failed;
}
