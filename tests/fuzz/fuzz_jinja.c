/* A chat template as its vendor wrote it: compiled, and rendered over one small
 * conversation. Everything ends, and fails with a sentence. */
#include <stdlib.h>
#include <string.h>

#include "engine/chat_template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char conversation[] =
    "[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\" h\xc3\xa9 \\n\"},"
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":"
    "{\"x\":[1,2.5,null,true]}}}]},{\"role\":\"tool\",\"content\":\"<think>a</think>b\"}]";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct chat_template *tpl;
    struct error err = { "" };
    if (chat_template_compile((const char *)data, size, &tpl, &err) != ST_OK) {
        ASSERT(err.text[0]);
        return 0;
    }
    json_t *messages = json_loads(conversation, 0, NULL);
    struct chat_template_input in = { .messages = messages, .tools = messages, .eos_token = "</s>", .now = 1767323045 };
    char *text;
    size_t len;
    if (chat_template_render(tpl, &in, &text, &len, &err) == ST_OK) {
        ASSERT(strlen(text) <= len);
        free(text);
    }
    json_decref(messages);
    chat_template_destroy(&tpl);
    return 0;
}
