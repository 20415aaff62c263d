#include "router/listed_token.h"

void listed_token_write(const char *bytes, size_t len, struct text_buffer *out)
{
    for (size_t i = 0; i < len; i++) {
        unsigned c = (unsigned char)bytes[i];
        unsigned code = c <= 32 ? 256 + c : c >= 127 && c <= 160 ? 256 + 33 + c - 127 : c == 173 ? 256 + 67 : c;
        if (code < 128)
            text_buffer_char(out, (char)code);
        else
            text_buffer_append(out, (char[]){ (char)(0xC0 | code >> 6), (char)(0x80 | (code & 63)) }, 2);
    }
}
