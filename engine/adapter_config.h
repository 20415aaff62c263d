/* adapter_config.h - adapter_config.json of PEFT: the few members that a LoRA is computed by,
 * and refusal of all that would make it another computation. */
#ifndef BATON_ENGINE_ADAPTER_CONFIG_H
#define BATON_ENGINE_ADAPTER_CONFIG_H

#include "engine/adapter.h"

struct adapter_config {
    uint32_t rank;
    float scale; /* alpha / rank, or alpha / sqrt(rank) with use_rslora (Kalajdzievski, arXiv 2312.03732) */
};

MUST_CHECK status adapter_config_read(const char *path, struct adapter_config *out, struct error *err);

#endif
