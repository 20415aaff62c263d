/* weight_image.h - a model's packed weights as one piece of memory that processes can share.
 * A sealed memfd: header, a checksum (XXH3-64) for each chunk of the content, content. Whoever packs fills the
 * content and seals it; from then on nobody can change, cut or lengthen it, and everybody maps it read-only.
 * Verified: by who packs, all of the content once, through the sealed mapping; by who opens it, seals, size, header
 * and all of the table, and a sample of chunks (the first, the last and others that change from one opening to the
 * next), which takes about a millisecond whatever the size. Pages: reserved huge pages (vm.nr_hugepages), else
 * transparent ones where shmem_enabled allows, else plain. */
#ifndef BATON_ENGINE_WEIGHT_IMAGE_H
#define BATON_ENGINE_WEIGHT_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "engine/page_kind.h"
#include "engine/team.h"

#define WEIGHT_IMAGE_KEY_BYTES 96u /* the NUL included */

struct weight_image {
    int fd; /* of the memfd, until weight_image_give_up_fd; -1: private memory */
    uint8_t *map;
    size_t map_bytes;
    uint8_t *content; /* 64-byte aligned; read-only once sealed */
    size_t content_bytes;
    uint64_t shape; /* what the packer said of the content's layout */
    enum page_kind pages;
};

/* Zeros, to be filled. ST_NO_MEMORY. */
MUST_CHECK status weight_image_create(const char *key, size_t content_bytes, struct weight_image *out,
                                      struct error *err);
/* The same in memory of this process alone, with huge pages where private memory gets them; it is not to be sealed. */
MUST_CHECK status weight_image_create_private(size_t content_bytes, struct weight_image *out, struct error *err);
/* After the content was written; it stays where it is. On an error the image is closed. */
MUST_CHECK status weight_image_seal(struct weight_image *image, uint64_t shape, struct team *team, struct error *err);
/* ST_CORRUPT with the reason for what is damaged, short, not sealed, or of another key or build; fd stays the caller's
 * then, and is the image's otherwise. */
MUST_CHECK status weight_image_open(int fd, const char *key, size_t content_bytes, struct weight_image *out,
                                    struct error *err);
/* The mapping stays. */
void weight_image_close_fd(struct weight_image *image);
/* Zeros the struct but for fd, which becomes -1. */
void weight_image_close(struct weight_image *image);

/* For those who only pass an image on: it is sealed, and has so many bytes (else 0). */
size_t weight_image_sealed_bytes(int fd);

#endif
