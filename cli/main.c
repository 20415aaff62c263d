/* baton - starts, watches and talks to a local cluster; models, benchmarks and checks. */
#include <string.h>

#include "cli/command.h"

int main(int argc, char **argv)
{
    static const struct command *const commands[] = { &command_up,     /* start a cluster                   */
                                                      &command_status, /* what runs, and how loaded         */
                                                      &command_chat,   /* talk to it                        */
                                                      &command_logs,   /* what its processes say            */
                                                      &command_scale,  /* more or fewer of a role           */
                                                      &command_drain,  /* one process leaves, in good order */
                                                      &command_down,   /* stop all of it                    */
                                                      &command_model,  /* list, fetch, quantize, score, ...   */
                                                      &command_kv,     /* KV blocks outside the workers     */
                                                      &command_bench,  /* engine and transfer against limits */
                                                      &command_sim,    /* a cluster in virtual time         */
                                                      &command_replay, /* a router's decisions, again      */
                                                      &command_doctor, /* is this machine fit               */
                                                      &command_version, NULL };
    if (argc == 2 && !strcmp(argv[1], "--version"))
        argv[1] = "version";
    return command_dispatch("baton", commands, argc, argv);
}
