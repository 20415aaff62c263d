/* The three forms of traces, and what is wrong with them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "bench/trace.h"
#include "bench/trace_reader.h"

static status read_text(const char *text, unsigned needs, struct trace *out, struct error *err)
{
    FILE *file = fmemopen((void *)(uintptr_t)text, strlen(text), "r");
    assert_non_null(file);
    status st = trace_read(file, "t", needs, out, err);
    (void)fclose(file);
    return st;
}

static void check_refused(const char *text, unsigned needs, const char *message)
{
    struct trace t = { 0 };
    struct error err = { "" };
    assert_int_not_equal(read_text(text, needs, &t, &err), ST_OK);
    assert_null(t.requests);
    assert_string_equal(err.text, message);
}

static void check_request(const struct trace *t, size_t i, uint64_t arrival_us, uint32_t input, uint32_t output)
{
    assert_true(i < t->n_requests);
    assert_int_equal(t->requests[i].arrival_us, arrival_us);
    assert_int_equal(t->requests[i].input_tokens, input);
    assert_int_equal(t->requests[i].output_tokens, output);
}

static void test_mooncake(void **state)
{
    struct trace t;
    struct error err;
    size_t n;
    (void)state;
    assert_int_equal(
        read_text("{\"timestamp\": 1000, \"input_length\": 513, \"output_length\": 5, \"hash_ids\": [0, 7]}\n\n"
                  "{\"timestamp\": 3500, \"input_length\": 512, \"output_length\": 1, \"hash_ids\": [0]}",
                  TRACE_NEEDS_ARRIVALS | TRACE_NEEDS_BLOCKS, &t, &err),
        ST_OK);
    assert_int_equal(t.n_requests, 2);
    check_request(&t, 0, 0, 513, 5);
    check_request(&t, 1, 2500000, 512, 1);
    assert_int_equal(trace_blocks(&t, 0, &n)[1], 7);
    assert_int_equal(n, 2);
    assert_int_equal(trace_blocks(&t, 1, &n)[0], 0);
    assert_int_equal(n, 1);
    assert_int_equal(t.n_ids, 8);
    trace_free(&t);
}

/* What a cache's replay needs is the blocks. */
static void test_blocks_alone(void **state)
{
    struct trace t;
    struct error err;
    const char *text = "{\"hash_ids\": [3, 1]}\n{\"hash_ids\": [3]}\n";
    (void)state;
    assert_int_equal(read_text(text, TRACE_NEEDS_BLOCKS, &t, &err), ST_OK);
    assert_int_equal(t.n_requests, 2);
    assert_int_equal(t.n_blocks, 3);
    assert_int_equal(t.ends[0], 2);
    trace_free(&t);
    check_refused(text, TRACE_NEEDS_ARRIVALS,
                  "t, line 1: \"timestamp\", \"input_length\" and \"output_length\" are missing");
    check_refused("{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 1}", TRACE_NEEDS_BLOCKS,
                  "t, line 1: the request has no blocks");
}

static void test_azure(void **state)
{
    struct trace t;
    struct error err;
    (void)state;
    assert_int_equal(read_text("TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-12-31 23:59:59.5000000,4808,10\r\n"
                               "2024-01-01 00:00:01.2500000,110,27",
                               TRACE_NEEDS_ARRIVALS, &t, &err),
                     ST_OK);
    assert_int_equal(t.n_requests, 2);
    assert_int_equal(t.n_blocks, 0);
    check_request(&t, 0, 0, 4808, 10);
    check_request(&t, 1, 1750000, 110, 27);
    trace_free(&t);
}

static void test_own_form(void **state)
{
    struct trace t;
    struct error err;
    size_t n;
    (void)state;
    assert_int_equal(read_text("output_tokens, arrival_s,blocks,input_tokens\n3,0.5,,700\n 4 , 0.75 ,9 2,1024\n",
                               TRACE_NEEDS_ARRIVALS, &t, &err),
                     ST_OK);
    check_request(&t, 0, 0, 700, 3);
    check_request(&t, 1, 250000, 1024, 4);
    (void)trace_blocks(&t, 0, &n);
    assert_int_equal(n, 0);
    assert_int_equal(trace_blocks(&t, 1, &n)[1], 2);
    assert_int_equal(n, 2);
    trace_free(&t);
}

static void test_times(void **state)
{
    double s;
    (void)state;
    assert_true(trace_csv_time("1970-01-02 00:00:01", &s));
    assert_true(s == 86401);
    assert_true(trace_csv_time("2024-05-10 00:00:00.250000+00:00", &s));
    assert_true(s == 1715299200.25);
    assert_true(trace_csv_time("2024-05-10 00:00:00Z", &s));
    assert_false(trace_csv_time("2024-05-10", &s));
    assert_false(trace_csv_time("2024-13-10 00:00:00", &s));
    assert_false(trace_csv_time("2024-05-10 24:00:00", &s));
    assert_false(trace_csv_time("2024-05-10 00:00:00.", &s));
    assert_false(trace_csv_time("2024-05-10 00:00:00+02:00", &s));
}

static void test_errors_name_the_line(void **state)
{
    const unsigned all = TRACE_NEEDS_ARRIVALS;
    const char *columns = "t, line 1: \"hello\" is neither a JSON object nor a column; columns are arrival_s, "
                          "input_tokens, output_tokens and blocks, or TIMESTAMP, ContextTokens and GeneratedTokens";
    (void)state;
    check_refused("\n", all, "t holds no requests");
    check_refused("arrival_s,input_tokens,output_tokens\n", all, "t holds no requests");
    check_refused("hello", all, columns);
    check_refused("arrival_s,input_tokens,arrival_s", all, "t, line 1: column arrival_s stands there twice");
    check_refused("arrival_s,input_tokens", all, "t, line 1: column output_tokens is missing");
    check_refused("TIMESTAMP,ContextTokens", all, "t, line 1: column GeneratedTokens is missing");
    check_refused("arrival_s,input_tokens,output_tokens\n1,2\n", all,
                  "t, line 2: it does not have 3 fields as the first line");
    check_refused("arrival_s,input_tokens,output_tokens\n1,2,3,4\n", all,
                  "t, line 2: it does not have 3 fields as the first line");
    check_refused("arrival_s,input_tokens,output_tokens\nnan,2,3\n", all,
                  "t, line 2: arrival_s \"nan\" is no number of seconds");
    check_refused("arrival_s,input_tokens,output_tokens\n1,2,3\n0.5,2,3\n", all,
                  "t, line 3: the request came before the one above it");
    check_refused("arrival_s,input_tokens,output_tokens\n1,2,3\n1e10,2,3\n", all,
                  "t, line 3: the request came more than 1000000000 s after the first");
    check_refused("arrival_s,input_tokens,output_tokens\n1,0,3\n", all,
                  "t, line 2: tokens of the prompt are no number from 1 to 16777216");
    check_refused("arrival_s,input_tokens,output_tokens\n1,3,2.5\n", all,
                  "t, line 2: tokens of the answer are no number from 1 to 16777216");
    check_refused("arrival_s,input_tokens,output_tokens,blocks\n1,513,2,4\n", all,
                  "t, line 2: 1 blocks, where a prompt of 513 tokens has 2 of 512");
    check_refused("arrival_s,input_tokens,output_tokens,blocks\n1,513,2,4 x\n", all,
                  "t, line 2: the id of a block is no integer from 0 to 268435455");
    check_refused("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,1", all,
                  "t, line 2: \"yesterday\" is no time like 2023-11-16 18:17:03.97");
    check_refused("{\"hash_ids\": [1]}\nx", TRACE_NEEDS_BLOCKS, "t, line 2: no JSON object");
    check_refused("{\"hash_ids\": [1.5]}", TRACE_NEEDS_BLOCKS,
                  "t, line 1: the id of a block is no integer from 0 to 268435455");
    check_refused("{\"hash_ids\": 1}", TRACE_NEEDS_BLOCKS, "t, line 1: \"hash_ids\" is no array");
    check_refused("{\"timestamp\": \"0\", \"input_length\": 5, \"output_length\": 1}", all,
                  "t, line 1: \"timestamp\" is no number of milliseconds");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mooncake), cmocka_unit_test(test_blocks_alone),
        cmocka_unit_test(test_azure),    cmocka_unit_test(test_own_form),
        cmocka_unit_test(test_times),    cmocka_unit_test(test_errors_name_the_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
