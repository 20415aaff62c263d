/* Against a real etcd where there is one, and against a server that answers as etcd does when things go wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/etcd.h"
#include "common/etcd_json.h"
#include "common/log.h"
#include "fake_etcd.h"

#define ETCD_PROGRAM "/usr/bin/etcd"

/* What a watch and a registration reported */
struct seen {
    int puts, deletes, synced, lost, registered, unregistered, done;
    status last;
    char key[128], value[128], deleted[128];
    struct etcd_watch **unwatch; /* ended from inside on_put */
    int held;                    /* how often the key was another's */
    bool takes;                  /* and is taken over */
};

static void on_put(void *arg, const char *key, const char *value, size_t len)
{
    struct seen *s = arg;
    s->puts++;
    snprintf(s->key, sizeof s->key, "%s", key);
    snprintf(s->value, sizeof s->value, "%.*s", (int)len, value);
    if (s->unwatch)
        etcd_unwatch(s->unwatch);
}

static void on_delete(void *arg, const char *key)
{
    struct seen *s = arg;
    s->deletes++;
    snprintf(s->deleted, sizeof s->deleted, "%s", key);
}

static void on_synced(void *arg, bool in_sync)
{
    struct seen *s = arg;
    if (in_sync)
        s->synced++;
    else
        s->lost++;
}

static void on_state(void *arg, bool registered)
{
    struct seen *s = arg;
    if (registered)
        s->registered++;
    else
        s->unregistered++;
}

static bool on_held(void *arg, const char *value, size_t len)
{
    struct seen *s = arg;
    s->held++;
    snprintf(s->value, sizeof s->value, "%.*s", (int)len, value);
    return s->takes;
}

/* seen: NULL for nobody who hears of it. */
static status keep(struct etcd *etcd, const char *key, const char *value, struct seen *seen,
                   struct etcd_registration **out)
{
    struct etcd_registration_options o = {
        .key = key, .value = value, .on_state = seen ? on_state : NULL, .on_held = seen ? on_held : NULL, .arg = seen
    };
    return etcd_register(etcd, &o, out);
}

static void on_status(void *arg, status st)
{
    struct seen *s = arg;
    s->last = st;
    s->done++;
}

static void on_done(void *arg)
{
    ((struct seen *)arg)->done++;
}

static struct etcd_watch_callbacks callbacks_of(struct seen *s)
{
    return (struct etcd_watch_callbacks){ .on_put = on_put, .on_delete = on_delete, .on_synced = on_synced, .arg = s };
}

static struct etcd *client(const char *urls, uint64_t ttl_ms)
{
    struct etcd_options o = {
        .loop = loop,
        .urls = urls,
        .request_timeout_us = MS(500),
        .lease_ttl_us = MS(ttl_ms),
        .retry_min_us = MS(20),
        .retry_max_us = MS(200),
    };
    struct etcd *etcd;
    struct error err;
    assert_int_equal(etcd_create(&o, &etcd, &err), ST_OK);
    return etcd;
}

/* A real etcd */

static struct {
    pid_t pid;
    char dir[64], url[64], peer_url[64];
} real;

static uint16_t free_port(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET };
    socklen_t len = sizeof a;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    close(fd);
    return ntohs(a.sin_port);
}

static void start_etcd(void)
{
    char cluster[96];
    snprintf(cluster, sizeof cluster, "default=%s", real.peer_url);
    real.pid = fork();
    if (real.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int null = open("/dev/null", O_RDWR);
        dup2(null, 1);
        dup2(null, 2);
        execl(ETCD_PROGRAM, "etcd", "--data-dir", real.dir, "--listen-client-urls", real.url, "--advertise-client-urls",
              real.url, "--listen-peer-urls", real.peer_url, "--initial-advertise-peer-urls", real.peer_url,
              "--initial-cluster", cluster, "--unsafe-no-fsync", (char *)NULL);
        _exit(127);
    }
    assert_true(real.pid > 0);
}

static void kill_etcd(void)
{
    kill(real.pid, SIGKILL);
    waitpid(real.pid, NULL, 0);
    real.pid = 0;
}

static int remove_entry(const char *path, const struct stat *st, int flag, struct FTW *walk)
{
    (void)st;
    (void)flag;
    (void)walk;
    return remove(path);
}

static bool have_etcd(void)
{
    if (access(ETCD_PROGRAM, X_OK) == 0)
        return true;
    print_message("skipped: there is no %s\n", ETCD_PROGRAM);
    return false;
}

static void new_etcd(void)
{
    snprintf(real.dir, sizeof real.dir, "/tmp/test_etcd.XXXXXX");
    assert_non_null(mkdtemp(real.dir));
    snprintf(real.url, sizeof real.url, "http://127.0.0.1:%u", free_port());
    snprintf(real.peer_url, sizeof real.peer_url, "http://127.0.0.1:%u", free_port());
    start_etcd();
}

static void drop_etcd(void)
{
    if (real.pid)
        kill_etcd();
    nftw(real.dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static void registrations_are_seen(void **state)
{
    (void)state;
    if (!have_etcd())
        skip();
    new_etcd();
    struct etcd *etcd = client(real.url, 2000);
    struct seen reg_seen = { 0 }, seen = { 0 };
    struct etcd_registration *reg;
    struct etcd_watch *watch;
    struct etcd_watch_callbacks callbacks = callbacks_of(&seen);
    assert_int_equal(etcd_watch(etcd, "/baton/v1/c/", &callbacks, &watch), ST_OK);
    /* Asked before etcd is up. */
    assert_int_equal(keep(etcd, "/baton/v1/c/decode/0", "{\"a\":1}", &reg_seen, &reg), ST_OK);
    assert_true(reaches(&reg_seen.registered, 1, 10000));
    assert_true(reaches(&seen.puts, 1, 3000));
    assert_true(reaches(&seen.synced, 1, 3000));
    assert_string_equal(seen.key, "/baton/v1/c/decode/0");
    assert_string_equal(seen.value, "{\"a\":1}");
    assert_true(etcd_healthy(etcd));
    etcd_registration_update(reg, "{\"a\":2}");
    assert_true(reaches(&seen.puts, 2, 3000));
    assert_string_equal(seen.value, "{\"a\":2}");
    /* A key outside the prefix is not reported, one inside is, and so is its end. */
    etcd_put(etcd, "/baton/v1/d/x", "no", on_status, &seen);
    assert_true(reaches(&seen.done, 1, 3000));
    etcd_put(etcd, "/baton/v1/c/x", "", on_status, &seen);
    assert_true(reaches(&seen.puts, 3, 3000));
    assert_string_equal(seen.key, "/baton/v1/c/x");
    assert_string_equal(seen.value, "");
    etcd_delete(etcd, "/baton/v1/c/x", on_status, &seen);
    assert_true(reaches(&seen.deletes, 1, 3000));
    assert_string_equal(seen.deleted, "/baton/v1/c/x");
    assert_true(reaches(&seen.done, 3, 3000));
    assert_int_equal(seen.last, ST_OK);
    /* Outlives its time to live, and ends at once when it is given back. */
    int never = 0;
    assert_false(reaches(&never, 1, 3000));
    assert_int_equal(seen.deletes, 1);
    etcd_unregister(&reg, on_done, &reg_seen);
    assert_true(reaches(&reg_seen.done, 1, 3000));
    assert_true(reaches(&seen.deletes, 2, 1000));
    assert_string_equal(seen.deleted, "/baton/v1/c/decode/0");
    assert_int_equal(reg_seen.unregistered, 0);
    etcd_unwatch(&watch);
    etcd_destroy(&etcd);
    drop_etcd();
}

static void remove_key(struct etcd *etcd, const char *key)
{
    struct seen seen = { 0 };
    etcd_delete(etcd, key, on_status, &seen);
    assert_true(reaches(&seen.done, 1, 3000));
    assert_int_equal(seen.last, ST_OK);
}

static void one_name_has_one_holder(void **state)
{
    (void)state;
    if (!have_etcd())
        skip();
    new_etcd();
    struct etcd *first = client(real.url, 2000), *second = client(real.url, 2000);
    struct seen one = { 0 }, two = { 0 }, watched = { 0 };
    struct etcd_registration *reg_one, *reg_two;
    struct etcd_watch *watch;
    struct etcd_watch_callbacks callbacks = callbacks_of(&watched);
    assert_int_equal(keep(first, "/c/1", "one", &one, &reg_one), ST_OK);
    assert_true(reaches(&one.registered, 1, 10000));
    assert_int_equal(etcd_watch(second, "/c/", &callbacks, &watch), ST_OK);
    assert_true(reaches(&watched.puts, 1, 3000));
    assert_int_equal(keep(second, "/c/1", "two", &two, &reg_two), ST_OK);
    assert_true(reaches(&two.held, 3, 5000));
    assert_string_equal(two.value, "one");
    assert_int_equal(two.registered, 0);
    assert_int_equal(watched.puts, 1);
    /* Deleted under its holder: either may get the name now, and both never have it. */
    remove_key(first, "/c/1");
    assert_true(reaches(&watched.puts, 2, 5000));
    int never = 0;
    assert_false(reaches(&never, 1, 1500));
    assert_int_equal(watched.puts, 2);
    assert_true(one.unregistered == two.registered);
    /* An end that is taken for one frees the name. */
    one.takes = two.takes = true;
    etcd_unregister(one.unregistered ? &reg_two : &reg_one, NULL, NULL);
    assert_true(reaches(one.unregistered ? &one.registered : &two.registered, one.unregistered ? 2 : 1, 5000));
    etcd_destroy(&first);
    etcd_destroy(&second);
    drop_etcd();
}

static void an_outage_is_survived(void **state)
{
    (void)state;
    if (!have_etcd())
        skip();
    new_etcd();
    char urls[160]; /* nobody listens on the first */
    snprintf(urls, sizeof urls, "http://127.0.0.1:%u,%s/", free_port(), real.url);
    struct etcd *etcd = client(urls, 2000);
    struct seen reg_seen = { 0 }, seen = { 0 };
    struct etcd_registration *reg;
    struct etcd_watch *watch;
    struct etcd_watch_callbacks callbacks = callbacks_of(&seen);
    assert_int_equal(keep(etcd, "/c/1", "one", &reg_seen, &reg), ST_OK);
    assert_int_equal(etcd_watch(etcd, "/c/", &callbacks, &watch), ST_OK);
    assert_true(reaches(&reg_seen.registered, 1, 10000));
    assert_true(reaches(&seen.puts, 1, 3000));
    seen.done = 0;
    etcd_put(etcd, "/c/2", "two", on_status, &seen);
    assert_true(reaches(&seen.puts, 2, 3000));
    int lost = seen.lost, synced = seen.synced;
    kill_etcd();
    assert_true(reaches(&seen.lost, lost + 1, 3000));
    assert_true(reaches(&reg_seen.unregistered, 1, 5000)); /* the lease has run out as far as one can know */
    assert_false(etcd_healthy(etcd));
    start_etcd();
    assert_true(reaches(&reg_seen.registered, 2, 10000));
    assert_true(reaches(&seen.synced, synced + 1, 5000));
    /* Nothing changed meanwhile that has to be told, but for the key written again. */
    assert_int_equal(seen.deletes, 0);
    assert_true(seen.puts <= 3);
    int puts = seen.puts;
    etcd_put(etcd, "/c/3", "three", on_status, &seen);
    assert_true(reaches(&seen.puts, puts + 1, 3000));
    /* With all data gone, what is gone is told and the registration made again. */
    kill_etcd();
    nftw(real.dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    start_etcd();
    assert_true(reaches(&seen.deletes, 2, 15000));
    assert_true(reaches(&reg_seen.registered, 3, 5000));
    struct etcd_stats stats;
    etcd_stats(etcd, &stats);
    assert_int_equal(stats.leases_lost, 1);
    assert_true(stats.failures > 0 && stats.watch_restarts > 0);
    etcd_unregister(&reg, NULL, NULL);
    etcd_destroy(&etcd); /* with the watch and the revocation still open */
    drop_etcd();
}

/* A server that answers as told */

static void a_compacted_watch_reads_again(void **state)
{
    (void)state;
    start_fake();
    set_key("/c/1", "one");
    set_key("/c/2", "two");
    struct etcd *etcd = client(fake.url, 60000);
    struct seen seen = { 0 };
    struct etcd_watch *watch;
    struct etcd_watch_callbacks callbacks = callbacks_of(&seen);
    assert_int_equal(etcd_watch(etcd, "/c/", &callbacks, &watch), ST_OK);
    assert_true(reaches(&fake.watches, 1, 3000));
    assert_int_equal(seen.puts, 2);
    json_array_remove(fake.kvs, 0);
    set_key("/c/3", "three");
    stream_line("{\"result\":{\"header\":{},\"canceled\":true,\"compact_revision\":\"9\"}}\n");
    assert_true(reaches(&fake.watches, 2, 3000));
    assert_int_equal(seen.puts, 3); /* only what is new */
    assert_string_equal(seen.key, "/c/3");
    assert_int_equal(seen.deletes, 1);
    assert_string_equal(seen.deleted, "/c/1");
    assert_int_equal(seen.lost, 1);
    assert_int_equal(seen.synced, 2);
    /* Lines split anywhere, several at once, and one that is no JSON. */
    char line[256];
    json_t *key = etcd_json_bytes("/c/4", 4);
    snprintf(line, sizeof line, "{\"result\":{\"events\":[{\"kv\":{\"key\":\"%s\"}}]}}\n", json_string_value(key));
    json_decref(key);
    for (const char *at = line; *at; at++)
        assert_int_equal(http_stream_write(fake.stream, at, 1), ST_OK);
    assert_true(reaches(&seen.puts, 4, 3000));
    assert_string_equal(seen.key, "/c/4");
    assert_string_equal(seen.value, "");
    stream_line("{\"result\":{}}\n\n{\"result\":{}}\nno json\n");
    assert_true(reaches(&fake.watches, 3, 3000));
    assert_int_equal(seen.deletes, 2); /* the fake does not know /c/4 */
    stream_line("{\"error\":{\"grpc_code\":14}}\n");
    assert_true(reaches(&fake.watches, 4, 3000));
    etcd_unwatch(&watch);
    etcd_destroy(&etcd);
    stop_fake();
}

static void a_stalled_watch_is_noticed(void **state)
{
    (void)state;
    start_fake();
    set_key("/c/1", "one");
    struct etcd *etcd = client(fake.url, 200); /* compared twice a time to live */
    struct seen seen = { 0 };
    struct etcd_watch *watch;
    struct etcd_watch_callbacks callbacks = callbacks_of(&seen);
    assert_int_equal(etcd_watch(etcd, "/c/", &callbacks, &watch), ST_OK);
    assert_true(reaches(&fake.reads, 3, 3000));
    assert_int_equal(fake.watches, 1); /* while all agrees the stream is left alone */
    set_key("/c/2", "two");
    assert_true(reaches(&seen.puts, 2, 3000));
    assert_true(reaches(&fake.watches, 2, 3000));
    /* A server that no longer answers at all. */
    fake.hangs = true;
    assert_true(reaches(&seen.lost, 1, 3000));
    fake.hangs = false;
    assert_true(reaches(&seen.synced, 2, 3000));
    assert_int_equal(seen.deletes, 0);
    etcd_unwatch(&watch);
    etcd_destroy(&etcd);
    stop_fake();
}

static void a_long_line_ends_the_stream(void **state)
{
    (void)state;
    start_fake();
    struct etcd *etcd = client(fake.url, 60000);
    struct seen seen = { 0 };
    struct etcd_watch *watch;
    struct etcd_watch_callbacks callbacks = callbacks_of(&seen);
    assert_int_equal(etcd_watch(etcd, "/c/", &callbacks, &watch), ST_OK);
    assert_true(reaches(&fake.watches, 1, 3000));
    size_t n = 5u << 20;
    char *text = malloc(n);
    memset(text, 'x', n);
    assert_int_equal(http_stream_write(fake.stream, text, n), ST_OK);
    free(text);
    assert_true(reaches(&fake.watches, 2, 5000));
    assert_int_equal(seen.lost, 1);
    etcd_unwatch(&watch);
    etcd_destroy(&etcd);
    stop_fake();
}

static void a_lost_lease_is_granted_again(void **state)
{
    (void)state;
    start_fake();
    char urls[160];
    snprintf(urls, sizeof urls, "http://127.0.0.1:%u, %s", free_port(), fake.url);
    struct etcd *etcd = client(urls, 300);
    struct seen seen = { 0 };
    struct etcd_registration *reg;
    assert_int_equal(keep(etcd, "/c/1", "one", &seen, &reg), ST_OK);
    assert_true(reaches(&seen.registered, 1, 3000));
    assert_true(reaches(&fake.keepalives, 3, 3000));
    assert_int_equal(fake.puts, 1);
    fake.lost_lease = true;
    assert_true(reaches(&seen.registered, 2, 3000));
    assert_int_equal(seen.unregistered, 1);
    assert_int_equal(fake.grants, 2);
    assert_int_equal(fake.puts, 2);
    struct etcd_stats stats;
    etcd_stats(etcd, &stats);
    assert_int_equal(stats.leases_lost, 1);
    assert_true(stats.failures >= 1); /* the first URL */
    etcd_unregister(&reg, on_done, &seen);
    assert_null(reg);
    assert_true(reaches(&seen.done, 1, 3000));
    etcd_destroy(&etcd);
    stop_fake();
}

static void a_deleted_key_is_put_back(void **state)
{
    (void)state;
    start_fake();
    struct etcd *etcd = client(fake.url, 300);
    struct seen seen = { 0 };
    struct etcd_registration *reg;
    assert_int_equal(keep(etcd, "/c/1", "one", &seen, &reg), ST_OK);
    assert_true(reaches(&fake.checks, 2, 3000));
    assert_int_equal(fake.puts, 1);
    hold_key(NULL);
    assert_true(reaches(&fake.puts, 2, 3000)); /* with a renewal */
    assert_true(reaches(&fake.checks, fake.checks + 1, 3000));
    assert_int_equal(fake.grants, 1);
    assert_int_equal(seen.unregistered, 0);
    /* And at once when told so, with no renewal for a long time. */
    etcd_unregister(&reg, NULL, NULL);
    etcd_destroy(&etcd);
    etcd = client(fake.url, 600000);
    hold_key(NULL);
    assert_int_equal(keep(etcd, "/c/1", "one", &seen, &reg), ST_OK);
    assert_true(reaches(&seen.registered, 2, 3000));
    int puts = fake.puts;
    hold_key(NULL);
    etcd_registration_check(reg);
    etcd_registration_check(reg);
    assert_true(reaches(&fake.puts, puts + 1, 3000));
    etcd_destroy(&etcd);
    stop_fake();
}

static void a_held_key_is_left_alone(void **state)
{
    (void)state;
    start_fake();
    hold_key("another's");
    struct etcd *etcd = client(fake.url, 300);
    struct seen seen = { 0 };
    struct etcd_registration *reg;
    assert_int_equal(keep(etcd, "/c/1", "one", &seen, &reg), ST_OK);
    assert_true(reaches(&seen.held, 3, 3000));
    assert_string_equal(seen.value, "another's");
    assert_int_equal(fake.puts, 0);
    assert_int_equal(seen.registered, 0);
    hold_key(NULL); /* it has left */
    assert_true(reaches(&seen.registered, 1, 3000));
    assert_int_equal(fake.puts, 1);
    /* Somebody who does not ask takes a name that is ours: seen with the next renewal, and left to him. */
    hold_key("a robber's");
    assert_true(reaches(&seen.unregistered, 1, 3000));
    assert_int_equal(fake.puts, 1);
    seen.takes = true;
    assert_true(reaches(&seen.registered, 2, 3000));
    assert_int_equal(fake.puts, 2);
    etcd_destroy(&etcd);
    stop_fake();
}

static void callbacks_may_end_what_called_them(void **state)
{
    (void)state;
    start_fake();
    set_key("/c/1", "one");
    set_key("/c/2", "two");
    struct etcd *etcd = client(fake.url, 60000);
    struct etcd_watch *watch;
    struct seen seen = { .unwatch = &watch };
    struct etcd_watch_callbacks callbacks = callbacks_of(&seen);
    assert_int_equal(etcd_watch(etcd, "/c/", &callbacks, &watch), ST_OK);
    assert_true(reaches(&seen.puts, 1, 3000));
    int never = 0;
    assert_false(reaches(&never, 1, 50));
    assert_int_equal(seen.puts, 1);
    assert_int_equal(fake.watches, 0);
    /* The same from a line of the stream. */
    seen.unwatch = NULL;
    assert_int_equal(etcd_watch(etcd, "/c/", &callbacks, &watch), ST_OK);
    assert_true(reaches(&fake.watches, 1, 3000));
    seen.unwatch = &watch;
    stream_line(
        "{\"result\":{\"events\":[{\"kv\":{\"key\":\"YQ==\"}},{\"kv\":{\"key\":\"YQ==\"}}]}}\n{\"result\":{}}\n");
    assert_true(reaches(&seen.puts, 4, 3000));
    assert_false(reaches(&never, 1, 50));
    assert_int_equal(seen.puts, 4);
    etcd_destroy(&etcd);
    stop_fake();
}

static void operations_end_without_etcd(void **state)
{
    (void)state;
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%u", free_port());
    struct etcd *etcd = client(url, 1000);
    struct seen seen = { 0 };
    etcd_put(etcd, "a", "b", on_status, &seen);
    assert_int_equal(seen.done, 0);
    assert_true(reaches(&seen.done, 1, 3000));
    assert_int_equal(seen.last, ST_IO);
    assert_false(etcd_healthy(etcd));
    struct etcd_registration *reg;
    assert_int_equal(keep(etcd, "a", "b", NULL, &reg), ST_OK);
    etcd_unregister(&reg, on_done, &seen);
    assert_true(reaches(&seen.done, 2, 3000));
    etcd_delete(etcd, "a", on_status, &seen);
    etcd_destroy(&etcd);
    assert_int_equal(seen.done, 3);
    assert_int_equal(seen.last, ST_CANCELLED);
}

static void bad_urls_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = { "", ",", "127.0.0.1:2379", "ftp://a", "http://", "http://a,b" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct etcd_options o = { .loop = loop,
                                  .urls = bad[i],
                                  .request_timeout_us = 1,
                                  .lease_ttl_us = 1,
                                  .retry_min_us = 1,
                                  .retry_max_us = 1 };
        struct etcd *etcd = NULL;
        struct error err = { "" };
        assert_int_equal(etcd_create(&o, &etcd, &err), ST_INVALID);
        assert_null(etcd);
        assert_true(strlen(err.text) > 10);
    }
}

static void base64_both_ways(void **state)
{
    (void)state;
    static const struct {
        const char *text, *base64;
    } cases[] = { { "", "" },        { "f", "Zg==" },        { "fo", "Zm8=" },
                  { "foo", "Zm9v" }, { "foob", "Zm9vYg==" }, { "\xff\xfe\xfb", "//77" } };
    static const char *const bad[] = { "Z", "Zg=", "Zg", "Zg==Zg==", "Z===", "Zh==", "Zm9=", "Zm9v!", "Zm 9", "====" };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t len;
        json_t *string = etcd_json_bytes(cases[i].text, strlen(cases[i].text));
        assert_string_equal(json_string_value(string), cases[i].base64);
        json_t *object = json_pack("{s:o}", "key", string);
        char *text = etcd_json_text(object, "key", &len);
        assert_int_equal(len, strlen(cases[i].text));
        assert_string_equal(text, cases[i].text);
        free(text);
        json_decref(object);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        size_t len;
        json_t *object = json_pack("{s:s}", "key", bad[i]);
        assert_null(etcd_json_text(object, "key", &len));
        json_decref(object);
    }
}

static void prefixes_end(void **state)
{
    (void)state;
    char out[8];
    assert_int_equal(etcd_prefix_end("ab", 2, out), 2);
    assert_memory_equal(out, "ac", 2);
    assert_int_equal(etcd_prefix_end("a\xff\xff", 3, out), 1);
    assert_memory_equal(out, "b", 1);
    assert_int_equal(etcd_prefix_end("\xff", 1, out), 1);
    assert_memory_equal(out, "\0", 1);
}

static int set_up(void **state)
{
    (void)state;
    log_init("test", LOG_ERROR);
    return loop_create(&loop) == ST_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    loop_destroy(&loop);
    return 0;
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(base64_both_ways),
        TEST(prefixes_end),
        TEST(bad_urls_are_refused),
        TEST(operations_end_without_etcd),
        TEST(a_compacted_watch_reads_again),
        TEST(a_stalled_watch_is_noticed),
        TEST(a_long_line_ends_the_stream),
        TEST(a_lost_lease_is_granted_again),
        TEST(a_deleted_key_is_put_back),
        TEST(a_held_key_is_left_alone),
        TEST(callbacks_may_end_what_called_them),
        TEST(registrations_are_seen),
        TEST(one_name_has_one_holder),
        TEST(an_outage_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
