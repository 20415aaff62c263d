/* answer.h - the answer to a generation request: its choices run as flows, their tokens become text, and the text
 * becomes one JSON body or server-sent events. While a client takes nothing its tokens are
 * kept as ids, and turned into text when it reads again. Loop thread only. */
#ifndef BATON_ROUTER_ANSWER_H
#define BATON_ROUTER_ANSWER_H

#include "router/api_call.h"

struct answer;

/* Takes the request. Answers at once when it cannot be started; the call may be gone afterwards. */
void answer_start(struct call *call, struct request *request);
/* The client is gone: all choices are cancelled. The exchange is not touched. */
void answer_abandon(struct answer **answer);

#endif
